"""Where a log line goes: metrics.jsonl, the display, TensorBoard and wandb, and the judgement whether to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d2v_fast.config import MonitorConfig
from d2v_fast.errors import RunStopped
from d2v_fast.run.metrics import NON_FINITE_LIMIT
from d2v_fast.run.metrics_file import MetricsFile
from d2v_fast.run.monitors import CollapseWatch
from d2v_fast.run.progress import Display, Sink


class Journal:
    """The log of a running run. A context manager: it shows the progress bar and closes what it was given."""

    def __init__(self, lines: MetricsFile, display: Display, sinks: Sequence[Sink], monitor: MonitorConfig) -> None:
        self.lines = lines
        self.display = display
        self._sinks = sinks
        self._watch = CollapseWatch(monitor)

    def __enter__(self) -> Journal:
        self.display.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.display.stop()
        self.lines.close()
        for sink in self._sinks:
            sink.close()

    def record(self, line: dict[str, Any], skipped_in_row: int) -> RunStopped | None:
        """Write a line everywhere and judge it.

        Args:
            line: Fields of metrics.jsonl.
            skipped_in_row: Steps up to this one that had no finite loss and gradient.

        Returns:
            Why the run has to stop, or None.
        """
        step = line["step"]
        try:
            self.lines.write(line)
        except OSError as error:
            return RunStopped(f"step {step}: metrics.jsonl could not be written: {error.strerror}; free some space")
        self.display.log(step, line)
        for sink in self._sinks:
            sink.write(step, line)
        if skipped_in_row >= NON_FINITE_LIMIT:
            return RunStopped(
                f"step {step}: the last {skipped_in_row} steps had no finite loss and gradient. Lower optim.lr or "
                "lengthen optim.warmup, set optim.clip_norm, or use bfloat16 or float32 instead of float16"
            )
        try:
            for warning in self._watch.judge(line, step):
                self.display.warn(warning)
        except RunStopped as error:
            return error
        return None
