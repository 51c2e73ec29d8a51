"""What goes wrong while loading: broken samples, failing sources, settings that make no sense."""

from __future__ import annotations

import gc
import shutil
import sys

import numpy as np
import pytest
import torch
from loading import make_loader

from d2v_fast.data import ArraySource, DataError, LoaderConfig, SampleError, TooManySkipped, open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs


def test_a_broken_file_shrinks_its_batch_and_shifts_nothing(vision, pictures, capsys):
    with vision() as loader:
        whole = [loader.step(n)[0] for n in range(6)]
    source = open_source(pictures, "vision", VisionInputs())
    path = pictures / source.name(4)
    path.write_bytes(path.read_bytes()[:-40])  # broken in the data: the header is read as before
    for again in (source, open_source(pictures, "vision", VisionInputs())):
        capsys.readouterr()
        with vision(again) as loader:
            found = [loader.step(n)[0] for n in range(6)]
            assert loader.skipped == 3
        error = capsys.readouterr().err
        assert error.count("skipped") == 1
        assert str(path) in error
        assert ("truncated" if again is not source else "bytes, but had") in error
        for before, after in zip(whole, found, strict=True):
            keep = before.sample_ids != 4
            assert after.skipped == int((~keep).sum())
            assert torch.equal(before.sample_ids[keep], after.sample_ids)
            assert torch.equal(before.inputs[keep], after.inputs)
            assert torch.equal(before.mask[keep], after.mask)


@pytest.mark.parametrize("damage", ["empty", "gone", "text", "header"])
def test_a_file_that_breaks_while_training(vision, pictures, capsys, damage):
    source = open_source(pictures, "vision", VisionInputs())
    path = pictures / source.name(7)
    content = {"empty": b"", "text": b"no picture", "header": path.read_bytes()[:10]}
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[damage])
    with vision(source) as loader:
        assert sum(loader.step(n)[0].skipped for n in range(2)) == 1
    assert f"skipped {path}: " in capsys.readouterr().err


def test_an_unreadable_header_is_skipped_and_counted(vision, pictures, capsys):
    (pictures / "zz.png").write_bytes(b"")
    with vision() as loader:
        skipped = sum(loader.step(n)[0].skipped for n in range(10))
        assert loader.skipped == skipped
        assert 3 <= skipped <= 5  # in five epochs, each of which drops one of 11 samples
    assert capsys.readouterr().err.count("zz.png: is empty") == 1


def test_a_batch_without_a_readable_sample_is_empty(vision, pictures):
    """Batches of one: a broken file is no reason to stop."""
    source = open_source(pictures, "vision", VisionInputs())
    (pictures / source.name(4)).unlink()
    with vision(source, batch_size=1) as loader:
        batches = [loader.step(n)[0] for n in range(10)]
        assert loader.skipped == 1
    assert sorted(len(batch.sample_ids) for batch in batches) == [0] + [1] * 9
    (empty,) = (batch for batch in batches if batch.skipped)
    assert empty.rows is None
    assert len(empty.inputs) == 0


def test_an_unreadable_sample_is_left_out_of_the_validation(vision, pictures):
    source = open_source(pictures, "vision", VisionInputs())
    with vision(source, holdout=0.3, batch_size=1) as loader:
        held_out = [batch.sample_ids.item() for batch in loader.validation()]
        (pictures / source.name(held_out[1])).unlink()
        assert [batch.sample_ids.item() for batch in loader.validation()] == [held_out[0], held_out[2]]
        assert loader.skipped == 1


def test_vanished_files_stop_the_run(vision, pictures):
    source = open_source(pictures, "vision", VisionInputs())
    shutil.rmtree(pictures)
    told = r"4 of 10 samples cannot be read, .* No such file.*; and 1 more\. .*--loader.max-skipped 0.8"
    with vision(source, batch_size=2) as loader:
        assert len(loader.step(0)[0].sample_ids) == 0
        with pytest.raises(TooManySkipped, match=told):
            loader.step(1)


