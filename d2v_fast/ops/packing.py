"""Some tokens of N sequences in one row, without the others: padding left out, or a subset kept; and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d2v_fast.ops._library import check_rows
from d2v_fast.ops.distances import Distances

Kernel = Callable[[Tensor, Tensor, Tensor, "Packing", float], Tensor]
"""query, key, value [S, heads, D], packing, dropout -> [S, heads, D]; a token attends to its own sequence only, and the
packing's bias is added to the scores."""


@dataclass(frozen=True)
class Packing:
    """Where the kept tokens of N sequences of width T stand in one row of S tokens.

    Sequence n is tokens starts[n] to starts[n + 1] of that row: first `extra` tokens that are put before every sequence
    (a class token), then its K_n kept tokens in their order. What works on each token alone (norms, linear maps, GELU)
    sees S tokens instead of N * (extra + T); attention is `kernel`'s. Leaving the padding out and keeping a subset
    differ in `index` alone.
    """

    lengths: list[int]
    """Tokens of each sequence, extra + K_n."""

    width: int
    """T."""

    index: Tensor
    """int64 [K], flat indices of the kept tokens into N * T, ascending."""

    starts: Tensor
    """int32 [N + 1], sums of the lengths."""

    kernel: Kernel
    """The attention over the packed row."""

    extra: int = 0
    """Tokens put before every sequence."""

    places: Tensor | None = None
    """int64 [K], where the kept tokens stand in the packed row; None: at 0 ... K - 1, as there are no extra ones."""

    order: Tensor | None = None
    """int64 [S], what stands in the packed row: n * extra + e for extra token e of sequence n, N * extra + k for kept
    token k; None without extra tokens."""

    bias: Tensor | None = None
    """[N, heads, L, L] with L the largest of `lengths`: added to the scores between the first tokens of each sequence;
    see `with_bias`."""

    distances: Distances | None = None
    """A bias by the distance between kept tokens; see `with_bias`."""

    def pack(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """[N, T, C], and [E, C] tokens to put before every sequence, to [1, S, C].

        Of x there may be fewer rows, [N / V, T, C]: then row n of it is that of the V sequences from n * V on.
        """
        index = self.index
        if len(x) != len(self.lengths):
            views = len(self.lengths) // len(x)
            index = index // (views * self.width) * self.width + index % self.width
        tokens = x.flatten(0, 1).index_select(0, index)
        if extra is not None:
            tokens = self._in_order(extra.to(x.dtype).repeat(len(self.lengths), 1), tokens)
        return tokens.unsqueeze(0)

    def tokens(self, x: Tensor) -> Tensor:
        """[1, S, C] to [K, C], the kept tokens in their order."""
        tokens = x.squeeze(0)
        return tokens if self.places is None else tokens.index_select(0, self.places)

    def extra_tokens(self, x: Tensor) -> Tensor | None:
        """[1, S, C] to [N, E, C], the extra tokens; None if there are none."""
        if not self.extra:
            return None
        number = torch.arange(self.extra, dtype=torch.int64, device=x.device)
        places = (self.starts[:-1].long().unsqueeze(1) + number).flatten()
        return x.squeeze(0).index_select(0, places).view(len(self.lengths), self.extra, -1)

    def unpack(self, x: Tensor) -> Tensor:
        """[1, S, C] to [N, T, C] without the extra tokens, zero where a token was not kept."""
        tokens = self.tokens(x)
        flat = x.new_zeros(len(self.lengths) * self.width, x.shape[2])
        return flat.index_copy(0, self.index, tokens).view(len(self.lengths), self.width, x.shape[2])

    def rows(self, rows: Tensor) -> Tensor:
        """int64 [M], flat indices of kept tokens into N * T, to their places in the packed row.

        Raises:
            ValueError: a token was not kept; looked for on the CPU only.
        """
        number = torch.searchsorted(self.index, rows.contiguous())
        if rows.is_cpu:
            missing = torch.isin(rows, self.index, invert=True).nonzero()
            if len(missing):
                at = int(missing[0])
                raise ValueError(
                    f"rows[{at}] is {int(rows[at])}, a token that was not kept (padding, or left out by `kept`): an "
                    "output can be asked for at kept tokens only"
                )
        return number if self.places is None else self.places.index_select(0, number)

    def spread(self, x: Tensor) -> Tensor:
        """One value for each sequence, [N, 1, 1], to one for each token, [1, S, 1]."""
        counts = self.starts.diff().long()
        return torch.repeat_interleave(x.view(-1, 1), counts, 0, output_size=sum(self.lengths)).unsqueeze(0)

    def grid(self) -> Tensor:
        """int64 [S]: where each token of the packed row stands in N padded rows of the largest of `lengths`, flat."""
        starts, longest = self.starts.long(), max(self.lengths)
        first = torch.arange(len(self.lengths), dtype=torch.int64, device=starts.device) * longest - starts[:-1]
        places = torch.arange(sum(self.lengths), dtype=torch.int64, device=starts.device)
        return places + self.spread(first).flatten()

    def positions(self) -> Tensor:
        """int64 [S]: where each token of the packed row stands in its whole sequence; -1 for extra tokens."""
        positions = self.index % self.width
        if self.order is None:
            return positions
        return self._in_order(positions.new_full((len(self.lengths) * self.extra,), -1), positions)

    def with_bias(self, bias: Tensor | Distances) -> Packing:
        """The same packing with a bias on the attention scores.

        Args:
            bias: [1 or N, heads, extra + T, extra + T], between any two tokens of a sequence, kept or not; or the
                distances between them, with what is visible of [N, T].
        """
        if isinstance(bias, Distances):
            if bias.visible is not None:
                visible = bias.visible.flatten().index_select(0, self.index)
                if self.order is not None:
                    visible = self._in_order(visible.new_ones(len(self.lengths) * self.extra), visible)
                bias = replace(bias, visible=visible)
            return replace(self, distances=bias)
        samples, size = len(self.lengths), self.extra + self.width
        tokens = self.index % self.width + self.extra
        if self.order is not None:
            first = torch.arange(self.extra, dtype=torch.int64, device=tokens.device).repeat(samples)
            tokens = self._in_order(first, tokens)
        # Where the packed row's tokens stand in the whole sequences; 0 behind the end of a short one.
        padded = tokens.new_zeros(samples * max(self.lengths)).index_copy(0, self.grid(), tokens)
        padded = padded.view(samples, -1)
        pairs = (padded.unsqueeze(2) * size + padded.unsqueeze(1)).flatten(1)
        heads, longest = bias.shape[1], padded.shape[1]
        scores = bias.flatten(2)
        if len(bias) == 1:
            scores = scores[0].index_select(1, pairs.flatten()).view(heads, samples, -1).transpose(0, 1)
        else:
            scores = scores.gather(2, pairs.unsqueeze(1).expand(-1, heads, -1))
        return replace(self, bias=scores.reshape(samples, heads, longest, longest))

    def _in_order(self, extra: Tensor, tokens: Tensor) -> Tensor:
        """[N * E, ...] and [K, ...] to [S, ...]."""
        assert self.order is not None, "a packing without extra tokens"
        return torch.cat([extra, tokens]).index_select(0, self.order)


def plan_packing(lengths: Tensor, width: int, device: torch.device, kernel: Kernel, extra: int = 0) -> Packing:
    """The packing that leaves out the padding of sequences whose lengths are known on the host.

    Nothing waits for the device.

    Args:
        lengths: int64 [N] on the CPU, valid tokens of each sequence.
        width: T, the padded length.
        device: of the sequences.
        kernel: the attention over the packed row.
        extra: tokens put before every sequence.

    Raises:
        ValueError: the lengths are on another device, where reading them would stop the host.
    """
    if not lengths.is_cpu:
        raise ValueError(f"lengths are on {lengths.device}; packing needs them on the CPU")
    valid = torch.arange(width, device="cpu") < lengths.unsqueeze(1)
    return _plan(valid.flatten().nonzero().flatten(), len(lengths), width, device, kernel, extra)


def plan_kept(kept: Tensor, samples: int, width: int, device: torch.device, kernel: Kernel, extra: int = 0) -> Packing:
    """The packing of a subset of the tokens, as many of each sequence as one likes.

    Args:
        kept: int64 [K] on the CPU, flat indices into N * T, ascending and unique.
        samples: N.
        width: T.
        device: of the sequences.
        kernel: the attention over the packed row.
        extra: tokens put before every sequence.

    Raises:
        ValueError: `kept` is on another device, where reading it would stop the host, or not int64 [K].
        IndexError: an index is out of range, not ascending or not unique.
    """
    if not kept.is_cpu:
        raise ValueError(f"kept is on {kept.device}; packing needs it on the CPU")
    if kept.dtype != torch.int64 or kept.dim() != 1:
        raise ValueError(f"kept must be int64 [K], flat indices into N * T, got {kept.dtype} {list(kept.shape)}")
    kept = kept.contiguous()
    check_rows(kept, samples * width, "kept")
    return _plan(kept, samples, width, device, kernel, extra)


def _plan(kept: Tensor, samples: int, width: int, device: torch.device, kernel: Kernel, extra: int) -> Packing:
    sequence = kept // width
    counts = torch.bincount(sequence, minlength=samples) + extra
    starts = torch.zeros(samples + 1, dtype=torch.int32, device="cpu")
    torch.cumsum(counts, 0, out=starts[1:])
    places = order = None
    if extra:
        number = torch.arange(len(kept), dtype=torch.int64, device="cpu")
        places = number + (sequence + 1) * extra
        order = torch.empty(len(kept) + samples * extra, dtype=torch.int64, device="cpu")
        order[places] = number + samples * extra
        first = starts[:-1, None] + torch.arange(extra, dtype=torch.int64, device="cpu")
        order[first.flatten()] = torch.arange(samples * extra, dtype=torch.int64, device="cpu")
        places, order = to_device(places, device), to_device(order, device)
    lengths: list[int] = counts.tolist()
    return Packing(lengths, width, to_device(kept, device), to_device(starts, device), kernel, extra, places, order)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for it: a copy from memory that is not pinned would."""
    if device.type == "cuda" and tensor.is_cpu and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
