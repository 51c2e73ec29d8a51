"""The numbers of a demo: a table on the terminal and demo.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.demo.outcome import Outcome
from d2v_fast.evaluation import standard_error

PROBE_NAMES = {"knn": "kNN", "logistic": "logistic regression"}


def names(outcome: Outcome) -> dict[str, str]:
    """What was judged, in words."""
    return {
        "raw": outcome.task.floor,
        "random": "random initialisation",
        "student": "student",
        "teacher": "teacher",
    }


def summary(outcome: Outcome) -> dict[str, Any]:
    """Accuracies, gains over the random initialisation, standard errors; all shares in [0, 1], made for JSON."""
    groups = outcome.task.test.groups

    def entry(values: np.ndarray) -> dict[str, float]:
        return {"mean": float(values.mean()), "standard_error": standard_error(values, groups)}

    random = outcome.correct["random"]
    return {
        "accuracy": {
            name: {probe: entry(correct.astype(float)) for probe, correct in probes.items()}
            for name, probes in outcome.correct.items()
        },
        "gain_over_random": {
            name: {probe: entry(outcome.correct[name][probe].astype(float) - random[probe]) for probe in random}
            for name in ("student", "teacher")
        },
    }


def write_json(outcome: Outcome, path: Path) -> None:
    """demo.json: what was done, the accuracies and the seconds."""
    task = outcome.task
    content = {
        "modality": task.source.modality,
        "preset": task.preset,
        "steps": outcome.config.steps,
        "label": task.label,
        "classes": len(task.classes),
        "train_samples": len(task.train),
        "test_samples": len(task.test),
        "test_groups": None if task.test.groups is None else len(np.unique(task.test.groups)),
        "features": "mean" if task.test.positions is None else "hidden position",
        "floor": task.floor,
        "about": task.about,
        **summary(outcome),
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def print_table(outcome: Outcome) -> None:
    """The accuracies, one line for each kind of features."""
    from rich.console import Console
    from rich.table import Table

    task, numbers = outcome.task, summary(outcome)
    table = Table(
        title=f"{task.label}: {len(task.classes)} classes, {len(task.test)} test samples", title_justify="left"
    )
    table.add_column("features")
    for probe in PROBE_NAMES.values():
        table.add_column(f"{probe}, %", justify="right")

    def row(name: str, entries: dict[str, dict[str, float]], sign: str = "") -> None:
        cells = (f"{100 * e['mean']:{sign}.1f} ± {100 * e['standard_error']:.1f}" for e in entries.values())
        table.add_row(name, *cells)

    for key, name in names(outcome).items():
        row(name, numbers["accuracy"][key])
    table.add_section()
    for key, entries in numbers["gain_over_random"].items():
        row(f"{key} - random", entries, "+")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    errors = "standard errors" if task.test.groups is None else "standard errors, by held-out voice"
    where = "the mean over all positions of the encoder's output"
    if task.test.positions is not None:
        where = "the encoder's output at the hidden position"
    where = "mean over all positions" if task.test.positions is None else "hidden position"
    print(
        f"± {errors}; differences are paired. Features: the encoder's output, {where}.\n"
        + ", ".join(f"{name} {value:.0f} s" for name, value in outcome.seconds.items())
    )
