"""What a run shows while it trains: a bar on a terminal, plain lines without one, TensorBoard and wandb beside them."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from d2v_fast.errors import ConfigError
from d2v_fast.log import tell


class Sink(Protocol):
    """Something that receives each log line."""

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Take the metrics of `step`."""

    def close(self) -> None:
        """Flush and close."""


class Display:
    """The bar, or the lines, of a run of `steps` steps that begins after `first`."""

    def __init__(self, steps: int, first: int, console: Console | None = None) -> None:
        self.steps = steps
        self._console = console or Console()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("pretrain", total=steps, completed=first, note="")

    def start(self) -> None:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, line: dict[str, Any]) -> None:
        """Show a log line."""
        note = describe(line)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        else:
            tell(f"step {step}/{self.steps}  {note}", logging.INFO)

    def warn(self, text: str) -> None:
        """Tell a warning."""
        tell(f"warning: {text}")


def describe(line: dict[str, Any]) -> str:
    """The few numbers of a log line that are worth watching."""
    parts = [f"loss {_short(line['loss'])}"]
    if "validation_loss" in line:
        parts.append(f"validation {_short(line['validation_loss'])}")
    parts.append(f"lr {_short(line['lr'])}")
    parts.append(f"std {_short(line['local_std'])}/{_short(line['pred_std'])}/{_short(line['target_std'])}")
    parts.append(f"rank {_short(line['pred_rank'])}/{_short(line['target_rank'])}")
    if line["skipped_steps"] or line["skipped_samples"]:
        parts.append(f"skipped {line['skipped_steps']} steps, {line['skipped_samples']} samples")
    parts.append(f"{line['samples_per_second']:.1f} samples/s")
    if line["data_wait"] > 0.05:
        parts.append(f"waits for data {line['data_wait']:.0%}")
    return "  ".join(parts)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


class TensorBoard:
    """Scalars in RUN/tensorboard. Steps that a resumed run repeats replace the old ones."""

    def __init__(self, run: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first + 1 if first else None)

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Take the metrics of `step`."""
        for key, value in line.items():
            if key != "step" and value is not None:
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """The metrics in a wandb run that is named after the folder and continues with it."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]

        self._run = wandb.init(dir=str(run), id=run.name, name=run.name, config=config, resume="allow")

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Take the metrics of `step`."""
        self._run.log({key: value for key, value in line.items() if value is not None}, step=step)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()


def open_sinks(run: Path, first: int, config: dict[str, Any], *, wandb: bool) -> list[Sink]:
    """TensorBoard if it is installed, wandb if it was asked for.

    Raises:
        ConfigError: wandb was asked for and is not installed.
    """
    sinks: list[Sink] = []
    if find_spec("tensorboard"):
        sinks.append(TensorBoard(run, first))
    if wandb:
        if not find_spec("wandb"):
            raise ConfigError("log.wandb is on, but wandb is not installed: pip install 'd2v_fast[wandb]'")
        sinks.append(WeightsAndBiases(run, config))
    return sinks
