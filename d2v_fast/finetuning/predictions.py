"""What a fine-tuned network says about samples, and how good that is: as objects, and as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.errors import ConfigError
from d2v_fast.files import exists, write_whole
from d2v_fast.finetuning.tasks import SupervisedTask

FORMATS = (".jsonl", ".csv")
"""How predictions are written."""


@dataclass(frozen=True)
class Windowed:
    """What a network says about the windows of a long sample."""

    times: np.ndarray
    """float64 [W, 2], begin and end of what each stands for, in seconds (of text: tokens)."""

    values: np.ndarray
    """float64 [W, K], as in `Predictions`."""


@dataclass(frozen=True)
class Predictions:
    """What a network says about N samples, in the order of their source."""

    names: tuple[str, ...]
    """[N]."""

    values: np.ndarray
    """float64 [N, K]: a probability for each class, or a value; nan where a sample could not be read. Of transcripts
    object [N], `Transcript` or None."""

    classes: tuple[str, ...]
    """[K], names of the classes; empty for values."""

    problems: dict[int, str]
    """Why a sample could not be read, by its number."""

    task: SupervisedTask
    """What they mean."""

    windows: Mapping[int, Windowed] = field(default_factory=dict)
    """Of long samples, by their numbers: what the network says about each window. Of transcripts none."""

    def __len__(self) -> int:
        return len(self.names)

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each sample: "name", then what the task says (`label`, `value`, ...), or "error".

        A long sample has "windows", too: a dictionary for each, with "begin" and "end" in seconds (of text: tokens).
        """
        return [
            {"name": name} | ({"error": self.problems[i]} if i in self.problems else self._said(i))
            for i, name in enumerate(self.names)
        ]

    def _said(self, i: int) -> dict[str, Any]:
        said = self.task.describe(self.values[i])
        if i not in self.windows:
            return said
        one = self.windows[i]
        windows = [
            {"begin": round(begin, 3), "end": round(end, 3), **self.task.describe(value)}
            for (begin, end), value in zip(one.times.tolist(), one.values, strict=True)
        ]
        return said | {"windows": windows}

    def write(self, path: str | Path) -> Path:
        """Write them, whole or not at all: a JSON object a line (.jsonl), or a table (.csv).

        In the table, each class has a column with its probability, called "p:CLASS"; several labels are joined by "|",
        and the times of words and the windows of long samples are left out.

        Raises:
            ConfigError: The name ends in something else.
            OSError: It cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() not in FORMATS:
            raise ConfigError(f"{path}: predictions are written as {' or '.join(FORMATS)}")
        records = self.records()
        if path.suffix.lower() == ".jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            text = _table(records)
        write_whole(path, text)
        return path


@dataclass(frozen=True)
class Evaluation:
    """How good the predictions for labelled samples are."""

    samples: int
    """With a label that could be used, and read."""

    metrics: dict[str, float | None]
    """By name; None where a number means nothing for these samples."""

    intervals: dict[str, tuple[float, float]]
    """Confidence intervals by bootstrap over the samples, or over their groups."""

    classes: tuple[str, ...]
    """Names of the classes."""

    confusion: np.ndarray | None
    """classify: int64 [classes, classes], how often class i is taken for class j."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "samples": self.samples,
            "metrics": self.metrics,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "classes": list(self.classes),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


def check_file(path: str | Path) -> None:
    """Refuse, before anything is computed, a file for predictions that could not be written.

    Raises:
        ConfigError: Its name ends in something else than `FORMATS`, or its folder is not there.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: predictions are written as {' or '.join(FORMATS)}")
    if not exists(path.parent):
        raise ConfigError(f"{path}: there is no folder {path.parent}")


def _cell(value: Any) -> Any:
    return "|".join(value) if isinstance(value, list) else value


def _table(records: Sequence[dict[str, Any]]) -> str:
    written = [
        {key: _cell(value) for key, value in record.items() if key not in ("probabilities", "words", "windows")}
        | {f"p:{name}": share for name, share in record.get("probabilities", {}).items()}
        for record in records
    ]
    columns = list(dict.fromkeys(key for record in written for key in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(written)
    return file.getvalue()
