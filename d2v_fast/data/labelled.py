"""Samples with labels, as they were opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.source import DataSource
from d2v_fast.data.subset import Subset

LabelKind = Literal["class", "multi", "value", "transcript"]
"""One class, any number of classes, a number, or a transcript."""


@dataclass(frozen=True)
class Labelled:
    """A source and what is known about each of its N samples, in its order."""

    source: DataSource
    kind: LabelKind

    labels: Tensor | None = None
    """Classes int64 [N], -1 where there is none; several classes float32 [N, classes] of 0 and 1; values float32 [N],
    nan where there is none. None for transcripts."""

    texts: list[str] | None = None
    """Transcripts, "" where there is none."""

    classes: tuple[str, ...] = ()
    """Their names: class i is classes[i]."""

    groups: np.ndarray | None = None
    """str [N], what belongs together, such as a speaker: samples of one group are never on both sides of a split."""

    problems: Mapping[int, str] | None = None
    """Why a sample has no label that can be used, by its number."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def usable(self) -> np.ndarray:
        """int64, the samples with a label, ascending."""
        return np.array([i for i in range(len(self)) if i not in (self.problems or {})], dtype=np.int64)

    def take(self, samples: np.ndarray | Sequence[int]) -> Labelled:
        """Some of the samples as a source of their own, with their labels.

        Args:
            samples: int64, numbers of samples, in the order that is wanted.
        """
        ids = np.asarray(samples, dtype=np.int64)
        problems = self.problems or {}
        return replace(
            self,
            source=Subset(self.source, ids),
            labels=None if self.labels is None else self.labels[torch.from_numpy(ids)],
            texts=None if self.texts is None else [self.texts[i] for i in ids.tolist()],
            groups=None if self.groups is None else self.groups[ids],
            problems={new: problems[old] for new, old in enumerate(ids.tolist()) if old in problems},
        )

    def counts(self) -> dict[str, int]:
        """How many samples each class has."""
        if self.labels is None or not self.classes:
            return {}
        if self.kind == "multi":
            found = self.labels.sum(0).long()
        else:
            found = torch.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, found.tolist(), strict=True))

    def left_out(self) -> dict[str, int]:
        """How many samples have no usable label, by the reason, without what is particular to one of them."""
        return dict(Counter((self.problems or {}).values()).most_common())
