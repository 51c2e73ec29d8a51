"""Runs as the page sees them: read once, numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2v_fast.config_json import fields_by_name
from d2v_fast.errors import ConfigError
from d2v_fast.run.reader import Run


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run, read once."""

    name: str
    """Its folder's name, or its path where two runs have the same."""

    run: Run
    lines: list[dict[str, Any]]
    """Log lines; of their values the numbers and None."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Its configuration by dotted name."""

    @property
    def step(self) -> int:
        """The last step that has a log line."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def finished(self) -> bool:
        """Whether it has made all of its steps."""
        return self.step >= int(self.run.config.steps)


def read(paths: Sequence[str | Path]) -> list[Seen]:
    """The runs in these folders, as they are now.

    Raises:
        ConfigError: The same run is named twice.
        RunError: One of them is no run, or cannot be read.
    """
    runs = [Run(path) for path in paths]
    folders = [run.path.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise ConfigError("a run is named twice")
    short = [folder.name for folder in folders]
    names = [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]
    return [
        Seen(name=name, run=run, lines=_numbers(run.metrics()), fields=fields_by_name(run.config))
        for name, run in zip(names, runs, strict=True)
    ]


def _numbers(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines with numbers and None alone: a number that is not finite, or no float, is None."""
    return [{"step": line["step"]} | dict(_values(line)) for line in lines]


def _values(line: Mapping[str, Any]) -> list[tuple[str, int | float | None]]:
    found: list[tuple[str, int | float | None]] = []
    for key, value in line.items():
        if key == "step" or isinstance(value, bool):
            continue
        if value is None or isinstance(value, int | float):
            good = value is not None and abs(value) < 1e300 and math.isfinite(value)
            found.append((key, value if good else None))
    return found
