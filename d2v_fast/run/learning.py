"""Whether a run learns, read off its log lines: a smoothed number for each line, and sentences that are told once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from d2v_fast.config import MonitorConfig

LINES = 8
"""Log lines that a smoothed number is the mean of; at the start of a run, those that there are."""

JUDGED_FROM = 1 / 3
"""Share of the steps from which on a run that explains nothing is called one: the healthy runs of the tiny presets
explained something long before, but for those of data2vec 2.0 on speech (docs/healthy.md)."""

_RISE = 1.5
"""Times its lowest that the smoothed loss has to be before the rise is spoken of."""

_GOOD = 0.2
"""Smoothed explained share from which on a rising loss is called harmless."""


class Findings(NamedTuple):
    """Sentences about a log line."""

    warnings: list[str]
    """Something is wrong."""

    notes: list[str]
    """Something looks wrong and is not."""


class LearningWatch:
    """Reads the log lines of a run, one after the other, those of earlier starts included.

    Args:
        config: The limits.
        steps: Of the run.
    """

    def __init__(self, config: MonitorConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        self._explained: deque[float] = deque(maxlen=LINES)
        self._losses: deque[float] = deque(maxlen=LINES)
        self._lowest: tuple[float, Mapping[str, Any]] | None = None  # the lowest smoothed loss, and its line
        self._told: set[str] = set()

    def smoothed(self, explained: float | None) -> float | None:
        """The explained share of the next line, as the mean of the last `LINES` lines with it; None: it has none."""
        if explained is None or explained != explained:
            return None
        values = [*self._explained, explained][-LINES:]
        return sum(values) / len(values)

    def read(self, line: Mapping[str, Any], step: int) -> Findings:
        """Take the next line; what there is to say about it that was not said before."""
        share = self.smoothed(line.get("explained"))
        if share is None:
            return Findings([], [])
        self._explained.append(line["explained"])
        return Findings(self._warnings(share, step), self._notes(share, line, step))

    def _warnings(self, share: float, step: int) -> list[str]:
        limit = self._config.min_explained
        judged = step >= max(self._config.warmup_steps, JUDGED_FROM * self._steps) and len(self._explained) == LINES
        if share >= 2 * limit:  # it may be said again
            self._told.discard("nothing")
        if not judged or share >= limit or "nothing" in self._told:
            return []
        self._told.add("nothing")
        return [
            f"step {step}: this run is not learning: over the last {LINES} log lines its predictions explained "
            f"{max(0.0, share):.1%} of the targets' variance, less than monitor.min_explained ({limit:.0%}) after "
            f"{step / self._steps:.0%} of the steps. Its features are likely worth no more than those of a random "
            "start. Lower or raise optim.lr, give it more steps, or see what the mask hides (d2v-fast data show)"
        ]

    def _notes(self, share: float, line: Mapping[str, Any], step: int) -> list[str]:
        loss = line.get("loss")
        if loss is None or "loss" in self._told:
            return []
        self._losses.append(loss)
        if len(self._losses) < LINES:
            return []
        mean = sum(self._losses) / LINES
        if self._lowest is None or mean < self._lowest[0]:
            self._lowest = mean, line
        before, then = self._lowest
        grown = [
            f"their {name} is {line[field]:.3g}, after {then[field]:.3g}"
            for field, name in (("target_std", "standard deviation"), ("target_rank", "effective rank"))
            if None not in (line.get(field), then.get(field)) and line[field] > 1.05 * then[field]
        ]
        if mean < _RISE * before or share < _GOOD or not grown:
            return []
        self._told.add("loss")
        return [
            f"step {step}: the loss has risen from {before:.3g} (step {then['step']}) to {mean:.3g}, and that is no "
            f"harm: the targets have become richer ({' and '.join(grown)}), and the predictions still explain "
            f"{share:.0%} of their variance. Watch `explained`, not the loss"
        ]
