"""Exponential moving average of a list of tensors, in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from d2v_fast import reference


def ema_update_(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    decay: float | Tensor,
    shadow: Sequence[Tensor] | None = None,
) -> None:
    """Moves the teacher towards the student: teacher += (1 - decay) * (student - teacher), in place."""
    reference.ema_update_(teacher, student, decay, shadow)
