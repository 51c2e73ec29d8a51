"""The teacher's step over the tensors of data2vec Base (93.8 M parameters), float32."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops

DECAY = 0.999


def base_shapes(quick: bool) -> list[tuple[int, ...]]:
    """Speech Base: 232 tensors; with `quick` a model of the same build that is a hundred times smaller."""
    layers, width, channels = (2, 48, 32) if quick else (12, 768, 512)
    shapes: list[tuple[int, ...]] = [(channels, 1, 10)] + [(channels, channels, 3)] * 4 + [(channels, channels, 2)] * 2
    shapes += [(channels,)] * 16  # the norms of the convolutions and of their result
    shapes += [(width, channels), (width,), (width,)]  # projection into the encoder, mask embedding
    shapes += [(width, width // 16, 19), (width,)] * 5  # positions
    for _ in range(layers):
        shapes += (
            [(width, width), (width,)] * 4
            + [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
            + [(width,)] * 4
        )
    return [*shapes, (width,), (width,), (width, width), (width,)]


def lists(quick: bool, *, shadow: bool = False):
    shapes = base_shapes(quick)
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(shape, generator=generator) for shape in shapes]
    student = [torch.randn(shape, generator=generator) for shape in shapes]
    copies = [torch.empty(shape, dtype=torch.bfloat16) for shape in shapes] if shadow else None
    return teacher, student, copies


def mul_add(teacher, student):
    """The arithmetic of fairseq's EMAModule: two passes per tensor."""
    for mean, sample in zip(teacher, student, strict=True):
        mean.mul_(DECAY).add_(sample, alpha=1 - DECAY)


def lerp_loop(teacher, student):
    for mean, sample in zip(teacher, student, strict=True):
        mean.lerp_(sample, 1 - DECAY)


@pytest.mark.benchmark(group="ema")
def test_ema(compare, compiled, quick, size_of):
    teacher, student, _ = lists(quick)
    flat_teacher, flat_student = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (teacher, student))

    def flat(mean, sample):
        mean.lerp_(sample, 1 - DECAY)

    compiled_list, compiled_flat = compiled(lerp_loop), compiled(flat)
    with torch.no_grad():
        compare(
            f"EMA, {sum(tensor.numel() for tensor in teacher) / 1e6:.1f} M parameters, {len(teacher)} tensors",
            lambda: ops.ema_update_(teacher, student, DECAY),
            {
                "mul_ + add_ (fairseq's arithmetic)": lambda: mul_add(teacher, student),
                "lerp_, tensor by tensor": lambda: lerp_loop(teacher, student),
                "torch._foreach_lerp_": lambda: torch._foreach_lerp_(teacher, student, 1 - DECAY),
                "torch.compile, the list": lambda: compiled_list(teacher, student),
                "torch.compile, one flat buffer": lambda: compiled_flat(flat_teacher, flat_student),
            },
            moved=2 * size_of(*teacher) + size_of(*student),
        )


@pytest.mark.benchmark(group="ema")
def test_ema_that_no_cache_holds(compare, quick, size_of):
    """One flat buffer: the second pass of `mul_` and `add_` finds nothing in a cache, unlike for tensors of 9 MB."""
    teacher, student, _ = lists(quick)
    teacher, student = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (teacher, student))
    compare(
        "EMA, the same as one flat tensor",
        lambda: ops.ema_update_([teacher], [student], DECAY),
        {"mul_ + add_ (fairseq's arithmetic)": lambda: mul_add([teacher], [student])},
        moved=2 * size_of(teacher) + size_of(student),
    )


@pytest.mark.benchmark(group="ema")
def test_ema_with_shadow(compare, quick, size_of):
    teacher, student, shadow = lists(quick, shadow=True)

    def foreach():
        torch._foreach_lerp_(teacher, student, 1 - DECAY)
        torch._foreach_copy_(shadow, teacher)

    with torch.no_grad():
        compare(
            "EMA with a bfloat16 shadow",
            lambda: ops.ema_update_(teacher, student, DECAY, shadow),
            {"torch._foreach_lerp_ + torch._foreach_copy_": foreach},
            moved=2 * size_of(*teacher) + size_of(*student, *shadow),
        )
