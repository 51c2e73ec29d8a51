"""The part of worth.py that fine-tunes: from a run and from random weights, on shares of the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from worth_features import PROBES, labelled
from worth_parts import MOST_TUNED, SEEDS, Floor, Part, Question, Worth, few, of_labels

import d2v_fast

SHARES = (0.01, 0.1)
RATES = {"random": (3e-4, 1e-3, 3e-3), "student": (3e-4, 1e-3, 3e-3)}
"""Learning rates of a fine-tuning; the best on a question for choices with 10 % of its labels is taken."""

TUNED = {"random": {"from_scratch": True, "layer_decay": 1.0}, "student": {"network": "student"}}
STEPS = 150


class Studied(Protocol):
    """What of a `worth.Study` is used here."""

    @property
    def out(self) -> Path: ...
    @property
    def quick(self) -> bool: ...
    def data(self, kind: str) -> Worth: ...
    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]: ...
    def run(self, kind: str, seed: int) -> Path: ...
    def chosen(self, kind: str, question: Question) -> Mapping[str, tuple[str, str]]: ...


class Tuning:
    """Fine-tuning of a study's runs."""

    def __init__(self, study: Studied) -> None:
        self.study = study

    def finetune(self, kind: str, seed: int) -> None:
        """Fine-tuned on shares of the labels from the run and from random weights, and the floor with the same ones."""
        made, once = self.study.data(kind), self.study.once
        for one in (few(one, MOST_TUNED, "judge") for one in made.held):
            floor, probe = self.study.chosen(kind, one)["floor"]
            for share in SHARES:
                fit = of_labels(one.fit, share, seed)
                name = f"finetune/{kind}-{one.name}-{share:g}"
                for start in TUNED:
                    lr = self.rate(kind, one.chosen_on, start)
                    once(f"{name}-{start}-{seed}", partial(self.tuned_once, kind, seed, start, lr, one, fit))
                once(f"{name}-floor-{seed}", partial(floor_once, PROBES[probe], made.floors[floor], one, fit))

    def rate(self, kind: str, dev: str, start: str) -> float:
        """The best learning rate of a start, on a question for choices with a tenth of its labels."""

        def make() -> dict[str, Any]:
            one = few(next(one for one in self.study.data(kind).dev if one.name == dev), MOST_TUNED, "judge")
            fit = of_labels(one.fit, 0.1, SEEDS[0])
            rates = RATES[start][:1] if self.study.quick else RATES[start]
            return {"dev": {str(lr): self.tuned(kind, SEEDS[0], start, lr, one, fit) for lr in rates}}

        found: dict[str, float] = self.study.once(f"finetune-dev/{kind}-{dev}-{start}", make)["dev"]
        return float(max(found, key=lambda lr: found[lr]))

    def tuned_once(self, kind: str, seed: int, start: str, lr: float, one: Question, fit: Part) -> dict[str, Any]:
        """What `tuned` reaches, and with what."""
        return {"accuracy": self.tuned(kind, seed, start, lr, one, fit), "lr": lr, "samples": len(fit)}

    def tuned(self, kind: str, seed: int, start: str, lr: float, question: Question, fit: Part) -> float:
        """Accuracy after a fine-tuning to its last step; nothing is held out to choose a checkpoint."""
        name, judge = f"{kind}-{seed}-{question.name}-{len(fit)}-{start}-{lr:g}", question.judge
        run = d2v_fast.finetune(
            self.study.run(kind, seed),
            "classify",
            data=fit.inputs,
            labels=fit.labels.tolist(),
            out=self.study.out / "tuned" / name,
            recipe="classify-tiny",
            steps=4 if self.study.quick else STEPS,
            loader={"batch_size": 16, "holdout": 0.0},
            optim={"lr": lr},
            encoder=TUNED[start],
            seed=seed,
            checkpoint={"every": STEPS},
        )
        found = d2v_fast.finetuning.load(run).evaluate(judge.inputs, labels=judge.labels.tolist(), draws=2)
        accuracy = found.metrics["accuracy"]
        assert accuracy is not None, "every sample has a label"
        return accuracy


def floor_once(probe: Callable[..., np.ndarray], floor: Floor, one: Question, fit: Part) -> dict[str, Any]:
    """What a probe of the raw features reaches with the labels of `fit`."""
    right = probe(*labelled(floor(fit, one.judge), fit, one.judge))
    return {"accuracy": float(right.mean()), "samples": len(fit)}
