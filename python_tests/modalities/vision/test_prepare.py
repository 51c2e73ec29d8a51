"""A whole picture as the encoder wants it, of whatever a source reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2v_fast import presets, registry
from d2v_fast.errors import SampleError

GREY, COLOUR = presets.vision_tiny(), presets.vision_base()
RNG = np.random.default_rng(0)


def prepare(picture, config):
    return registry.get("vision").prepare(picture, config.inputs, config.model.embedding, name="a.png")


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (3, 8), (30, 1), (4, 3)])
def test_arrays_and_tensors_of_the_same_picture_are_the_same(size):
    grey = RNG.integers(0, 256, size, dtype=np.uint8)
    planes = torch.from_numpy(grey)[None]
    torch.testing.assert_close(prepare(planes, GREY), prepare(grey, GREY), rtol=0, atol=0)
    colour = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    planes = torch.from_numpy(colour).permute(2, 0, 1)
    assert prepare(colour, COLOUR).shape == (3, 224, 224)
    torch.testing.assert_close(prepare(planes, COLOUR), prepare(colour, COLOUR), rtol=0, atol=0)


def test_the_whole_picture_is_standardised_without_jitter():
    picture = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
    expected = (picture / 255 - GREY.inputs.mean[0]) / GREY.inputs.std[0]
    np.testing.assert_allclose(prepare(picture, GREY)[0], expected, atol=1e-6)
    assert COLOUR.inputs.jitter > 0
    picture = RNG.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = (picture / 255 - COLOUR.inputs.mean) / COLOUR.inputs.std
    np.testing.assert_allclose(prepare(picture, COLOUR).permute(1, 2, 0), expected, atol=1e-6)


def test_colour_is_made_grey_and_grey_colour_as_in_a_run():
    colour = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = np.rint(colour @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    torch.testing.assert_close(prepare(colour, GREY), prepare(grey, GREY), rtol=0, atol=0.02)
    torch.testing.assert_close(prepare(grey, COLOUR), prepare(grey[..., None].repeat(3, 2), COLOUR))


@pytest.mark.parametrize(
    "picture", [np.zeros((8, 8), np.float32), np.zeros((3, 224, 224), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)]
)
def test_what_is_no_picture_is_named(picture):
    with pytest.raises(SampleError, match=r"a\.png: "):
        prepare(picture, GREY)
