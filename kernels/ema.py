"""Exponential moving average of a list of tensors, in place, in one launch: one program per row of a table of chunks.

The table is int64 [chunks, 4] on the device: addresses of the chunk in the teacher, the student and the shadow (0 where
there is none), and its number of elements; `launch.ema_groups` makes its rows. Addresses instead of arguments: one
launch for a whole model, and nothing to pass again when a CUDA graph is replayed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ema_update(
    table: tl.tensor,  # int64 [chunks, 4]
    decay: tl.tensor,  # float64 [1]: 1 - 0.9999 taken in float32 would be off by 1.7e-4 of itself
    STUDENT: tl.constexpr,  # the student's number format; the teacher's is float32
    SHADOW: tl.constexpr,  # the shadow's, or None: there is none
    ALIGNED: tl.constexpr,  # whether every address of the table is a multiple of 16
    BLOCK: tl.constexpr,
) -> None:
    """Moves the teacher by (1 - decay) * (student - teacher) and writes the new one to the shadow too."""
    chunk = table + tl.program_id(0) * 4
    teacher = tl.load(chunk).to(tl.pointer_type(tl.float32))
    student = tl.load(chunk + 1).to(tl.pointer_type(STUDENT))
    shadow = tl.load(chunk + 2).to(tl.pointer_type(tl.float32 if SHADOW is None else SHADOW))
    count = tl.load(chunk + 3).to(tl.int32)
    if ALIGNED:  # said of the pointer: the compiler forgets what is said of the integer
        teacher, student, shadow = tl.multiple_of(teacher, 16), tl.multiple_of(student, 16), tl.multiple_of(shadow, 16)
    keep = tl.load(decay)
    move = 1.0 - keep
    # Whole blocks carry no mask: with one, and a count that is read from memory, every access would be scalar.
    full = count // BLOCK * BLOCK
    for start in range(0, full, BLOCK):
        at = start + tl.arange(0, BLOCK)
        _move(teacher + at, student + at, shadow + at, None, keep.to(tl.float32), move.to(tl.float32), SHADOW)
    if full < count:
        at = full + tl.arange(0, BLOCK)
        _move(teacher + at, student + at, shadow + at, at < count, keep.to(tl.float32), move.to(tl.float32), SHADOW)


@triton.jit
def _move(
    teacher: tl.tensor,
    student: tl.tensor,
    shadow: tl.tensor,
    mask: tl.tensor,
    keep: tl.tensor,
    move: tl.tensor,
    SHADOW: tl.constexpr,
) -> None:
    """One block, from the nearer of the two ends: the rounding error shrinks with the way `far` that is left to go."""
    old = tl.load(teacher, mask=mask)
    sample = tl.load(student, mask=mask).to(tl.float32)
    from_teacher = move < 0.5
    near, other = tl.where(from_teacher, old, sample), tl.where(from_teacher, sample, old)
    far = tl.where(from_teacher, move, keep)
    # Decay 0 copies and decay 1 keeps every bit, beside infinities and NaN too.
    new = tl.where(far == 0.0, near, near + far * (other - near))
    tl.store(teacher, new, mask=mask)
    if SHADOW is not None:
        tl.store(shadow, new.to(SHADOW), mask=mask)
