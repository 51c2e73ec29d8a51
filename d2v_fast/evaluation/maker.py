"""Features of samples out of an encoder: short ones whole, long ones in windows, pooled or for each token."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.data import DataSource
from d2v_fast.errors import SampleError, failed
from d2v_fast.evaluation.ahead import ahead
from d2v_fast.evaluation.embedded import Embedded
from d2v_fast.evaluation.layers import token_features
from d2v_fast.evaluation.windows import Part, Windows
from d2v_fast.log import report
from d2v_fast.models import Encoder
from d2v_fast.models.grouping import grouped


@dataclass(frozen=True)
class Maker:
    """Makes features [N or tokens, layers, C] of the samples of a source."""

    encoder: Encoder
    """In eval mode, of a run."""

    source: DataSource

    layers: Sequence[int]
    """Numbers of layers."""

    pool: str
    """See `embed`."""

    batch_size: int
    """Samples, or windows, in a batch at most."""

    threads: int
    """That read."""

    windows: Windows
    """How long samples are cut."""

    def long(self, numbers: Iterable[int]) -> dict[int, Any]:
        """Those of the samples that are longer than a window."""
        found = ((i, self.windows.long(self.source, i)) for i in numbers)
        return {i: one for i, one in found if one is not None}

    @torch.no_grad()
    def of(self, numbers: Sequence[int], advance: Callable[[int], None] = lambda count: None) -> Embedded:
        """Features of some samples, in their order.

        Args:
            numbers: Which ones, ascending.
            advance: Is told how many more samples are done.
        """
        found: dict[int, Tensor] = {}
        broken: dict[int, SampleError] = {}
        long = self.long(numbers)
        device = next(self.encoder.parameters()).device
        for some, batch in grouped(self._whole(numbers, long, broken, advance), self.batch_size):
            tokens = token_features(self.encoder, batch.to(device), self.layers)
            found.update(zip(some, (tokens.mean(1) if self.pool == "mean" else tokens).cpu(), strict=True))
            advance(len(some))
        found |= self._joined(long, broken, advance)
        order = sorted(found)
        rows = [found[i] for i in order]
        if rows and self.pool == "mean":
            joined = torch.stack(rows)
        else:
            joined = torch.cat(rows or [torch.empty(0, len(self.layers), 0)])
        counts = None if self.pool == "mean" else np.array([len(row) for row in rows], dtype=np.int64)
        names = [self.source.name(i) for i in order]
        reasons = {broken[i].name: broken[i].reason for i in sorted(broken)}
        return Embedded(joined.numpy(), np.array(order, dtype=np.int64), names, counts, reasons)

    def _whole(
        self,
        numbers: Sequence[int],
        long: Container[int],
        broken: dict[int, SampleError],
        advance: Callable[[int], None],
    ) -> Iterator[tuple[int, Tensor]]:
        """The inputs of the samples that are used whole."""
        modality: Any = registry.get(self.source.modality)
        source, encoder = self.source, self.encoder

        def read(i: int) -> tuple[int, Tensor | SampleError]:
            try:
                return i, modality.prepare(source.read(i), encoder.inputs, encoder.config, name=source.name(i))
            except Exception as error:  # whatever it is, it is this sample that cannot be read
                return i, failed(source.name(i), error)

        order = [i for i in _by_length(source, numbers) if i not in long]
        for i, sample in ahead(read, order, self.threads):
            if isinstance(sample, SampleError):
                broken[i] = sample
                report(sample.name, sample.reason)
                advance(1)
            else:
                yield i, sample

    def _joined(
        self, long: Mapping[int, Any], broken: dict[int, SampleError], advance: Callable[[int], None]
    ) -> dict[int, Tensor]:
        """The features of long samples: a sum over their tokens, as it grows, or all tokens."""
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        every: dict[int, list[Tensor]] = {}
        for part, tokens in self._middles(long, broken):
            if self.pool == "none":
                every.setdefault(part.sample, []).append(tokens)
                continue
            sums[part.sample] = sums.get(part.sample, 0) + tokens.double().sum(0)
            counts[part.sample] = counts.get(part.sample, 0) + len(tokens)
        advance(len(long))
        if self.pool == "none":
            return {i: torch.cat(some) for i, some in every.items() if i not in broken}
        return {i: (total / counts[i]).float() for i, total in sums.items() if i not in broken}

    @torch.no_grad()
    def tokens_of(self, number: int, long: Any) -> Iterator[tuple[Embedded, bool]]:
        """(features of some tokens, whether they are the last ones) of one long sample, in their order.

        If it cannot be read to its end, the last part says so, and has no features.
        """
        broken: dict[int, SampleError] = {}
        name, ids = self.source.name(number), np.array([number], dtype=np.int64)
        for part, tokens in self._middles({number: long}, broken):
            yield Embedded(tokens.numpy(), ids, [name], np.array([len(tokens)], dtype=np.int64)), part.last
        if broken:
            nothing = np.empty((0, len(self.layers), 0), dtype=np.float32)
            none = np.empty(0, dtype=np.int64)
            yield Embedded(nothing, none, [], none, {broken[number].name: broken[number].reason}), True

    def _middles(self, long: Mapping[int, Any], broken: dict[int, SampleError]) -> Iterator[tuple[Part, Tensor]]:
        """(window, features float32 [tokens, layers, C] of what it stands for, on the CPU), sample after sample."""
        device = next(self.encoder.parameters()).device

        def failing(number: int, error: SampleError) -> None:
            broken[number] = error
            report(error.name, error.reason)

        batches = self.windows.batches(long.items(), self.batch_size, self.threads, failing, self.source.name)
        for parts, inputs in batches:
            made = token_features(self.encoder, inputs.to(device), self.layers)
            for part, tokens in zip(parts, made, strict=True):
                if part.sample not in broken:
                    yield part, self.windows.middle(part, tokens).cpu().contiguous()


def _by_length(source: DataSource, numbers: Sequence[int]) -> list[int]:
    """Samples of equal size after each other, as far as that is known without reading."""
    sizes = np.asarray(source.sizes)[list(numbers)].reshape(len(numbers), -1)
    order = np.lexsort(sizes.T[::-1])
    return [numbers[i] for i in order.tolist()]
