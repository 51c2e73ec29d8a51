"""`d2v-fast demo`: pretrain a small model on data that pip alone brings, and show what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from d2v_fast.demo.task import DemoError

__all__ = ["DemoError", "main"]


def main(
    modality: Literal["vision", "speech", "text"] | str = "vision",
    out: str | Path | None = None,
    steps: int | None = None,
) -> Path:
    """Pretrain, probe, print a table, draw a picture; the same call again continues or reuses the run.

    Args:
        modality: "vision", "speech" or "text".
        out: The run's folder; demo-runs/<modality> by default. demo.json and demo.png are written there too.
        steps: Optimizer steps; less than a minute's by default.

    Returns:
        The run's folder.

    Raises:
        DemoError: Something that the demo needs is missing.
        ConfigError, DataError, RunError, RunStopped, Interrupted: See `Data2VecTrainer.fit`.
    """
    from d2v_fast.demo.run import run

    return run(modality, Path(out) if out is not None else Path("demo-runs") / modality, steps)
