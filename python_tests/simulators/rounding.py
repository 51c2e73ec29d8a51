"""How results are rounded: what a comparison of largest errors, two units wide, cannot see."""

from __future__ import annotations

import torch
from torch import Tensor


def check_rounded(ours: Tensor, exact: Tensor, part: int = 16) -> None:
    """A 16-bit result is the exact one rounded to nearest even, but for fewer than 1/part of its numbers (and one).

    The kernels compute in float32, whose own errors move few numbers across the middle between two 16-bit ones; a
    rounding toward zero moves half of them.

    Args:
        ours: Any shape; formats other than bfloat16 and float16 are not looked at.
        exact: float64, the same shape.
        part: larger where float32 is used for a product or two alone, whose errors move next to nothing.

    Raises:
        AssertionError: More numbers differ.
    """
    if ours.dtype.itemsize != 2:
        return
    wrong = int((ours != exact.to(ours.dtype)).sum())
    assert wrong <= 1 + ours.numel() // part, f"{wrong} of {ours.numel()} numbers are not the exact ones rounded"


def check_moved_from_the_nearer_end(ours: Tensor, teacher: Tensor, student: Tensor, decay: float) -> None:
    """The moving average's error shrinks with the way that is left to go from the nearer of the two ends.

    The result is rounded once, and the difference of the two ends, of which the smaller share is taken, once as well.
    From the farther end the error would be that of the larger share.

    Args:
        ours: float32, the new teacher.
        teacher: float32, before.
        student: Any format; a float64 one is taken as float32.
        decay: Of the teacher.

    Raises:
        AssertionError: Names the largest error in units of what is allowed.
    """
    if ours.dtype != torch.float32:
        return
    mean, sample = teacher.double(), student.float().double()
    exact = mean + (1 - decay) * (sample - mean)
    half = torch.finfo(torch.float32).eps / 2
    allowed = 1.01 * half * exact.abs() + 3 * min(decay, 1 - decay) * half * (sample - mean).abs() + 1e-44
    worst = ((ours.double() - exact).abs() / allowed).max().item() if ours.numel() else 0.0
    assert worst <= 1, f"an error {worst:.2f} times what the nearer end leaves"
