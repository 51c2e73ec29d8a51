"""What the curves of a preset look like where all is well: a few healthy runs of it, which come with the package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from d2v_fast.report.svg import Band, number

FIELDS = ("loss", "explained", "target_std", "pred_std", "local_std", "target_rank", "pred_rank", "grad_norm")
"""What a reference has, as far as the runs log it."""

COMPARED = ("loss", "explained", "target_std", "target_rank")
"""What is compared in a sentence; of the others a band is drawn."""

POINTS = 40
"""Of a curve, evenly over the steps of a run."""

_FOLDER = "references"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Some healthy runs of a preset; what lies between the lowest and the highest of them is normal."""

    preset: str

    about: str
    """What they were trained on, and how many they are, as part of a sentence."""

    command: str
    """What makes them again."""

    steps: int
    """Of each of them."""

    shares: tuple[float, ...]
    """Shares of the steps, ascending, the last one 1."""

    low: Mapping[str, tuple[float, ...]]
    """Of a field of log lines, the lowest of the runs at each share."""

    high: Mapping[str, tuple[float, ...]]
    """The highest."""

    def band(self, field: str, steps: int, name: str) -> Band | None:
        """The curve of a field, over the steps of a run of `steps`; None if there is none."""
        if field not in self.low:
            return None
        return Band(name=name, x=[share * steps for share in self.shares], low=self.low[field], high=self.high[field])

    def at(self, field: str, share: float) -> tuple[float, float]:
        """The lowest and the highest value at a share of the steps, between 0 and 1."""
        i = min(range(len(self.shares)), key=lambda k: abs(self.shares[k] - share))
        return self.low[field][i], self.high[field][i]

    def sentence(self, field: str, step: int, steps: int, value: float) -> str:
        """How the value of a run at a step compares: the end of a sentence that begins with what it is."""
        low, high = self.at(field, step / max(1, steps))
        room = 0.1 * max(abs(low), abs(high))
        verdict = "lower than there" if value < low - room else "higher than there" if value > high + room else "normal"
        span = " to ".join(dict.fromkeys(number(_few(end)) for end in (low, high)))
        share = step / max(1, steps)
        return f"is {number(_few(value))} at {share:.0%} of the steps, where healthy runs had {span}: {verdict}."


@cache
def reference_of(preset: str | None) -> Reference | None:
    """The reference of a preset; None if the package has none."""
    if preset is None or not preset.replace("-", "").isalnum():
        return None
    file = resources.files("d2v_fast.report").joinpath(_FOLDER, f"{preset}.json")
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    both = [{name: tuple(values) for name, values in content[part].items()} for part in ("low", "high")]
    words = {name: content[name] for name in ("preset", "about", "command", "steps")}
    return Reference(**words, shares=tuple(content["shares"]), low=both[0], high=both[1])


def summarise(
    runs: Sequence[Sequence[Mapping[str, Any]]], *, preset: str, about: str, command: str, steps: int
) -> dict[str, Any]:
    """What the file of a reference holds.

    Args:
        runs: Log lines of each run.
        preset: Its name.
        about: See `Reference`.
        command: See `Reference`.
        steps: Of each run.

    Raises:
        ValueError: A run has not made all of its steps, or has no number where the others have one.
    """
    if not runs or any(not lines or lines[-1]["step"] != steps for lines in runs):
        raise ValueError(f"{preset}: a reference takes runs that have made all of their {steps} steps")
    shares = [(i + 1) / POINTS for i in range(POINTS)]
    low: dict[str, list[float]] = {}
    high: dict[str, list[float]] = {}
    for name in FIELDS:
        if all(any(line.get(name) is not None for line in lines) for lines in runs):
            curves = [[_near(lines, name, share * steps) for share in shares] for lines in runs]
            low[name] = [_few(min(values)) for values in zip(*curves, strict=True)]
            high[name] = [_few(max(values)) for values in zip(*curves, strict=True)]
    return {
        "preset": preset,
        "about": about,
        "command": command,
        "steps": steps,
        "shares": shares,
        "low": low,
        "high": high,
    }


def _near(lines: Sequence[Mapping[str, Any]], name: str, step: float) -> float:
    """Between the two lines around a step."""
    known = [(line["step"], float(line[name])) for line in lines if line.get(name) is not None]
    before = [point for point in known if point[0] <= step] or known[:1]
    after = [point for point in known if point[0] >= step] or known[-1:]
    (a, x), (b, y) = before[-1], after[0]
    return x if a >= b else x + (y - x) * (step - a) / (b - a)


def _few(value: float) -> float:
    return float(f"{value:.3g}") if math.isfinite(value) else value
