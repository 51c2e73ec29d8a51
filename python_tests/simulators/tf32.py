"""What TF32 does to float32 products, on a CPU: the operands lose all but 10 bits of mantissa, the sums stay float32.

An NVIDIA GPU computes so where `torch.set_float32_matmul_precision("high")` allows it, for matrix products and
convolutions. How it rounds is not documented for every generation; here it is to the nearest, ties away from zero, as
PTX's cvt.rna.tf32 does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DROPPED = 23 - 10
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "linear", "strided_convolution", "front_layer")


def round_to_tf32(x: Tensor) -> Tensor:
    """float32 with 10 bits of mantissa, rounded to nearest; infinities and NaN stay."""
    bits = x.contiguous().view(torch.int32)
    rounded = ((bits + (1 << (_DROPPED - 1))) & -(1 << _DROPPED)).view(torch.float32)
    return torch.where(torch.isfinite(x), rounded, x)


class Tf32(TorchDispatchMode):
    """`with Tf32():` rounds the operands of every float32 product. `products` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.__name__.partition(".")[0]
        if "scaled_dot_product" in name:
            raise NotImplementedError(f"{name} hides its products: choose SDPBackend.MATH")
        if name in _PRODUCTS:
            added = name in ("addmm", "baddbmm")  # whose first operand is only added
            given = [isinstance(x, Tensor) and x.dtype == torch.float32 for x in args]
            if any(given[added:]):
                self.products += 1
                args = tuple(
                    round_to_tf32(x) if float32 and i in range(added, added + 2) else x
                    for i, (x, float32) in enumerate(zip(args, given, strict=True))
                )
        return function(*args, **(kwargs or {}))
