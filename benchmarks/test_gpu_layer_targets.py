"""The targets on a GPU at data2vec Base: K = 8 layers of [8, 400, 768], half of the frames, bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops

EPS = 1e-5


def everywhere(layers, rows):
    """Instance norm of every frame, then the rows: the released code's order of operations."""
    normed = [F.instance_norm(layer.float().transpose(1, 2), eps=EPS).transpose(1, 2) for layer in layers]
    return (sum(normed) / len(layers)).flatten(0, 1).index_select(0, rows)


def gathered(layers, rows):
    """Statistics of every frame, then the rows alone are normalised."""
    total, samples = 0.0, rows // layers[0].shape[1]
    for layer in layers:
        variance, mean = torch.var_mean(layer.float(), 1, correction=0)
        part = layer.flatten(0, 1).index_select(0, rows).float()
        total = total + (part - mean[samples]) * torch.rsqrt(variance + EPS)[samples]
    return total / len(layers)


def layer_norms(layers, rows):
    """Layer norm of the rows, twice, as the text recipe has it."""
    parts = [layer.flatten(0, 1).index_select(0, rows).float() for layer in layers]
    mean = sum(F.layer_norm(part, part.shape[-1:], eps=EPS) for part in parts) / len(parts)
    return F.layer_norm(mean, mean.shape[-1:], eps=EPS)


@pytest.mark.benchmark(group="gpu layer_targets")
@pytest.mark.parametrize("norm", ["instance", "layer"])
@torch.no_grad()
def test_targets(compare_on_gpu, compiled, rotate, gpu, quick, norm):
    count, batch, frames, channels = (2, 2, 40, 48) if quick else (8, 8, 400, 768)
    rows = (torch.arange(batch * frames // 20) * 20)[:, None] + torch.arange(10)  # half of the frames, in spans of 10
    rows = rows.flatten().to(gpu)
    read = batch * frames if norm == "instance" else len(rows)
    moved = count * read * channels * 2 + len(rows) * channels * 4

    def make(seed):
        generator = torch.Generator(gpu).manual_seed(seed)
        shape = (batch, frames, channels)
        return [torch.randn(shape, generator=generator, device=gpu).bfloat16() for _ in range(count)]

    sets = rotate(make, moved)

    def each(function):
        return lambda turn: function(sets[turn % len(sets)], rows)

    final = "layer" if norm == "layer" else None
    baselines = {"eager, layer norms of the rows": layer_norms}
    if norm == "instance":
        baselines = {"eager, fairseq's order": everywhere, "eager, statistics, gather, normalise": gathered}
    ours = each(lambda layers, rows: ops.layer_targets(layers, rows, layer_norm=norm, final_norm=final))
    for function in baselines.values():
        torch.testing.assert_close(ours(0), function(sets[0], rows), rtol=1e-3, atol=1e-3)
    compare_on_gpu(
        f"targets, {norm} norm, K = {count} {[batch, frames, channels]}, bfloat16",
        ours,
        {name: each(function) for name, function in baselines.items()}
        | {name.replace("eager", "torch.compile"): each(compiled(function)) for name, function in baselines.items()},
        moved=moved,
    )
