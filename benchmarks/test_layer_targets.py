"""The targets at data2vec Base: K = 8 layers of [8, 400, 768], half of the frames masked in spans of 10, float32.

The floor counts every input once (instance norm: all frames; layer norm: the masked rows) and the result once.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops

EPS = 1e-5


@pytest.fixture
def case(quick):
    """Layers [B, T, C], the same as [T, B, C], rows [M], the same as a mask [B, T]."""
    count, batch, frames, channels = (2, 2, 40, 48) if quick else (8, 8, 400, 768)
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(batch, frames, channels, generator=generator) for _ in range(count)]
    starts = torch.rand(batch, frames // 10, generator=generator).argsort(dim=1) < frames // 20
    mask = starts.repeat_interleave(10, dim=1)
    rows = mask.flatten().nonzero().flatten()
    return layers, [layer.transpose(0, 1).contiguous() for layer in layers], rows, mask


def mean_of(layers):
    """Python's sum, as fairseq takes it."""
    return sum(layers) / len(layers)


# --- instance norm ---


def instance_time_first(layers, pick):
    """fairseq's order of operations on its [T, B, C] tensors."""
    normed = [F.instance_norm(layer.permute(1, 2, 0).float(), eps=EPS).transpose(1, 2) for layer in layers]
    return pick(mean_of(normed))


def instance_batch_first(layers, pick):
    return pick(mean_of([F.instance_norm(layer.transpose(1, 2), eps=EPS).transpose(1, 2) for layer in layers]))


def instance_statistics(layers, pick):
    total = torch.zeros(())
    for layer in layers:
        variance, mean = torch.var_mean(layer, 1, correction=0, keepdim=True)
        total = total + (layer - mean) * torch.rsqrt(variance + EPS)
    return pick(total / len(layers))


def instance_gathered(layers, rows):
    total, samples = torch.zeros(()), rows // layers[0].shape[1]
    for layer in layers:
        variance, mean = torch.var_mean(layer, 1, correction=0)
        total = total + (layer.flatten(0, 1)[rows] - mean[samples]) * torch.rsqrt(variance + EPS)[samples]
    return total / len(layers)


@pytest.mark.benchmark(group="layer_targets")
@pytest.mark.parametrize("layout", ["BTC", "TBC"])
@torch.no_grad()
def test_instance(case, layout, compare, compiled, size_of):
    layers, time_first, rows, mask = case
    views = [layer.transpose(0, 1) for layer in time_first]

    def ours():
        return ops.layer_targets(layers if layout == "BTC" else views, rows)

    def by_mask(y):
        return y[mask]

    def by_rows(y):
        return y.flatten(0, 1)[rows]

    torch.testing.assert_close(ours(), instance_time_first(time_first, by_mask), rtol=1e-4, atol=1e-5)
    others = {"eager, fairseq's arithmetic on [T, B, C]": lambda: instance_time_first(time_first, by_mask)}
    if layout == "BTC":
        functions = [compiled(f) for f in (instance_time_first, instance_batch_first, instance_statistics)]
        gathered = compiled(instance_gathered)
        others |= {
            "eager, the same on [B, T, C]": lambda: instance_batch_first(layers, by_mask),
            "eager, statistics, gather, normalise": lambda: instance_gathered(layers, rows),
            "torch.compile, fairseq's arithmetic on [T, B, C]": lambda: functions[0](time_first, by_rows),
            "torch.compile, the same on [B, T, C]": lambda: functions[1](layers, by_rows),
            "torch.compile, statistics, normalise": lambda: functions[2](layers, by_rows),
            "torch.compile, statistics, gather, normalise": lambda: gathered(layers, rows),
        }
    moved = size_of(*layers) + rows.numel() * layers[0].shape[2] * 4
    name = f"targets, instance norm, K = {len(layers)} {list(layers[0].shape)}"
    compare(name + (" as [T, B, C]" if layout == "TBC" else ""), ours, others, moved=moved)


# --- layer norm ---


def layer_everywhere(layers, pick):
    """fairseq's order of operations: every row is normalised, then the wanted ones are taken."""
    mean = mean_of([F.layer_norm(layer.float(), layer.shape[-1:], eps=EPS) for layer in layers])
    return pick(F.layer_norm(mean, mean.shape[-1:], eps=EPS))


def layer_gathered(layers, rows):
    gathered = [layer.flatten(0, 1)[rows] for layer in layers]
    mean = mean_of([F.layer_norm(layer, layer.shape[-1:], eps=EPS) for layer in gathered])
    return F.layer_norm(mean, mean.shape[-1:], eps=EPS)


@pytest.mark.benchmark(group="layer_targets")
@torch.no_grad()
def test_layer(case, compare, compiled):
    layers, time_first, rows, mask = case

    def ours():
        return ops.layer_targets(layers, rows, layer_norm="layer", final_norm="layer")

    def by_mask(y):
        return y.transpose(0, 1)[mask]

    def by_rows(y):
        return y.flatten(0, 1)[rows]

    torch.testing.assert_close(ours(), layer_everywhere(time_first, by_mask), rtol=1e-4, atol=1e-5)
    everywhere, gathered = compiled(layer_everywhere), compiled(layer_gathered)
    compare(
        f"targets, layer norm twice, K = {len(layers)} {list(layers[0].shape)}",
        ours,
        {
            "eager, fairseq's arithmetic on [T, B, C]": lambda: layer_everywhere(time_first, by_mask),
            "eager, gather, normalise": lambda: layer_gathered(layers, rows),
            "torch.compile, fairseq's arithmetic on [B, T, C]": lambda: everywhere(layers, by_rows),
            "torch.compile, gather, normalise": lambda: gathered(layers, rows),
        },
        moved=(len(layers) + 1) * rows.numel() * layers[0].shape[2] * 4,
    )


@pytest.mark.benchmark(group="layer_targets")
@pytest.mark.parametrize("norms", ["instance", "layer"])
@torch.no_grad()
def test_bfloat16(case, norms, compare, size_of):
    layers, _, rows, _ = case
    layers = [layer.bfloat16() for layer in layers]
    eager = {"instance": instance_gathered, "layer": layer_gathered}[norms]
    result = rows.numel() * layers[0].shape[2]
    moved = size_of(*layers) if norms == "instance" else 2 * len(layers) * result
    final_norm = None if norms == "instance" else "layer"
    compare(
        f"targets, {norms} norm, bfloat16 layers",
        lambda: ops.layer_targets(layers, rows, layer_norm=norms, final_norm=final_norm),
        {"eager, gather, normalise in float32": lambda: eager([layer.float() for layer in layers], rows)},
        moved=moved + 4 * result,
    )
