"""The teacher's step on a GPU over the tensors of data2vec Base, float32, with and without a bfloat16 copy."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops

DECAY = 0.999


def base_shapes(quick: bool) -> list[tuple[int, ...]]:
    """Speech Base without its convolutions: matrices hold its parameters, and vectors are most of its tensors."""
    layers, width = (2, 48) if quick else (12, 768)
    block = [(width, width), (width,)] * 4 + [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return (block + [(width,)] * 4) * layers + [(width, width // 16, 19), (width,)] * 5


def randn(device, shapes, seed, dtype=torch.float32):
    generator = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]


@pytest.mark.benchmark(group="gpu ema")
@pytest.mark.parametrize("low", [None, torch.bfloat16], ids=["float32", "bfloat16 shadow"])
@torch.no_grad()
def test_ema(compare_on_gpu, compiled, rotate, gpu, quick, low):
    shapes = base_shapes(quick)
    count = sum(torch.Size(shape).numel() for shape in shapes)
    moved = count * (12 if low is None else 14)
    decay = torch.full((), DECAY, dtype=torch.float64, device=gpu)

    def make(seed):
        shadow = None if low is None else randn(gpu, shapes, seed + 200, low)
        return randn(gpu, shapes, seed), randn(gpu, shapes, seed + 100), shadow

    sets = rotate(make, moved)

    def each(function):
        return lambda turn: function(*sets[turn % len(sets)])

    def mul_add(teacher, student, shadow):
        for mean, sample in zip(teacher, student, strict=True):
            mean.mul_(DECAY).add_(sample, alpha=1 - DECAY)
        if shadow is not None:
            torch._foreach_copy_(shadow, teacher)

    def foreach(teacher, student, shadow):
        torch._foreach_lerp_(teacher, student, 1 - DECAY)
        if shadow is not None:
            torch._foreach_copy_(shadow, teacher)

    compare_on_gpu(
        f"EMA, {count / 1e6:.1f} M parameters, {len(shapes)} tensors" + (", bfloat16 shadow" if low else ""),
        each(lambda teacher, student, shadow: ops.ema_update_(teacher, student, decay, shadow)),
        {
            "mul_ + add_ (fairseq's arithmetic)": each(mul_add),
            "torch._foreach_lerp_": each(foreach),
            "torch.compile, the list": each(compiled(foreach)),
        },
        moved=moved,
    )
