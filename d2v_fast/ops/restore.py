"""Kept tokens back on the whole grid, with noise where nothing was kept: what a decoder of data2vec 2.0 reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import check_rows, compiled, differentiate, dtype_code, register, serve
from d2v_fast.ops.device import restore as device


def restore(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> Tensor:
    """Puts the kept tokens of N sequences where they came from, and noise at all other places.

    Args:
        tokens: [K, C], float32, float64, bfloat16 or float16.
        kept: int64 [K], the place of each token as a flat index into N * T, ascending and unique; on the device of the
            tokens. The values are checked on the CPU.
        noise: [N * T - K, C], of the dtype of the tokens: row i goes to the i-th place that is not kept.
        samples: N.
        width: T.

    Returns:
        [N, T, C].

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
        TypeError: a dtype that is not supported.
        IndexError: `kept` is out of range, not ascending or not unique.
    """
    _check(tokens, kept, noise, samples, width)
    restored: Tensor = _restore(tokens, kept, noise, samples, width)
    return restored


def _check(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> None:
    """Everything but the values of `kept`."""
    dtype_code(tokens, "tokens")
    if tokens.dim() != 2 or noise.dim() != 2 or noise.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"tokens are {list(tokens.shape)} and noise is {list(noise.shape)}; they must be [K, C] and [N * T - K, C]"
        )
    if kept.dtype != torch.int64 or kept.shape != tokens.shape[:1]:
        raise ValueError(
            f"kept must be int64 [K], an index for each of the {tokens.shape[0]} tokens, got {kept.dtype} "
            f"{list(kept.shape)}"
        )
    if tokens.shape[0] + noise.shape[0] != samples * width:
        raise ValueError(
            f"{tokens.shape[0]} tokens and {noise.shape[0]} rows of noise do not fill {samples} * {width} places"
        )
    if noise.dtype != tokens.dtype:
        raise ValueError(f"noise is {noise.dtype} and the tokens are {tokens.dtype}: convert one")
    if not tokens.device == noise.device == kept.device:
        raise ValueError(
            f"tokens are on {tokens.device}, kept on {kept.device}, noise on {noise.device}: move them to one device"
        )


def _restore_cpu(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> Tensor:
    tokens, kept, noise = tokens.contiguous(), kept.contiguous(), noise.contiguous()
    places, count = samples * width, tokens.shape[0]
    check_rows(kept, places, "kept")
    out = tokens.new_empty(samples, width, tokens.shape[1])
    _C.restore(
        tokens.data_ptr(),
        kept.data_ptr(),
        noise.data_ptr(),
        out.data_ptr(),
        count,
        places,
        tokens.shape[1] * tokens.element_size(),
        torch.get_num_threads(),
    )
    return out


def _restore_fake(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> Tensor:
    return tokens.new_empty(samples, width, tokens.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
    (kept,) = ctx.saved_tensors
    grad = grad.flatten(0, 1)
    of_noise = None
    if ctx.needs_input_grad[2]:
        hidden = torch.ones(len(grad), dtype=torch.bool, device=grad.device).index_fill(0, kept, False)
        of_noise = grad[hidden]
    return grad.index_select(0, kept), None, of_noise, None, None


_restore = register(
    "restore(Tensor tokens, Tensor kept, Tensor noise, SymInt samples, SymInt width) -> Tensor",
    cpu=_restore_cpu,
    cuda=device.restore,
    other=reference.restore,
    fake=_restore_fake,
)
differentiate(_restore, _backward, _save)
serve("restore", cpu=compiled, cuda=device.backend)
