"""Scaled dot product attention: over whole sequences, with a bias on the scores, or over a packed row.

Over a packed row (`d2v_fast.ops.packing`) one of these kernels keeps the sequences apart:

* "varlen": torch's own kernel (`torch.nn.attention.varlen`); 16-bit tensors on a GPU, no dropout, no bias.
* "xformers": `memory_efficient_attention` with a block-diagonal mask; extra xformers, a GPU, with dropout, no bias.
* "blocks": scaled dot product attention of one sequence after the other: any device, dropout and bias.
* "sdpa": scaled dot product attention over padded rows, the padding masked: any device, dropout and bias. Where the
  padding alone could be left out, the encoder then does not pack at all.
* "fused": our own (`d2v_fast.ops.fused_attention`), with dropout; on a CPU with a bias, too. A bias by distances is
  always its.

On a CPU our own serves whole sequences as well, but for float64, and for runs that began without it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops._library import Backend, serve
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.fused_attention import earlier_attention, fused_attention, fused_whole
from d2v_fast.ops.packing import Kernel, Packing, plan_packing

Choice = Literal["auto", "sdpa", "varlen", "xformers", "blocks"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | Packing | Distances | None = None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax of the scaled products of queries and keys, times the values (Vaswani et al., 2017).

    Args:
        query: [N, S, heads, D]; packed sequences are [1, S, heads, D].
        key: likewise.
        value: likewise.
        bias: bool (True: may be attended to) or float (added to the scores), broadcast to [N, heads, S, S]; a bias by
            distances; or the packing of the sequences, whose kernel keeps them apart and adds the packing's own bias.
        dropout: probability that a weight is dropped.

    Returns:
        [N, S, heads, D].
    """
    if isinstance(bias, Packing):
        if bias.distances is not None and _fusible(query):
            return fused(query.squeeze(0), key.squeeze(0), value.squeeze(0), bias, dropout).unsqueeze(0)
        return bias.kernel(query.squeeze(0), key.squeeze(0), value.squeeze(0), bias, dropout).unsqueeze(0)
    if isinstance(bias, Distances):
        if _fusible(query):
            return fused_whole(query, key, value, bias, dropout)
        bias = bias.dense(query.shape[1])
    elif _is_ours(query) and not (bias is not None and bias.dtype == torch.bool and bias.shape[-2] > 1):
        return fused_whole(query, key, value, bias, dropout)
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(query.dtype)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout).transpose(1, 2)


