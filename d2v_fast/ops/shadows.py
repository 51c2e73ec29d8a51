"""bfloat16 copies of weights on a CPU, kept from step to step instead of being made anew in each.

Whoever trains says which weights are his (`keep_shadows`). A copy is made where a product first asks for one, and
`adamw_ema_` writes it together with its weight. Anything else that writes a weight leaves its copy behind; torch counts
such writes, so the copy is made again when it is asked for. A write past torch, through `weight.data`, is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

FORMAT = torch.bfloat16


@dataclass
class _Shadow:
    """The copy of one weight, and which state of the weight it is a copy of."""

    numbers: Tensor | None = None
    state: tuple[int, int] | None = None


_kept: Any = WeakTensorKeyDictionary()
"""Weight -> `_Shadow`; an entry goes with its weight."""


def keep_shadows(weights: Iterable[Tensor]) -> None:
    """From now on copies of these are kept, as soon as they are asked for; float32 on a CPU, others are left alone."""
    for weight in weights:
        if weight.is_cpu and weight.dtype == torch.float32 and weight.dim() > 1 and weight not in _kept:
            _kept[weight] = _Shadow()


def forget_shadows(weights: Iterable[Tensor]) -> None:
    """Gives their memory back."""
    for weight in weights:
        _kept.pop(weight, None)


def shadows_of(weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The copies that there are, for `adamw_ema_` to write; `shadows_written` has to follow."""
    found = [_kept.get(weight) for weight in weights]
    return [None if shadow is None else shadow.numbers for shadow in found]


def shadows_written(weights: Iterable[Tensor]) -> None:
    """Says that the copies of these weights were written together with them."""
    for weight in weights:
        shadow = _kept.get(weight)
        if shadow is not None and shadow.numbers is not None:
            shadow.state = _state(weight)


def rounded(weight: Tensor) -> Tensor:
    """`weight.to(torch.bfloat16)`: the copy that is kept, if there is one; the gradient is rounded likewise.

    Args:
        weight: of any shape.

    Returns:
        bfloat16, not to be written.
    """
    # A tensor of the inference mode counts no writes. A graph has torch's own operators.
    kept = None if torch.compiler.is_compiling() or weight.is_inference() else _kept.get(weight)
    if kept is None:
        return weight.to(FORMAT)
    if kept.state != _state(weight):
        with torch.inference_mode(False), torch.no_grad():
            if kept.numbers is None or kept.numbers.shape != weight.shape:
                kept.numbers = torch.empty(weight.shape, dtype=FORMAT, device=weight.device)
            kept.numbers.copy_(weight.detach())
        kept.state = _state(weight)
    assert kept.numbers is not None
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return kept.numbers
    copied: Tensor = _Rounded.apply(weight, kept.numbers)
    return copied


def _state(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()


class _Rounded(torch.autograd.Function):
    """The copy, as a function of its weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, numbers: Tensor) -> Tensor:
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].float(), None
