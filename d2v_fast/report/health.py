"""What stands out in the numbers of a run, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2v_fast.errors import RunStopped
from d2v_fast.run.learning import LearningWatch
from d2v_fast.run.monitors import CollapseWatch
from d2v_fast.run.settings import AnyConfig

_WAITS = 0.05
"""Share of the time spent waiting for data above which it is worth a change."""

_MOST = 6
"""Warnings of one run that are shown; the last ones."""


def findings(config: AnyConfig, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person should look at; empty if nothing stands out.

    The limits of the collapse are those of the run, `monitor`; a run of another kind has none.

    Args:
        config: Of the run.
        lines: Its log lines, numbers and None only.
    """
    if not lines:
        return ["There is no log line yet."]
    found = _collapse(config, lines)
    last = lines[-1]
    explained = last.get("explained")
    if explained is not None and explained <= 0:
        found.append(
            f"The predictions explain nothing ({explained:.2g}): the mean of the targets would do as well. Give "
            "it more steps, or lower optim.lr."
        )
    if last.get("skipped_steps"):
        found.append(f"{last['skipped_steps']:,} steps had no finite loss or gradient and changed nothing.")
    if last.get("skipped_samples"):
        found.append(f"{last['skipped_samples']:,} samples could not be read and were left out.")
    waits = [line["data_wait"] for line in lines[-max(1, len(lines) // 4) :] if line.get("data_wait") is not None]
    if waits and sum(waits) / len(waits) > _WAITS:
        found.append(
            f"It waits for data {sum(waits) / len(waits):.0%} of the time lately: raise loader.threads, or make "
            "files that decode faster."
        )
    return found


def _collapse(config: AnyConfig, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings that the run itself has given."""
    limits = getattr(config, "monitor", None)
    if limits is None:
        return []
    watch, learning = CollapseWatch(limits), LearningWatch(limits, config.steps)
    warnings: list[str] = []
    for line in lines:
        try:
            warnings += watch.judge(line, line["step"])
        except RunStopped as stop:
            warnings.append(str(stop))
        warnings += learning.read(line, line["step"]).warnings
    told = [f"{warning[:1].upper()}{warning[1:]}" for warning in warnings]
    return told if len(told) <= _MOST else [f"{len(told) - _MOST} earlier warnings are left out.", *told[-_MOST:]]
