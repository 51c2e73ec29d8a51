from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torchvision.io import write_jpeg, write_png

from d2v_fast.data import Loader, LoaderConfig, SpeechInputs, VisionInputs, open_source
from d2v_fast.masking import BlockMask, SpanMask, block_masks, span_masks

_spec = importlib.util.spec_from_file_location("zoo", Path(__file__).with_name("zoo.py"))
zoo = importlib.util.module_from_spec(_spec)
sys.modules["zoo"] = zoo  # for its dataclass
_spec.loader.exec_module(zoo)
smooth_picture = zoo.smooth


@pytest.fixture
def picture_zoo(tmp_path):
    """Pictures of every kind, odd and broken, and what to make of each; `extra_good` adds plain ones."""
    return partial(zoo.make_pictures, tmp_path / "picture zoo")


@pytest.fixture
def clip_zoo(tmp_path):
    """The same of clips."""
    return partial(zoo.make_clips, tmp_path / "clip zoo")


@pytest.fixture
def tar_zoo(tmp_path):
    """The same of tar shards of pictures."""
    return partial(zoo.make_tars, tmp_path / "tar zoo")


@pytest.fixture
def picture():
    return smooth_picture


@pytest.fixture
def pictures(tmp_path):
    """Ten JPEG and PNG files of different sizes in a folder with subfolders."""
    root = tmp_path / "pictures"
    for i in range(10):
        path = root / f"class {i % 3}" / f"{i}.{'JPG' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_jpeg if i % 2 else write_png)(smooth_picture(40 + 3 * i, 70 - 2 * i, i), str(path))
    return root


@pytest.fixture
def clips(tmp_path):
    """Twelve clips of 0.4 to 1.5 s at 16 and 8 kHz: WAV, FLAC and OGG."""
    root = tmp_path / "clips"
    root.mkdir()
    noise = np.random.default_rng(0)
    for i in range(12):
        rate = 8000 if i % 4 == 3 else 16000
        clip = 0.2 * noise.standard_normal(int(rate * (0.4 + 0.1 * i)))
        soundfile.write(root / f"{i:02}.{('wav', 'flac', 'ogg')[i % 3]}", clip, rate)
    return root


@pytest.fixture
def vision_inputs():
    return VisionInputs()


@pytest.fixture
def speech_inputs():
    return SpeechInputs(min_seconds=0.1, max_seconds=1.0)


@pytest.fixture
def loader_config():
    """A factory, because tests differ in two or three fields."""
    return partial(LoaderConfig, batch_size=4, threads=2, prefetch=2)


@pytest.fixture
def picture_masks():
    def make(inputs, lengths, sample_ids, epoch):
        return block_masks(BlockMask(count=8, min_area=2), (4, 4), seed=5, epoch=epoch, sample_ids=sample_ids)

    return make


@pytest.fixture
def clip_masks():
    def make(inputs, lengths, sample_ids, epoch):
        frames = [inputs.shape[1] // 320] * len(inputs)
        return span_masks(SpanMask(length=3), frames, seed=5, epoch=epoch, sample_ids=sample_ids)

    return make


@pytest.fixture
def vision(pictures, picture_masks):
    """vision(source, **settings) -> a loader of `pictures`, or of another source."""

    def make(source=None, **config):
        source = source or open_source(pictures, "vision", VisionInputs())
        config = LoaderConfig(**{"batch_size": 5} | config)
        return Loader(source, inputs=VisionInputs(), config=config, seed=0, masks=picture_masks, image_size=16)

    return make
