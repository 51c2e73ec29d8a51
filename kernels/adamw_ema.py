"""AdamW and the moving average of its parameters, in place, in one pass over memory: a program per chunk of a tensor.

Two tables on the device. A chunk, int64 [chunks, 3], has the number of its tensor, its first element and how many there
are. A row, int64 [tensors, 12], has the addresses of the parameter, gradient, first and second moment, count of steps
(already counted up), teacher, shadow and teacher's shadow (0 where there is none), then four float64 as bits: learning
rate, weight decay, and the logarithms of the two betas. Gradients and learning rates are new at every step.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def adamw_ema(
    rows: tl.tensor,  # int64 [tensors, 12]
    chunks: tl.tensor,  # int64 [chunks, 3]
    gradient_scale: tl.tensor,  # float32 []
    found_inf: tl.tensor,  # float32 []
    decay: tl.tensor,  # float64 []
    first: tl.tensor,  # beta1
    first_weight: tl.tensor,  # 1 - beta1, taken in float64
    second: tl.tensor,  # beta2
    second_weight: tl.tensor,
    eps: tl.tensor,
    TEACHER: tl.constexpr,  # whether something follows
    SHADOW: tl.constexpr,  # the number format of the parameter's shadow, or None
    TEACHER_SHADOW: tl.constexpr,
    ALIGNED: tl.constexpr,  # whether every address is a multiple of 16
    BLOCK: tl.constexpr,
) -> None:
    """One step for a chunk; nothing at all where `found_inf` is not 0."""
    if tl.load(found_inf) == 0.0:
        chunk = chunks + tl.program_id(0) * 3
        row, start, count = rows + tl.load(chunk) * 12, tl.load(chunk + 1), tl.load(chunk + 2).to(tl.int32)
        parameter = tl.load(row).to(tl.pointer_type(tl.float32)) + start
        gradient = tl.load(row + 1).to(tl.pointer_type(tl.float32)) + start
        mean = tl.load(row + 2).to(tl.pointer_type(tl.float32)) + start
        square = tl.load(row + 3).to(tl.pointer_type(tl.float32)) + start
        teacher = tl.load(row + 5).to(tl.pointer_type(tl.float32)) + start
        shadow = tl.load(row + 6).to(tl.pointer_type(tl.float32 if SHADOW is None else SHADOW)) + start
        teacher_shadow = (
            tl.load(row + 7).to(tl.pointer_type(tl.float32 if TEACHER_SHADOW is None else TEACHER_SHADOW)) + start
        )
        if ALIGNED:  # said of the pointers: the compiler forgets what is said of the integers
            parameter, gradient = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16)
            mean, square = tl.multiple_of(mean, 16), tl.multiple_of(square, 16)
            teacher, shadow = tl.multiple_of(teacher, 16), tl.multiple_of(shadow, 16)
            teacher_shadow = tl.multiple_of(teacher_shadow, 16)
        done = tl.load(tl.load(row + 4).to(tl.pointer_type(tl.float32))).to(tl.float64)
        lr = tl.load(row + 8).to(tl.float64, bitcast=True)
        weight_decay = tl.load(row + 9).to(tl.float64, bitcast=True)
        log1, log2 = tl.load(row + 10).to(tl.float64, bitcast=True), tl.load(row + 11).to(tl.float64, bitcast=True)
        # In float64: 1 - 0.999 taken in float32 would be off by 6e-5 of itself.
        rate = (lr / (1.0 - tl.exp(done * log1))).to(tl.float32)
        root = tl.sqrt(1.0 - tl.exp(done * log2)).to(tl.float32)
        shrink = (1.0 - lr * weight_decay).to(tl.float32)
        scale, kept = tl.load(gradient_scale), tl.load(decay)
        keep, move = kept.to(tl.float32), (1.0 - kept).to(tl.float32)
        # Whole blocks carry no mask, as in ema.py.
        full = count // BLOCK * BLOCK
        for begin in range(0, full, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            value = _adamw(
                parameter + at, gradient + at, mean + at, square + at, None, scale, shrink, rate, root, first,
                first_weight, second, second_weight, eps,
            )  # fmt: skip
            _follow(
                value, teacher + at, shadow + at, teacher_shadow + at, None, keep, move, TEACHER, SHADOW, TEACHER_SHADOW
            )
        if full < count:
            at = full + tl.arange(0, BLOCK)
            value = _adamw(
                parameter + at, gradient + at, mean + at, square + at, at < count, scale, shrink, rate, root, first,
                first_weight, second, second_weight, eps,
            )  # fmt: skip
            _follow(
                value, teacher + at, shadow + at, teacher_shadow + at, at < count, keep, move, TEACHER, SHADOW,
                TEACHER_SHADOW,
            )  # fmt: skip


@triton.jit
def _lerp(old: tl.tensor, new: tl.tensor, keep: tl.tensor, move: tl.tensor) -> tl.tensor:
    """From the nearer of the two ends, as in ema.py."""
    from_old = move < 0.5
    near, other = tl.where(from_old, old, new), tl.where(from_old, new, old)
    far = tl.where(from_old, move, keep)
    return tl.where(far == 0.0, near, near + far * (other - near))


@triton.jit
def _adamw(
    parameter: tl.tensor,
    gradient: tl.tensor,
    mean: tl.tensor,
    square: tl.tensor,
    mask: tl.tensor,
    scale: tl.tensor,
    shrink: tl.tensor,  # 1 - learning rate * weight decay
    rate: tl.tensor,  # learning rate / (1 - beta1^steps)
    root: tl.tensor,  # of 1 - beta2^steps
    first: tl.tensor,
    first_weight: tl.tensor,
    second: tl.tensor,
    second_weight: tl.tensor,
    eps: tl.tensor,
) -> tl.tensor:
    """One block; returns the new parameters."""
    value, m = tl.load(parameter, mask=mask), tl.load(mean, mask=mask)
    v, g = tl.load(square, mask=mask), tl.div_rn(tl.load(gradient, mask=mask), scale)
    m = _lerp(m, g, first, first_weight)
    v = v * second + second_weight * g * g
    value = value * shrink - tl.div_rn(rate * m, tl.div_rn(tl.sqrt_rn(v), root) + eps)
    tl.store(parameter, value, mask=mask)
    tl.store(mean, m, mask=mask)
    tl.store(square, v, mask=mask)
    return value


@triton.jit
def _follow(
    value: tl.tensor,
    teacher: tl.tensor,
    shadow: tl.tensor,
    teacher_shadow: tl.tensor,
    mask: tl.tensor,
    keep: tl.tensor,
    move: tl.tensor,
    TEACHER: tl.constexpr,
    SHADOW: tl.constexpr,
    TEACHER_SHADOW: tl.constexpr,
) -> None:
    """The teacher and the shadows of one block."""
    if SHADOW is not None:
        tl.store(shadow, value.to(SHADOW), mask=mask)
    if TEACHER:
        moved = _lerp(tl.load(teacher, mask=mask), value, keep, move)
        tl.store(teacher, moved, mask=mask)
        if TEACHER_SHADOW is not None:
            tl.store(teacher_shadow, moved.to(TEACHER_SHADOW), mask=mask)
