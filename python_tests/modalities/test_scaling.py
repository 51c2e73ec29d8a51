"""Matrices over time: orientation, gaps, scale."""

import numpy as np
import pytest
import torch

from d2v_fast.data import SampleError
from d2v_fast.modalities.scaling import check_whole, lengths, matrix, scaled


@pytest.mark.parametrize(
    ("shape", "channels", "length"),
    [((100, 4), 4, 100), ((4, 100), 4, 100), ((4, 4), 4, 4), ((3, 4), 4, 3), ((4, 3), 4, 3), ((7, 100), 4, 100)],
)
def test_which_axis_is_time(shape, channels, length):
    assert lengths(np.array([shape, (0, 0)]), channels).tolist() == [length, 0]
    if channels in shape:
        found = matrix(np.arange(shape[0] * shape[1]).reshape(shape), channels, "x")
        assert found.shape == (length, channels)
        assert found.dtype == torch.float32
    else:
        with pytest.raises(SampleError, match=f"x: has {min(shape)} channels, but the model takes {channels}"):
            matrix(np.zeros(shape), channels, "x")


def test_both_ways_are_the_same_recording():
    whole = np.random.default_rng(0).standard_normal((50, 4))
    assert torch.equal(matrix(whole, 4, "x"), matrix(torch.from_numpy(whole.T.copy()), 4, "x"))
    assert torch.equal(matrix(whole[::-1], 4, "x"), matrix(whole[::-1].copy(), 4, "x"))
    assert torch.equal(matrix(whole[:, 0], 1, "x")[:, 0], torch.from_numpy(whole[:, 0]).float())


@pytest.mark.parametrize(
    "sample", [np.zeros((2, 3, 4)), np.zeros((5, 0)), np.zeros((5, 2), bool), np.zeros(3, complex)]
)
def test_what_is_no_matrix_of_numbers(sample):
    with pytest.raises(SampleError, match="it should be numbers"):
        matrix(sample, 2, "x")


def test_gaps_are_named():
    found = torch.randn(400, 3)
    check_whole(found, 100, "x")
    found[150:170, 1] = torch.nan
    with pytest.raises(SampleError, match=r"gap in channel 1 .*: 20 values .* from 150 on, at 1.50 s: fill it"):
        check_whole(found, 100, "x")
    with pytest.raises(SampleError, match="from 150 on: fill it"):
        check_whole(found, None, "x")
    found[3, 2] = torch.inf
    with pytest.raises(SampleError, match=r"at 1.50 s, and more: fill it"):
        check_whole(found, 100, "x")
    found[:, 0] = torch.nan
    with pytest.raises(SampleError, match=r"lacks channel 0 .*no number at all"):
        check_whole(found, 100, "x")


def test_values_beyond_float32_are_a_gap():
    with pytest.raises(SampleError, match="1 values that are no finite float32 from 2 on"):
        check_whole(matrix(np.array([[0.0], [1.0], [1e300]]), 1, "x"), None, "x")


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1.0, 1e30])
def test_normalised_whatever_the_unit(unit):
    given = np.random.default_rng(0).standard_normal((3000, 3)) * [1, 5, 20] + [0, 3, -8]
    whole = torch.from_numpy(given * unit).float()
    each = (given - given.mean(0)) / given.std(0)
    assert np.abs(scaled(whole, "channel", "x").numpy() - each).max() < 1e-4
    joint = (given - given.mean()) / given.std()
    assert np.abs(scaled(whole, "all", "x").numpy() - joint).max() < 1e-4


def test_flat_channels_stay_zero():
    whole = torch.stack([torch.full((1000,), 0.1), torch.randn(1000), torch.zeros(1000)], dim=1)
    found = scaled(whole, "channel", "x")
    assert (found[:, [0, 2]] == 0).all()
    assert abs(float(found[:, 1].std()) - 1) < 0.01
    assert (scaled(torch.full((10, 2), 7.0), "all", "x") == 0).all()


def test_not_normalised():
    whole = torch.randn(10, 2)
    assert scaled(whole, "none", "x") is whole
    with pytest.raises(SampleError, match="whose squares overflow"):
        scaled(whole * 1e20, "none", "x")
