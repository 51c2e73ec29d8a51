"""Every odd or broken file is read as it should be or named with its reason, from a folder and by its bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from d2v_fast.data import SampleError, open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.transforms import clip_into
from d2v_fast.modalities.vision.config import VisionInputs

SPEECH = SpeechInputs(min_seconds=0.0)


def outcome(source, i, read):
    try:
        return read(i)
    except SampleError as error:
        return error


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_every_file_of_the_zoo(modality, picture_zoo, clip_zoo):
    zoo = picture_zoo() if modality == "vision" else clip_zoo()
    source = open_source(zoo.root, modality, VisionInputs() if modality == "vision" else SPEECH)
    names = [source.name(i) for i in range(len(source))]
    assert sorted(names) == sorted([*zoo.good, *zoo.bad, *zoo.late])
    for i, name in enumerate(names):
        got = outcome(source, i, source.read)
        if name in zoo.good:
            size = tuple(got.shape[-2:]) if modality == "vision" else len(got)
            assert size == zoo.good[name], name
            assert source.encoded(i) == zoo.bytes(name)
            assert np.array_equal(source.sizes[i], zoo.good[name])
        elif name in zoo.bad:
            assert isinstance(got, SampleError), name
            assert re.search(zoo.bad[name], got.reason), (name, got.reason)
            assert got.name == str(zoo.root / name)
            assert not source.sizes[i].any()
            again = outcome(source, i, source.encoded)
            assert isinstance(again, SampleError)
            assert again.reason == got.reason
        else:
            if not isinstance(got, SampleError):  # what is not finite is seen when it is normalised
                with pytest.raises(SampleError) as caught:
                    clip_into(torch.empty(100), got, 0, len(got), normalize=True, name=name)
                got = caught.value
            assert re.search(zoo.late[name], got.reason), (name, got.reason)


def test_files_that_vanish_grow_or_change_after_the_index(picture_zoo, clip_zoo):
    for zoo, modality, inputs, plain in (
        (picture_zoo(), "vision", VisionInputs(), "plain.jpg"),
        (clip_zoo(), "speech", SPEECH, "plain.flac"),
    ):
        source = open_source(zoo.root, modality, inputs)
        i = [source.name(j) for j in range(len(source))].index(plain)
        path, other = zoo.root / plain, "one pixel.png" if modality == "vision" else "one sample.wav"
        whole = path.read_bytes()
        another = r"bytes, but had \d+ when the data was indexed"
        garbage = b"x" * len(whole)
        for content, reason in (
            (b"", another),
            (zoo.bytes(other), another),
            (garbage, "neither|recogni[sz]ed|unknown"),
            (zoo.bytes(other).ljust(len(whole), b"\0"), "is 1x1, but was 40x50|gives 1 frames"),
        ):
            path.write_bytes(content)
            for read in (source.read, source.encoded):
                got = outcome(source, i, read)
                if modality == "speech" and read == source.encoded and len(content) == len(whole):
                    assert got == content  # whoever decodes it sees that it is another clip
                    continue
                assert isinstance(got, SampleError)
                assert re.search(reason, got.reason), got.reason
        with path.open("wb") as file:
            file.write(whole)
            file.truncate(1 << 40)
        assert re.search("has 1099511627776 bytes, but had", outcome(source, i, source.encoded).reason)
        path.unlink()
        for read in (source.read, source.encoded):
            assert re.search("is gone|No such file", outcome(source, i, read).reason)
