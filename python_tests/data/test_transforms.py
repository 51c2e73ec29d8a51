from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from d2v_fast.data import SampleError
from d2v_fast.modalities.speech.transforms import clip_into
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.transforms import jitter_, picture_into

PLAIN = VisionInputs(mean=(0.0,) * 3, std=(1.0,) * 3, jitter=0)
NONE = np.ones(3)


def made(picture, box, side=32, flip=False, colours=NONE, inputs=PLAIN):
    out = torch.empty(len(inputs.mean), side, side)
    size = picture.shape[1:] if isinstance(picture, torch.Tensor) else picture.shape[:2]
    picture_into(out, picture, np.array(box), flip, colours, np.array(size), inputs, "x")
    return out


@pytest.mark.parametrize("box", [(0, 0, 90, 120), (5, 7, 60, 80), (10, 20, 33, 47), (0, 0, 10, 8), (3, 3, 32, 32)])
def test_crop_and_resize_are_as_pillow_has_them(picture, box):
    image = picture(90, 120)
    top, left, height, width = box
    reference = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    reference = np.asarray(reference.resize((32, 32), Image.Resampling.BICUBIC)).astype(float)
    ours = made(image, box).permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - reference).max() <= 2
    assert np.abs(ours - reference).mean() <= 0.3


def test_resizing_is_as_torchvision_has_it(picture):
    image = picture(90, 120)
    bicubic = v2.InterpolationMode.BICUBIC
    expected = v2.resized_crop(image, 5, 7, 60, 80, [32, 32], interpolation=bicubic, antialias=True)
    assert (made(image, (5, 7, 60, 80)) * 255 - expected).abs().max() <= 1


def test_no_resize_leaves_every_value(picture):
    image = picture(40, 50)
    assert torch.allclose(made(image, (3, 4, 32, 32)) * 255, image[:, 3:35, 4:36].float(), atol=1e-4)


def test_flip_mirrors_left_and_right(picture):
    image = picture(40, 50)
    assert torch.equal(made(image, (1, 2, 20, 30), flip=True), made(image, (1, 2, 20, 30)).flip(2))


def test_normalisation(picture):
    image, inputs = picture(32, 32), VisionInputs(jitter=0)
    expected = v2.normalize(image.float() / 255, list(inputs.mean), list(inputs.std))
    assert torch.allclose(made(image, (0, 0, 32, 32), inputs=inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    "factors", [(1.3, 1, 1), (0.7, 1, 1), (1, 1.4, 1), (1, 0.6, 1), (1, 1, 1.4), (1, 1, 0), (1.2, 0.8, 1.3)]
)
def test_jitter_is_as_torchvision_has_it_in_this_order(picture, factors):
    image = picture(40, 40)
    expected = image.float() / 255
    for change, factor in zip((v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation), factors, strict=True):
        expected = change(expected, factor)
    ours = image.float()
    jitter_(ours, np.array(factors))
    assert (ours - expected * 255).abs().max() < 0.1  # torchvision's grey weights are rounded to four places


def test_jitter_of_ones_changes_nothing(picture):
    image = picture(20, 20).float()
    ours = image.clone()
    jitter_(ours, NONE)
    assert torch.allclose(ours, image, atol=1e-3)


def test_jitter_is_for_colours_only(picture):
    grey = VisionInputs(mean=(0.0,), std=(1.0,), jitter=0.4)
    image = picture(32, 32, channels=1)
    assert torch.equal(made(image, (0, 0, 32, 32), colours=np.full(3, 0.6), inputs=grey) * 255, image.float())


def test_arrays_and_tensors_and_channels(picture):
    image = picture(32, 32)
    box = (0, 0, 32, 32)
    array = image.permute(1, 2, 0).numpy()
    assert torch.equal(made(array, box), made(image, box))
    alpha = np.concatenate([array, np.full((32, 32, 1), 7, np.uint8)], axis=2)
    assert torch.equal(made(alpha, box, inputs=replace(PLAIN, background=None)), made(image, box))
    assert not torch.equal(made(alpha, box), made(image, box))
    grey = array[..., 0]
    assert torch.equal(made(grey, box), made(np.stack([grey] * 3, axis=2), box))
    assert torch.equal(made(grey[..., None], box), made(grey, box))
    one = VisionInputs(mean=(0.0,), std=(1.0,))
    luma = np.asarray(Image.fromarray(array).convert("L")).astype(float)
    assert np.abs(made(image, box, inputs=one)[0].numpy() * 255 - luma).max() <= 1
    one = replace(one, background=None)
    assert torch.equal(made(np.stack([grey, grey], axis=2), box, inputs=one), made(grey, box, inputs=one))


@pytest.mark.parametrize(
    ("picture_", "reason"),
    [
        (np.zeros((32, 32, 3), np.float32), r"is torch.float32 \[3, 32, 32\]; a picture is uint8"),
        (np.zeros((32, 32, 5), np.uint8), "has 5 channels, the model takes 3"),
        (np.zeros(32, np.uint8), "a picture is uint8 with two or three dimensions"),
    ],
)
def test_pictures_that_do_not_fit(picture_, reason):
    with pytest.raises(SampleError, match=reason):
        picture_into(torch.empty(3, 32, 32), picture_, np.array([0, 0, 32, 32]), False, NONE, (32, 32), PLAIN, "x")


def test_a_picture_of_another_size_than_the_source_said(picture):
    with pytest.raises(SampleError, match="is 30x40, but the source said 40x30"):
        picture_into(torch.empty(3, 8, 8), picture(30, 40), np.array([0, 0, 8, 8]), False, NONE, (40, 30), PLAIN, "x")


def window(clip, start, length, normalize=True):
    out = torch.empty(length)
    clip_into(out, clip, start, len(clip), normalize=normalize, name="x")
    return out.numpy()


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_the_whole_clip_is_normalised_before_the_window(dtype):
    clip = np.random.default_rng(0).normal(0.1, 0.2, 5000).clip(-1, 1)
    clip = (clip * 32767).astype(np.int16) if dtype == np.int16 else clip.astype(dtype)
    wave = clip / 32768 if dtype == np.int16 else clip
    wave = wave.astype(np.float64)
    expected = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-5)
    assert np.abs(window(clip, 1000, 300) - expected[1000:1300]).max() < 1e-5
    assert np.abs(window(clip, 0, 5000, normalize=False) - wave).max() < 1e-7


def test_silence_stays_silent():
    assert (window(np.zeros(100, np.int16), 0, 100) == 0).all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value, normalize):
    clip = np.zeros(100, np.float32)
    clip[77] = value
    with pytest.raises(SampleError, match="not finite"):
        window(clip, 0, 10, normalize)


def test_clips_that_do_not_fit():
    with pytest.raises(SampleError, match="has 9 samples, but the source said 10"):
        clip_into(torch.empty(5), np.zeros(9, np.float32), 0, 10, normalize=True, name="x")
    with pytest.raises(SampleError, match=r"is torch.int32 \[10\]"):
        clip_into(torch.empty(5), np.zeros(10, np.int32), 0, 10, normalize=True, name="x")
    with pytest.raises(SampleError, match=r"is torch.float32 \[10, 2\]"):
        clip_into(torch.empty(5), np.zeros((10, 2), np.float32), 0, 10, normalize=True, name="x")
