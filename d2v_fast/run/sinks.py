"""Where else the metrics go: TensorBoard and Weights & Biases."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from d2v_fast.errors import ConfigError
from d2v_fast.log import logger, tell

FAILURES = (Exception, SystemExit)
"""What code of others may raise. Some of it ends the program where it should raise an error."""


class Sink(Protocol):
    """Something that receives each log line."""

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Take the metrics of `step`."""

    def close(self) -> None:
        """Flush and close."""


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
    """The metrics in a wandb run that continues with this run.

    Args:
        run: The run's folder, whose name wandb shows.
        run_id: What wandb knows the run by; no other run has it.
        config: Shown by wandb.

    Raises:
        ConfigError: wandb cannot be imported, or does not start.
    """

    def __init__(self, run: Path, run_id: str, config: dict[str, Any]) -> None:
        name = re.sub(r"[^\w .=,+-]", "_", run.name)[:128]  # as much as wandb takes
        try:
            import wandb  # type: ignore[import-not-found,unused-ignore]  # nothing installs it by itself

            self._run = wandb.init(dir=str(run), id=run_id, name=name, config=config, resume="allow")
        except FAILURES as error:  # a broken installation, no login, no network: whatever it is, it was asked for
            raise ConfigError(
                f"log.wandb is on, but wandb does not start ({type(error).__name__}: {error}): see whether "
                "`wandb login` works, set WANDB_MODE=offline, or leave log.wandb off"
            ) from error

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Take the metrics of `step`."""
        self._run.log({key: value for key, value in line.items() if value is not None}, step=step)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()


def open_sinks(run: Path, run_id: str, first: int, config: dict[str, Any], *, wandb: bool) -> list[Sink]:
    """TensorBoard if it is installed and works, wandb if it was asked for.

    Args:
        run: The run's folder.
        run_id: What wandb knows the run by.
        first: Steps done before.
        config: Shown by wandb.
        wandb: Whether it was asked for.

    Raises:
        ConfigError: wandb was asked for and is not installed, or does not start.
    """
    sinks: list[Sink] = []
    if wandb:
        if not _installed("wandb"):
            raise ConfigError("log.wandb is on, but wandb is not installed: pip install 'd2v_fast[wandb]'")
        sinks.append(WeightsAndBiases(run, run_id, config))
    if _installed("tensorboard"):
        try:
            sinks.append(TensorBoard(run, first))
        except OSError as error:
            tell(f"TensorBoard's files cannot be written ({error}); the run goes on without them")
        except FAILURES as error:  # a broken installation, which nobody asked for
            logger.log(logging.DEBUG, "TensorBoard is left out: %s: %s", type(error).__name__, error)
    return sinks


def _installed(name: str) -> bool:
    """Whether there is a package of this name; a folder of this name that is no package does not count."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # something odd is imported under this name
        return False
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)