def fused(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Our own kernel, which keeps nothing of the size of the scores; see `Kernel`."""
    distances, longest = packing.distances, max(packing.lengths)
    factors, visible = (None, None) if distances is None else (distances.factors, distances.visible)
    places = packing.starts, packing.positions(), factors, longest
    return fused_attention(query, key, value, *places, bias=packing.bias, visible=visible, dropout=dropout)


def _fusible(query: Tensor) -> bool:
    """Whether our own kernel serves; a program for others has torch's operators only."""
    return query.device.type in ("cpu", "cuda") and not torch.compiler.is_exporting()


def _is_ours(query: Tensor) -> bool:
    """Whether our own kernel is taken where torch's serves, too."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # a graph has operators that compilers understand
        return False
    return query.is_cpu and query.dtype != torch.float64 and not earlier_attention.on


def blocks(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """One sequence after the other; see `Kernel`."""
    parts = (x.transpose(0, 1).unsqueeze(0).split(packing.lengths, 2) for x in (query, key, value))
    distances = packing.distances
    positions = None if distances is None else packing.positions().split(packing.lengths)
    shown = None if distances is None or distances.visible is None else distances.visible.split(packing.lengths)
    bias = None if packing.bias is None else packing.bias.to(query.dtype)
    mixed = []
    for n, (q, k, v) in enumerate(zip(*parts, strict=True)):
        length = packing.lengths[n]
        own = None if bias is None else bias[n : n + 1, :, :length, :length]
        if distances is not None and positions is not None:
            own = distances.bias(positions[n]).to(query.dtype).unsqueeze(0)
        if own is not None and shown is not None:
            own = own.masked_fill(~shown[n], -torch.inf)
        mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=own, dropout_p=dropout))
    return torch.cat(mixed, 2).squeeze(0).transpose(0, 1)


def padded(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Padded rows and a mask; sequences of one length need neither; see `Kernel`."""
    samples, longest = len(packing.lengths), max(packing.lengths)
    shape = (samples, longest, *query.shape[1:])
    if packing.distances is not None:
        positions = packing.positions()
        placed = positions.new_full((samples * longest,), -1).index_copy(0, packing.grid(), positions)
        bias, shown = packing.distances.bias(placed.view(samples, longest)), packing.distances.visible
        if shown is not None:
            shown = shown.new_zeros(samples * longest).index_copy(0, packing.grid(), shown)
            bias = bias.masked_fill(~shown.view(samples, 1, 1, longest), -torch.inf)
        packing = replace(packing, bias=bias, distances=None)
    if min(packing.lengths) == longest:
        q, k, v = (x.reshape(shape) for x in (query, key, value))
        return attention(q, k, v, packing.bias, dropout=dropout).flatten(0, 1)
    grid = packing.grid()
    places = torch.arange(longest, dtype=torch.int64, device=query.device)
    valid = (places < packing.starts.diff().unsqueeze(1))[:, None, None, :]
    spread = (x.new_zeros(samples * longest, *x.shape[1:]).index_copy(0, grid, x) for x in (query, key, value))
    q, k, v = (x.view(shape) for x in spread)
    return attention(q, k, v, biased(valid, packing.bias), dropout=dropout).flatten(0, 1).index_select(0, grid)


@overload
def biased(visible: Tensor, bias: Tensor | None) -> Tensor: ...
@overload
def biased(visible: Tensor, bias: Tensor | Distances | None) -> Tensor | Distances: ...
def biased(visible: Tensor, bias: Tensor | Distances | None) -> Tensor | Distances:
    """The mask bool [N, 1, 1, S] and a bias [1 or N, heads, S, S] as one; the mask itself without a bias."""
    if isinstance(bias, Distances):
        return replace(bias, visible=visible[:, 0, 0])
    return visible if bias is None else bias.masked_fill(~visible, -torch.inf)


def varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The kernel of torch for sequences of varying length, which has no dropout and no bias; see `Kernel`."""
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError(f"torch's varlen kernel has no dropout, got {dropout}: use xformers, blocks or sdpa")
    if packing.bias is not None or packing.distances is not None:
        raise ValueError("torch's varlen kernel takes no bias: use blocks or sdpa")
    starts, longest = packing.starts, max(packing.lengths)
    return cast(Tensor, varlen_attn(query, key, value, starts, starts, longest, longest))


def xformers(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The kernels of xformers, which take no bias together with a block-diagonal mask; see `Kernel`."""
    if packing.bias is not None or packing.distances is not None:
        raise ValueError("the block-diagonal mask of xformers takes no bias: use blocks or sdpa")
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


KERNELS: dict[str, Kernel] = {
    "varlen": varlen,
    "xformers": xformers,
    "blocks": blocks,
    "sdpa": padded,
    "fused": fused,
}
_PREFERRED = {"cuda": ("varlen", "xformers"), "cpu": ("blocks",)}
_FOR_GPUS = ("varlen", "xformers")


class Chosen(NamedTuple):
    """What serves the attention over packed sequences."""

    name: str
    """A name of `KERNELS`."""

    reason: str
    """Why, and why not another."""


def choose(
    wanted: Choice,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    *,
    dropout: bool,
    bias: bool = False,
    subset: bool = False,
) -> Chosen:
    """The kernel for tensors of this kind: with "auto" the first that works, in the order of this module.

    Args:
        wanted: "auto" or a kernel.
        device: of the tensors.
        dtype: of query, key and value, under autocast its format.
        head_dim: channels of a head.
        dropout: whether attention weights are dropped.
        bias: whether a bias is added to the scores.
        subset: whether tokens are left out that are no padding (the views of data2vec 2.0).

    Raises:
        ValueError: a kernel was asked for by name that does not work here.
    """
    if wanted == "sdpa":
        return Chosen("sdpa", "it was asked for")
    if wanted != "auto":
        fault = _fault(wanted, device, dtype, head_dim, dropout, bias)
        if fault:
            raise ValueError(f"precision.attention is {wanted!r}, which does not work here: {fault}. Use 'auto'")
        return Chosen(wanted, "it was asked for")
    if device.type == "cpu" and dtype != torch.float64:
        # Where padding alone is left out, torch served with dropout, too: runs have begun with its noise.
        if not earlier_attention.on:
            return Chosen("fused", "faster than torch's, and no work is done on padding")
        if subset and dropout and not bias:
            return Chosen("fused", "dropped weights are drawn again in the backward pass instead of being kept")
    faults: list[str] = []
    for name in _PREFERRED.get(device.type, ()):
        fault = _fault(name, device, dtype, head_dim, dropout, bias)
        if not fault:
            return Chosen(name, "; ".join([*faults, "no work is done on padding"]))
        faults.append(f"{name}: {fault}")
    return Chosen("sdpa", "; ".join(faults) or f"no kernel for packed sequences on {device.type}")


@cache
def _fault(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: bool, bias: bool) -> str:
    """Why a kernel does not serve tensors of this kind, empty if it does: it is run once on two short sequences."""
    if name == "varlen" and dropout:
        return "it has no dropout"
    if name in _FOR_GPUS and bias:
        return "it takes no bias on the scores"
    if name in _FOR_GPUS and device.type != "cuda":
        return f"it needs a GPU, not {device.type}"
    try:
        _try(KERNELS[name], device, dtype, head_dim, dropout, bias)
    except ImportError as error:
        return f"not installed ({error.name})"
    except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:  # they say so in different ways
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def _try(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: bool, bias: bool) -> None:
    """Forward and backward of two short sequences."""
    seeds = torch.random.fork_rng([device] if device.type == "cuda" else [])  # the noise of a run must not move
    with seeds, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        packing = plan_packing(torch.tensor([3, 5], dtype=torch.int64, device="cpu"), 5, device, kernel)
        if bias:
            packing = packing.with_bias(torch.zeros(1, 2, 5, 5, dtype=dtype, device=device))
        tokens = torch.zeros(8, 3, 2, head_dim, dtype=dtype, device=device, requires_grad=True)
        query, key, value = tokens.unbind(1)
        packing.kernel(query, key, value, packing, 0.1 if dropout else 0.0).sum().backward()


def _on_cpu() -> Backend:
    """Sequences of different lengths in float32; the same for the other formats."""
    name, reason = choose("auto", torch.device("cpu"), torch.float32, 64, dropout=False)
    return Backend(f"our own; packed sequences: {name}", reason)


def _on_gpu() -> Backend:
    """Sequences of different lengths in bfloat16, heads of 64 channels, no dropout."""
    if torch.cuda.is_available():
        name, reason = choose("auto", torch.device("cuda"), torch.bfloat16, 64, dropout=False)
    else:
        name, reason = "sdpa", "no GPU here to try varlen and xformers on"
    return Backend(f"scaled_dot_product_attention; packed sequences: {name}", reason)


serve("attention", cpu=_on_cpu, cuda=_on_gpu)
