"""What a run shows while it trains: a bar on a terminal, plain lines without one."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from d2v_fast.data.store import human_bytes
from d2v_fast.log import logger, tell
from d2v_fast.streams import SteadyStream


class Display:
    """The bar, or the lines, of a run of `steps` steps that begins after `first`.

    The bar needs a terminal; whatever environment variables ask for, it never goes into a file or a pipe. Nothing that
    happens to the terminal stops the run: the bar is switched off, and lines are logged instead.
    """

    def __init__(self, steps: int, first: int, stream: TextIO | SteadyStream | None = None) -> None:
        self.steps = steps
        stream = stream or sys.stdout
        self._screen = stream if isinstance(stream, SteadyStream) else SteadyStream(stream)
        self._bar: Progress | None = None
        self._begun: tuple[int, float] | None = None  # step and time from which on the time left is estimated
        console = Console(file=cast(TextIO, self._screen))
        wanted = logger.isEnabledFor(logging.INFO)  # a log that is quiet about progress has no bar either
        if wanted and self._screen.isatty() and console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task("pretrain", total=steps, completed=first, note="")

    def start(self) -> None:
        """Show the bar."""
        self._show(lambda bar: bar.start())

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._show(lambda bar: bar.stop())

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self._begun is None:
            self._begun = (step, time.monotonic())
        self._show(lambda bar: bar.update(self._task, completed=step))

    def log(self, step: int, line: dict[str, Any]) -> None:
        """Show a log line."""
        note = describe(line)
        self._show(lambda bar: bar.update(self._task, completed=step, note=note))
        if self._bar is None:
            tell(f"step {step}/{self.steps}  {note}{self._left(step)}", logging.INFO)

    def warn(self, text: str) -> None:
        """Tell a warning."""
        tell(f"warning: {text}")

    def _left(self, step: int) -> str:
        """How long the rest will take at the rate of the steps so far, but for the first, which is slower."""
        if self._begun is None or not self._begun[0] < step < self.steps:
            return ""
        each = (time.monotonic() - self._begun[1]) / (step - self._begun[0])
        return f"  {timedelta(seconds=round(each * (self.steps - step)))} left"

    def _show(self, change: Callable[[Progress], None]) -> None:
        """Change the bar, if there is one; if that fails, go on without."""
        if self._bar is None:
            return
        bar, problem = self._bar, None
        try:
            change(bar)
            problem = self._screen.problem
        except Exception as error:  # whatever rich meets: it is told, and it is not worth the run
            problem = error
        if problem is not None:
            self._bar = None
            with contextlib.suppress(Exception):  # of a bar that is broken; this gives stdout and stderr back
                bar.stop()
            tell(f"the progress bar is off, lines follow instead ({type(problem).__name__}: {problem})")


def describe(line: dict[str, Any]) -> str:
    """The few numbers of a log line that are worth watching; what a task does not measure is left out."""
    parts = [f"epoch {line['epoch']:.3g}", f"loss {_short(line['loss'])}"]
    if "validation_loss" in line:
        parts.append(f"validation {_short(line['validation_loss'])}")
    if "explained" in line:
        share = line.get("explained_smoothed", line["explained"])
        parts.append(f"explained {'-' if share is None else format(share, '.0%')}")
    parts.append(f"lr {_short(line['lr'])}")
    for label, names in _GROUPS.items():
        if any(name in line for name in names):
            parts.append(f"{label} " + "/".join(_short(line.get(name)) for name in names))
    if line.get("probe_knn") is not None:
        parts.append(f"knn {line['probe_knn']:.0%}")
    if line["skipped_steps"] or line["skipped_samples"]:
        parts.append(f"skipped {line['skipped_steps']} steps, {line['skipped_samples']} samples")
    parts.append(f"{line['samples_per_second']:.1f} samples/s")
    if line.get("flops_share") is not None:
        parts.append(f"{line['flops_share']:.0%} of peak FLOP/s")
    if line.get("peak_memory") is not None:
        parts.append(human_bytes(line["peak_memory"]))
    if line["data_wait"] > 0.05:
        parts.append(f"waits for data {line['data_wait']:.0%}")
    return "  ".join(parts)


_GROUPS = {"std": ("local_std", "pred_std", "target_std"), "rank": ("pred_rank", "target_rank")}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
