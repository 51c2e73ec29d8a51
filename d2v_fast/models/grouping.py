"""Samples of one shape together: batches without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_AHEAD = 8
"""Batches whose samples may be in memory while they wait for others of their shape."""

_ELEMENTS = 1 << 24
"""Numbers in a batch at most, if it has more than one sample: 64 MB of float32."""


def grouped(samples: Iterable[tuple[int, Tensor]], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers, inputs [B, ...]) of samples of one shape.

    Nothing is padded: the released position convolutions let padding leak into the frames before it, so with padding
    a clip's features would depend on its neighbours in the batch. Samples are taken when they are needed; those of
    equal shape should follow each other closely.

    Args:
        samples: (number, input without a batch dimension).
        batch_size: Samples in a batch at most; fewer where they are large.
    """
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    held = elements = 0
    for i, sample in samples:
        group = waiting.setdefault(sample.shape, [])
        group.append((i, sample))
        held, elements = held + 1, elements + sample.numel()
        full = len(group) >= batch_size or len(group) * sample.numel() > _ELEMENTS - sample.numel()
        if not full and held < _AHEAD * batch_size and elements < _AHEAD * _ELEMENTS:
            continue
        shape = sample.shape if full else max(waiting, key=lambda shape: len(waiting[shape]))
        group = waiting.pop(shape)
        held, elements = held - len(group), elements - len(group) * group[0][1].numel()
        yield _stacked(group)
    for group in waiting.values():
        yield _stacked(group)


def _stacked(group: list[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    return [i for i, _ in group], torch.stack([sample for _, sample in group])
