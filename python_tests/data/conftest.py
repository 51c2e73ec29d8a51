from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from torchvision.io import write_jpeg, write_png

from d2v_fast.data import LoaderConfig, SpeechInputs, VisionInputs
from d2v_fast.masking import BlockMask, SpanMask, block_masks, span_masks


def smooth_picture(height, width, seed=0, channels=3):
    """Low frequencies only, so that JPEG keeps it nearly as it is: uint8 [channels, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 5, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return (fine[0].clamp(0, 1) * 255).to(torch.uint8)


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
