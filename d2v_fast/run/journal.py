"""Where a log line goes: metrics.jsonl, the display, TensorBoard and wandb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from d2v_fast.config_json import to_dict
from d2v_fast.errors import RunStopped
from d2v_fast.log import tell
from d2v_fast.run.data_changes import DataChange, read_changes
from d2v_fast.run.directory import RunDirectory
from d2v_fast.run.metrics_file import MetricsFile, ReadLines
from d2v_fast.run.progress import Display
from d2v_fast.run.settings import AnyConfig
from d2v_fast.run.sinks import FAILURES, Sink, open_sinks


class Journal:
    """The log of a running run. A context manager: it shows the progress bar and closes what it was given.

    Only metrics.jsonl is worth a run. What else fails is told once and left out from then on.
    """

    def __init__(
        self,
        lines: MetricsFile | ReadLines,
        display: Display,
        sinks: Sequence[Sink],
        changes: Sequence[DataChange] = (),
    ) -> None:
        self.lines = lines
        self._changes = [asdict(change) for change in changes]
        self.display = display
        self._sinks = list(sinks)

    def __enter__(self) -> Journal:
        self.display.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.display.stop()
        try:
            self.lines.close()
        except OSError as error:  # some network disks say only now that a line was lost
            tell(f"metrics.jsonl could not be closed: {error.strerror}")
        self._to_sinks(lambda sink: sink.close())

    def record(self, line: dict[str, Any]) -> None:
        """Write the fields of a line everywhere; to metrics.jsonl also changes of the data since the line before.

        Raises:
            RunStopped: metrics.jsonl cannot be written.
        """
        step = line["step"]
        try:
            self.lines.write(line | ({"data_changed": self._changes} if self._changes else {}))
        except OSError as error:
            raise RunStopped(
                f"step {step}: metrics.jsonl could not be written: {error.strerror}; free some space"
            ) from error
        self._changes = []
        self.display.log(step, line)
        self._to_sinks(lambda sink: sink.write(step, line))

    def _to_sinks(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except FAILURES as error:  # code of others, over a network or a full disk
                self._sinks.remove(sink)
                tell(f"{type(sink).__name__} failed ({type(error).__name__}: {error}); the run goes on without it")


def read_journal(run: RunDirectory, config: AnyConfig, first: int) -> Journal:
    """The log of a start that another process writes: what was written before can be read, and nothing is written.

    Args:
        run: The run's folder.
        config: Its configuration.
        first: Optimizer steps done before.
    """
    return Journal(ReadLines(run.metrics_file), Display(config.steps, first), [])


def open_journal(run: RunDirectory, config: AnyConfig, first: int, metrics_bytes: int) -> Journal:
    """The log of a start.

    Args:
        run: The run's folder.
        config: Its configuration.
        first: Optimizer steps done before.
        metrics_bytes: How much of metrics.jsonl belongs to these.

    Raises:
        ConfigError: wandb was asked for and is not installed, or does not start.
        RunError: metrics.jsonl cannot be opened.
    """
    changes = read_changes(run.path)
    sinks = open_sinks(run.path, run.id, first, to_dict(config), wandb=config.log.wandb)
    lines = MetricsFile(run.metrics_file, metrics_bytes)
    last = lines.before[-1]["step"] if lines.before else 0
    return Journal(lines, Display(config.steps, first), sinks, [one for one in changes if one.after_step >= last])