class Failing(ArraySource):
    """Reading sample 3 fails in a way that nobody foresaw."""

    def __init__(self, error):
        super().__init__("vision", np.zeros((8, 16, 16, 3), np.uint8), names=[f"name {i}" for i in range(8)])
        self._error = error

    def read(self, index):
        if index == 3:
            raise self._error
        return super().read(index)


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("oh"), MemoryError(), AssertionError("why"), KeyError("k"), DataError("x"), OSError(5, "io")],
)
def test_any_error_of_ones_own_source_is_the_samples_failure(vision, capsys, error):
    with vision(Failing(error), batch_size=8) as loader:
        (batch,) = loader.step(0)
        loader.step(1)
    assert batch.skipped == 1
    assert len(batch.sample_ids) == 7
    told = capsys.readouterr().err
    assert told.startswith(f"d2v-fast: skipped name 3: reading it failed: {type(error).__name__}")
    assert len(told.splitlines()) == 1


def test_a_failure_keeps_nothing_of_its_batch_alive(vision):
    """Its traceback would hold the tensors of every function on the way (154 MB for a batch of the Base recipe)."""
    marker = np.zeros(3)

    class Odd(Failing):
        def read(self, index):
            big = marker if index == 3 else None
            if big is not None:
                raise RuntimeError("oh")
            return super().read(index)

    before = sys.getrefcount(marker)
    with vision(Odd(RuntimeError("oh")), batch_size=8) as loader:
        loader.step(0)
        (error,) = loader._broken._reasons.values()
        assert error.__traceback__ is None
        assert error.__context__ is None
        assert error.__cause__ is None
        loader._coming.clear()
        gc.collect()
        assert sys.getrefcount(marker) == before


def test_a_sample_error_of_ones_own_source_is_skipped(vision, capsys):
    with vision(Failing(SampleError("name 3", "is odd")), batch_size=8) as loader:
        assert loader.step(0)[0].skipped == 1
        loader.step(1)
    assert capsys.readouterr().err == "d2v-fast: skipped name 3: is odd\n"


def test_an_error_in_the_mask_maker_reaches_the_caller(pictures):
    def masks(inputs, lengths, sample_ids, epoch):
        raise RuntimeError("no mask")

    source = open_source(pictures, "vision", VisionInputs())
    config = LoaderConfig(batch_size=5)
    with make_loader(source, inputs=VisionInputs(), config=config, seed=0, masks=masks, image_size=16) as loader:
        for n in (0, 1, 0):
            with pytest.raises(RuntimeError, match="no mask"):
                loader.step(n)


def test_nan_samples_are_named(clip_masks, capsys):
    noise = np.random.default_rng(0).standard_normal((6, 3200)).astype(np.float32)
    noise[2, 100] = np.nan
    inputs = SpeechInputs(min_seconds=0.1)
    source = ArraySource("speech", noise)
    with make_loader(source, inputs=inputs, config=LoaderConfig(batch_size=6), seed=0, masks=clip_masks) as loader:
        (batch,) = loader.step(0)
    assert sorted(batch.sample_ids.tolist()) == [0, 1, 3, 4, 5]
    assert (
        capsys.readouterr().err
        == "d2v-fast: skipped 2: has samples that are not finite numbers, or are too large for float32\n"
    )


def test_clips_whose_variance_overflows_are_named(clip_masks, capsys):
    noise = np.random.default_rng(0).standard_normal((6, 3200)).astype(np.float32)
    noise[2] *= 1e30
    inputs, source = SpeechInputs(min_seconds=0.1), ArraySource("speech", noise)
    with make_loader(source, inputs=inputs, config=LoaderConfig(batch_size=6), seed=0, masks=clip_masks) as loader:
        (batch,) = loader.step(0)
    assert sorted(batch.sample_ids.tolist()) == [0, 1, 3, 4, 5]
    assert batch.inputs.isfinite().all()
    assert "skipped 2: has samples of up to" in capsys.readouterr().err


def test_short_clips_are_left_out_and_told(clips, clip_masks, capsys):
    inputs = SpeechInputs(min_seconds=0.75)
    source = open_source(clips, "speech", inputs)
    with make_loader(source, inputs=inputs, config=LoaderConfig(batch_size=2), seed=0, masks=clip_masks) as loader:
        ids = {i for n in range(loader.batches_per_epoch) for i in loader.step(n)[0].sample_ids.tolist()}
        assert loader.left_out == 4
    assert ids == set(range(4, 12))
    assert "left out 4 of 12 clips, shorter than inputs.min_seconds" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"no clip is as long as inputs.min_seconds 9.0 \(the longest has 1.50 s\)"):
        make_loader(source, inputs=SpeechInputs(min_seconds=9.0), config=LoaderConfig(), seed=0, masks=clip_masks)
