"""Kernels for attention over packed sequences, and the choice between them and padded scaled dot product attention.

* "varlen": torch's own kernel (`torch.nn.attention.varlen`); 16-bit tensors on a GPU, no dropout.
* "xformers": `memory_efficient_attention` with a block-diagonal mask; extra xformers, a GPU, with dropout too.
* "blocks": scaled dot product attention of one sequence after the other: any device; for a CPU, and to compare with.
* "sdpa": not packed; scaled dot product attention over padded rows, the padding masked. It works everywhere.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops.packing import Kernel, Packing, plan_packing

Choice = Literal["auto", "sdpa", "varlen", "xformers", "blocks"]


def blocks(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """One sequence after the other; see `Kernel`."""
    sequences = [x.transpose(0, 1).unsqueeze(0).split(packing.lengths, 2) for x in (query, key, value)]
    mixed = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in zip(*sequences, strict=True)]
    return torch.cat(mixed, 2).squeeze(0).transpose(0, 1)


def varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The kernel of torch for sequences of varying length, which has no dropout; see `Kernel`."""
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError(f"torch's varlen kernel has no dropout, got {dropout}: use xformers or sdpa")
    starts, longest = packing.starts, max(packing.lengths)
    return cast(Tensor, varlen_attn(query, key, value, starts, starts, longest, longest))


def xformers(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The kernels of xformers; see `Kernel`."""
    ops = import_module("xformers.ops")
    row = (x.unsqueeze(0) for x in (query, key, value))
    mixed: Tensor = ops.memory_efficient_attention(*row, attn_bias=block_diagonal_mask(packing), p=dropout)
    return mixed.squeeze(0)


def block_diagonal_mask(packing: Packing) -> Any:
    """The xformers mask of these lengths, on the device of the packing.

    It is made on the CPU and given the sums of the lengths that are on the device already: moving them would wait.
    """
    biases = import_module("xformers.ops.fmha.attn_bias")
    mask = biases.BlockDiagonalMask.from_seqlens(packing.lengths, device=torch.device("cpu"))
    for sequences in (mask.q_seqinfo, mask.k_seqinfo):
        sequences.seqstart = packing.starts
    return mask


KERNELS: dict[str, Kernel] = {"varlen": varlen, "xformers": xformers, "blocks": blocks}
_PREFERRED = {"cuda": ("varlen", "xformers"), "cpu": ("blocks",)}


class Chosen(NamedTuple):
    """What serves the attention over sequences of different lengths."""

    name: str
    """A name of `KERNELS`, or "sdpa"."""

    reason: str
    """Why, and why not another."""


def choose(wanted: Choice, device: torch.device, dtype: torch.dtype, head_dim: int, *, dropout: bool) -> Chosen:
    """The kernel for tensors of this kind: with "auto" the first that works, in the order of this module.

    Args:
        wanted: "auto" or a kernel.
        device: of the tensors.
        dtype: of query, key and value, under autocast its format.
        head_dim: channels of a head.
        dropout: whether attention weights are dropped.

    Raises:
        ValueError: a kernel was asked for by name that does not work here.
    """
    if wanted == "sdpa":
        return Chosen("sdpa", "it was asked for")
    if wanted != "auto":
        fault = _fault(wanted, device, dtype, head_dim, dropout)
        if fault:
            raise ValueError(f"precision.attention is {wanted!r}, which does not work here: {fault}. Use 'auto'")
        return Chosen(wanted, "it was asked for")
    faults: list[str] = []
    for name in _PREFERRED.get(device.type, ()):
        fault = _fault(name, device, dtype, head_dim, dropout)
        if not fault:
            return Chosen(name, "; ".join([*faults, "no work is done on padding"]))
        faults.append(f"{name}: {fault}")
    return Chosen("sdpa", "; ".join(faults) or f"no kernel for packed sequences on {device.type}")


@cache
def _fault(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: bool) -> str:
    """Why a kernel does not serve tensors of this kind, empty if it does: it is run once on two short sequences."""
    if name == "varlen" and dropout:
        return "it has no dropout"
    if name != "blocks" and device.type != "cuda":
        return f"it needs a GPU, not {device.type}"
    packing = plan_packing(torch.tensor([3, 5]), 5, device, KERNELS[name])
    seeds = torch.random.fork_rng([device] if device.type == "cuda" else [])  # the noise of a run must not move
    with seeds, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        tokens = torch.zeros(8, 3, 2, head_dim, dtype=dtype, device=device, requires_grad=True)
        query, key, value = tokens.unbind(1)
        try:
            packing.kernel(query, key, value, packing, 0.1 if dropout else 0.0).sum().backward()
        except ImportError as error:
            return f"not installed ({error.name})"
        except (RuntimeError, NotImplementedError, ValueError) as error:  # kernels say so in different ways
            return str(error).strip().splitlines()[0]
    return ""


def backends() -> dict[str, Chosen]:
    """Which code serves attention over sequences of different lengths on each kind of device, for `d2v-fast info`.

    Returns:
        device type -> `Chosen(name, reason)`, for bfloat16 and heads of 64 channels on a GPU, float32 on the CPU.
    """
    chosen = {"cpu": choose("auto", torch.device("cpu"), torch.float32, 64, dropout=False)}
    if torch.cuda.is_available():
        gpu = torch.device("cuda", torch.cuda.current_device())
        chosen["cuda"] = choose("auto", gpu, torch.bfloat16, 64, dropout=False)
    else:
        chosen["cuda"] = Chosen("sdpa", "no GPU here to try varlen and xformers on")
    return chosen
