"""A layer of the decoders of data2vec 2.0: grouped convolution, norm, GELU and residual, with channels last."""

from __future__ import annotations

from torch import Tensor

from d2v_fast import reference
from d2v_fast.ops._library import Backend, serve


def decoder_layer(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> Tensor:
    """Convolution over time or a grid, LayerNorm without affine (eps 1e-5), exact GELU, and the input added.

    The convolution keeps the size: zeros on both sides, and of an even kernel the last place of each side is left out.

    Args:
        x: [N, T, C], or [N, H, W, C].
        weight: [D, C / groups, kernel], or [D, C / groups, kernel, kernel], as torch stores it.
        bias: [D].
        groups: of the convolution; divides C and D.
        residual: adds x where C = D; with other channels nothing is added, as released.

    Returns:
        [N, T, D], or [N, H, W, D]; under autocast in its format, where the norm is still computed in float32.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    _check(x, weight, bias, groups)
    return reference.decoder_layer(x, weight, bias, groups, residual)


def _check(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    if x.dim() not in (3, 4) or weight.dim() != x.dim() or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"x is {list(x.shape)}, weight {list(weight.shape)} and bias {list(bias.shape)}; they must be [N, T, C], "
            "[D, C / groups, kernel] and [D], or [N, H, W, C], [D, C / groups, kernel, kernel] and [D]"
        )
    if groups < 1 or x.shape[-1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups is {groups}; it must divide the {weight.shape[0]} channels of the result, and the input must have "
            f"{weight.shape[1]} channels for each group, not {x.shape[-1]} together"
        )
    if len(set(weight.shape[2:])) != 1 or weight.shape[2] < 1:
        raise ValueError(f"weight is {list(weight.shape)}; its kernel must be square")


def _backend() -> Backend:
    return Backend("plain torch", "no kernel yet")


serve("decoder_layer", cpu=_backend, cuda=_backend)
