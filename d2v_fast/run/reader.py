"""A run's folder, read without a trainer: configuration, metrics, checkpoints, the index of its data, versions."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from d2v_fast.data.index import Index, index_file
from d2v_fast.errors import RunError
from d2v_fast.files import exists
from d2v_fast.run import checkpoint as checkpoints
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.directory import config_of, read_config, read_settings
from d2v_fast.run.evidence import ABOUT
from d2v_fast.run.metrics_file import read_metrics
from d2v_fast.run.settings import AnyConfig, Notes

_OWN = {"config.json", ABOUT, "tokenizer.json", "vocab.json", "vocabulary.json"}
_LARGEST_RESULT = 2**20


class Run:
    """A run on the disk. Nothing in its folder is changed, and it may be training meanwhile.

    Example:
        >>> run = d2v_fast.Run("runs/photos")
        >>> run.metrics()[-1]["loss"], run.checkpoints(), run.config.steps

    Attributes:
        path: The run's folder.
        single: The folder of the checkpoint that was asked for; None if it is the run.
    """

    def __init__(self, path: str | Path) -> None:
        """Look whether there is a run.

        Args:
            path: The folder of a run, or of one of its checkpoints: then `newest` is that one.

        Raises:
            RunError: There is none, or it cannot be read just now.
        """
        try:
            folder = Path(path).expanduser()
            self.single = folder if exists(folder / "state.json") else None
            if self.single is not None and folder.resolve().parent.name == "checkpoints":
                folder = folder.resolve().parent.parent
            there = exists(folder / "config.json")
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(f"{str(path)!r} cannot be read as a run: {error}") from error
        self.path = folder
        if self.single is None and not there and not checkpoints.steps(folder / "checkpoints"):
            raise RunError(f"{folder} is not a run: it has no config.json")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> AnyConfig:
        """The configuration of its last start (of a single checkpoint: the one it was trained with).

        A `Config`; of a fine-tuning, its `finetuning.FinetuneConfig`.

        Raises:
            RunError: It cannot be read.
        """
        if self.single is None and exists(self.path / "config.json"):
            return read_config(self.path)
        return config_of(self.newest())

    @cached_property
    def notes(self) -> Notes:
        """What config.json says beside the configuration: the preset, and which fields followed others.

        Raises:
            RunError: It cannot be read.
        """
        return read_settings(self.path)[1] if exists(self.path / "config.json") else Notes()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far, oldest first: one dictionary a line, see `training`.

        Raises:
            RunError: The file cannot be read, or is damaged.
        """
        return read_metrics(self.path / "metrics.jsonl")

    def checkpoints(self) -> list[int]:
        """The optimizer steps of its checkpoints, in order; nothing in them has been checked.

        Raises:
            CheckpointUnreadable: The folder cannot be listed just now.
        """
        return checkpoints.steps(self.path / "checkpoints")

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint of a step, whose files have been checked.

        Raises:
            RunError: There is none of this step, or it is not whole, or cannot be read.
        """
        if step not in (there := self.checkpoints()):
            raise RunError(f"{self.path} has no checkpoint of step {step}, only of {there or 'none'}")
        return checkpoints.read(self.path / "checkpoints" / f"step_{step:08d}")

    def newest(self) -> Checkpoint:
        """The newest good checkpoint.

        Raises:
            RunError: There is none, or it cannot be read.
        """
        if self.single is not None:
            return checkpoints.read(self.single)
        root = self.path / "checkpoints"
        newest = checkpoints.newest(root)
        if newest is None:
            aside = checkpoints.aside(root)
            raise RunError(
                f"{self.path} has no checkpoint yet"
                if not aside
                else f"{self.path} has no checkpoint but those set aside as damaged: {', '.join(aside)}"
            )
        return newest

    def best(self) -> Checkpoint:
        """The checkpoint with the best validation so far, of a run that chooses one; else the newest.

        Raises:
            RunError: There is none, or it cannot be read.
        """
        newest = self.newest()
        step = newest.state.get("selection", {}).get("step")
        if self.single is not None or step is None or step == newest.step or step not in self.checkpoints():
            return newest
        return self.checkpoint(step)

    @cached_property
    def _state(self) -> dict[str, Any]:
        return self.newest().state

    @property
    def versions(self) -> dict[str, str]:
        """Package to version, of what wrote the newest checkpoint ("torch", and "d2v_fast" from 0.2 on)."""
        return {name: self._state[name] for name in ("d2v_fast", "torch") if name in self._state}

    @property
    def data(self) -> dict[str, str]:
        """What it was trained on: "fingerprint" of the data, "engine" that decoded it ("native" or "dali")."""
        return {name: self._state[name] for name in ("fingerprint", "engine") if name in self._state}

    def results(self) -> dict[str, dict[str, Any]]:
        """What evaluations have put into its folder: name of a .json file to the object in it.

        The run's own files are left out, and so is what is no object, or larger than a megabyte.

        Raises:
            RunError: The folder cannot be read.
        """
        found = {}
        try:
            for path in sorted(self.path.glob("*.json")):
                if path.name in _OWN or path.stat().st_size > _LARGEST_RESULT:
                    continue
                with contextlib.suppress(ValueError, RecursionError):  # no JSON: it is another program's
                    content = json.loads(path.read_bytes())
                    if isinstance(content, dict):
                        found[path.name] = content
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error}") from error
        return found

    @property
    def index_file(self) -> Path:
        """Where its index is.

        Raises:
            RunError: It has no index yet.
        """
        path = index_file(self.path)
        if not exists(path):
            raise RunError(f"{self.path} has no {path.name}: its data has not been looked at yet")
        return path

    def index(self) -> Index:
        """Names and sizes of the samples that it was trained on.

        Raises:
            RunError: It has no index yet.
            DataError: The index is damaged, or the data was a source of the user's own, which has none.
        """
        return Index.load(self.index_file, self.config.model.modality)
