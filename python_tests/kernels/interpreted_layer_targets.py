"""The layer-target kernels in the interpreter: all norms, rows, lengths, strides, awkward sizes and numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_layer_targets

from d2v_fast import reference

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = torch.tensor([37, 12, 1])
ROWS = torch.tensor([0, 3, 5, 36, 37, 48, 49, 74, 75, 110])  # with lengths, some of them are padding


def make(count, batch, frames, channels, dtype=torch.float32, seed=0, spread=2.0, centre=5.0):
    generator = torch.Generator().manual_seed(seed)
    shape = count, batch, frames, channels
    noise = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    return [layer.to(dtype) for layer in noise + torch.randn(channels, generator=generator) * centre]


def check(layers, rows, no_worse_than, **options):
    ours, _ = run_layer_targets(layers, rows, **options)
    exact = reference.layer_targets([layer.double() for layer in layers], rows, **options).flatten(0, -2)
    torchs = reference.layer_targets(layers, rows, **options).flatten(0, -2)
    no_worse_than(ours, torchs, exact)


NORMS = list(itertools.product([None, "layer", "instance", "batch"], [None, "layer"]))


@pytest.mark.parametrize(("layer_norm", "final_norm"), NORMS)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_norms_rows_and_lengths(dtype, layer_norm, final_norm, no_worse_than):
    layers = make(3, 3, 37, 72, dtype)
    options = {"layer_norm": layer_norm, "final_norm": final_norm}
    check(layers, ROWS, no_worse_than, **options)
    check(layers, ROWS, no_worse_than, lengths=LENGTHS, **options)
    if dtype == torch.bfloat16:
        check(layers, None, no_worse_than, lengths=LENGTHS, **options)


@pytest.mark.parametrize("layer_norm", [None, "layer", "instance", "batch"])
def test_padding_is_zero_without_eps_too(layer_norm):
    layers = make(2, 3, 37, 40)
    for layer in layers:
        layer[1, 12:] = torch.nan  # is never read
        layer[2, 1:] = torch.inf
        layer[2, :1] += torch.randn(40)
    out, _ = run_layer_targets(layers, None, layer_norm=layer_norm, final_norm="layer", lengths=LENGTHS, eps=1e-12)
    out = out.view(3, 37, 40)
    assert not out[1, 12:].any()
    assert not out[2, 1:].any()
    assert out[0].isfinite().all()
    assert out[1, :12].isfinite().all()


@pytest.mark.parametrize("layer_norm", ["layer", "instance", "batch"])
@pytest.mark.parametrize("channels", [1, 2, 31, 63, 64, 65, 127, 128, 129, 768])
def test_residues_of_channel_tiles(channels, layer_norm, no_worse_than):
    layers = make(2, 2, 5, channels, torch.bfloat16)
    rows = torch.tensor([0, 4, 7])
    check(layers, rows, no_worse_than, layer_norm=layer_norm, final_norm="layer" if channels > 2 else None)


@pytest.mark.parametrize("layer_norm", ["instance", "batch"])
@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 63, 64, 65, 97])
def test_residues_of_frame_tiles(frames, layer_norm, no_worse_than):
    layers = make(2, 2, frames, 24)
    check(layers, None, no_worse_than, layer_norm=layer_norm)
    check(layers, None, no_worse_than, layer_norm=layer_norm, lengths=torch.tensor([max(1, frames - 1), frames]))


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("layer_norm", [None, "layer", "instance"])
def test_numbers_of_layers(count, layer_norm, no_worse_than):
    check(make(count, 2, 6, 33), torch.tensor([1, 2, 11]), no_worse_than, layer_norm=layer_norm)


@pytest.mark.parametrize("layer_norm", [None, "layer", "instance", "batch"])
def test_frames_first_layout_is_read_in_place(layer_norm, no_worse_than):
    layers = [layer.transpose(0, 1) for layer in make(3, 7, 3, 48, torch.bfloat16)]  # [B, T, C] views of [T, B, C]
    assert layers[0].stride() == (48, 144, 1)
    check(layers, torch.tensor([0, 6, 7, 20]), no_worse_than, layer_norm=layer_norm, lengths=torch.tensor([7, 3, 5]))


@pytest.mark.parametrize("layer_norm", ["instance", "batch"])
@pytest.mark.parametrize("first", ["mean 1000", "outlier"])
def test_no_cancellation_in_the_variance(layer_norm, first, no_worse_than):
    layers = make(2, 2, 200, 16, spread=0.5, centre=1000.0 if first == "mean 1000" else 1.0)
    for layer in layers:
        if first == "outlier":
            layer[:, 0] = 300.0
    rows = torch.tensor([0, 40, 199, 300])
    check(layers, rows, no_worse_than, layer_norm=layer_norm)


def test_a_first_tile_far_from_the_rest_costs_its_share_of_digits():
    frames, tile = 320, launch.statistics_tile().rows
    layers = make(2, 1, frames, 16, spread=0.5, centre=1.0)
    for layer in layers:
        layer[:, :tile] = 1000.0  # the sums of squares are of distances from here
    ours, _ = run_layer_targets(layers)
    exact = reference.layer_targets([layer.double() for layer in layers]).flatten(0, 1)
    error = (ours - exact).abs().max() / exact.abs().max()
    assert error < 4 * frames / tile * torch.finfo(torch.float32).eps


def test_constant_channels_give_zeros():
    layers = [torch.full((2, 40, 8), 3.7) for _ in range(2)]
    for layer_norm in ("instance", "batch", "layer"):
        out, _ = run_layer_targets(layers, layer_norm=layer_norm)
        assert out.abs().max() < 1e-3


def test_a_tile_over_several_samples(no_worse_than):
    layers = make(2, 20, 3, 16)  # 60 rows: two tiles of 32, ten samples each
    check(layers, None, no_worse_than, layer_norm="instance")
    check(layers, torch.tensor([0, 2, 57, 59]), no_worse_than, layer_norm="instance")


def test_only_wanted_bytes_are_read():
    layers = make(4, 2, 50, 128, torch.bfloat16)
    rows = torch.arange(3, 35)  # one tile of one sample
    row = 128 * 2 * 4
    _, (once,) = run_layer_targets(layers, rows, layer_norm="layer", final_norm="layer")
    assert once == (32 * (row + 8), 32 * 128 * 4), "wanted rows of the layers, and the row numbers"
    _, (statistics, targets) = run_layer_targets(layers, rows, layer_norm="instance")
    assert statistics == (100 * row, 2 * 4 * 2 * 128 * 4), "each layer once; mean and scale of each layer and sample"
    assert targets == (32 * (row + 8) + 4 * 128 * 8, 32 * 128 * 4), "wanted rows, and the statistics once for the tile"
