"""What the data of worth.py is made of: a corpus without labels, questions with them, and the floors beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2v_fast import rng
from d2v_fast.demo.task import content_hash

SEEDS = (0, 1, 2)
MOST_TUNED = 2000
"""Samples that a fine-tuning, the floor beside it and a point of the curve are judged by."""


@dataclass(frozen=True)
class Part:
    """N samples with labels."""

    inputs: Sequence[Any]
    """As `d2v_fast.evaluation.extract` takes them."""

    labels: np.ndarray
    """[N] strings."""

    groups: np.ndarray | None = None
    """[N] strings: samples of one group are not independent; None if all are."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Sequence[int] | np.ndarray) -> Part:
        """Some of the samples."""
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, inputs=[self.inputs[int(i)] for i in chosen], labels=self.labels[chosen], groups=groups)


@dataclass(frozen=True)
class Question:
    """Which of some classes a sample is of: what probes are fitted on, and what they are judged by."""

    name: str
    about: str
    fit: Part
    judge: Part
    chosen_on: str = ""
    """Of a held-out question: the question for choices on which features, probe and floor are chosen for it."""


Floor = Callable[[Part, Part], tuple[np.ndarray, np.ndarray]]
"""(fit, judge) to features of both that need no network, float32 [N, F]; only `fit` may teach it anything."""


@dataclass(frozen=True)
class Worth:
    """All of a modality."""

    preset: str
    changes: Mapping[str, Any]
    """What the data asks of the preset, such as the size of its pictures: dotted names of fields to values."""

    corpus: Any
    """What is pretrained on: a source or a path."""

    dev: tuple[Question, ...]
    """Everything is chosen on these."""

    held: tuple[Question, ...]
    """Nothing is chosen on these."""

    floors: Mapping[str, Floor]


def part(found: Sequence[tuple[Any, str, str]], *, grouped: bool) -> Part:
    """Of (input, label, group)."""
    inputs, labels, groups = zip(*found, strict=True)
    return Part(list(inputs), np.array(labels), np.array(groups) if grouped else None)


def share(name: str) -> float:
    """A number in [0, 1) that the name decides: what is held out is the same everywhere."""
    return content_hash(name.encode()) / 2.0**64


def few(question: Question, count: int, *parts: str) -> Question:
    """So many samples of the parts ("fit", "judge"; both if none is named) at even distances, of each class alike."""

    def cut(one: Part) -> Part:
        order = np.argsort(one.labels, kind="stable")
        return one.take(order[np.linspace(0, len(one) - 1, min(count, len(one))).astype(int)])

    return replace(question, **{name: cut(getattr(question, name)) for name in parts or ("fit", "judge")})


def check(worth: Worth, content: Callable[[Any], bytes]) -> None:
    """Refuse a sample to judge by that is also learned from, a held-out one that is used for choices, shared groups.

    A held-out question without a counterpart is refused, too.

    Raises:
        SystemExit: There is one.
    """

    def of(questions: Sequence[Question], name: str) -> dict[bytes, str]:
        return {content(sample): one.name for one in questions for sample in getattr(one, name).inputs}

    every = (*worth.dev, *worth.held)
    for question in worth.held:
        if question.chosen_on not in {one.name for one in worth.dev}:
            raise SystemExit(f"{question.name}: {question.chosen_on!r} is no question for choices")
    kinds = {
        "judged by and learned from": (of(every, "judge"), of(every, "fit")),
        "held out and used for choices": (of(worth.held, "judge"), of(worth.dev, "judge")),
    }
    for what, (first, second) in kinds.items():
        for sample in first.keys() & second.keys():
            raise SystemExit(f"a sample is {what}: of {first[sample]} and of {second[sample]}")
    for question in every:
        if question.judge.groups is not None and question.fit.groups is not None:
            for group in set(question.judge.groups) & set(question.fit.groups):
                raise SystemExit(f"{question.name}: {group!r} is in both parts")


def of_labels(one: Part, wanted: float, seed: int) -> Part:
    """That share of each class, at least one sample; other seeds take others."""
    draws = rng.uniform(seed, "worth labels", 0, np.arange(len(one), dtype=np.int64), 1)[:, 0]
    chosen: list[int] = []
    for label in np.unique(one.labels):
        members = np.flatnonzero(one.labels == label)
        order = members[np.argsort(draws[members], kind="stable")]
        chosen += order[: max(1, round(wanted * len(members)))].tolist()
    return one.take(sorted(chosen))
