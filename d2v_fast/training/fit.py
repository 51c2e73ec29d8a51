"""From a folder to a running loop: lock, configuration, newest checkpoint, data and log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from d2v_fast import __version__
from d2v_fast.config_json import to_dict
from d2v_fast.data import Loader
from d2v_fast.data.begun import head_of
from d2v_fast.errors import DataError, RunError
from d2v_fast.files import delete
from d2v_fast.log import tell
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.data_changes import DataChange, exchange, finish, new_folder, read_changes, trained_on
from d2v_fast.run.directory import RunDirectory, as_begun
from d2v_fast.run.evidence import check_seen
from d2v_fast.run.journal import Journal, open_journal, read_journal
from d2v_fast.run.settings import Notes
from d2v_fast.training.heap import keep_freed_memory
from d2v_fast.training.interrupts import StopSignals
from d2v_fast.training.loop import Loop
from d2v_fast.training.precision import own_modes, products, tensor_float32

_INFO = logging.INFO

Resume = Literal["auto", "never", "must"]


class Data(Protocol):
    """What a run is trained on: a `DataSource`, or one with labels."""

    @property
    def fingerprint(self) -> str:
        """Changes when the data does."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...


OpenSource = Callable[[Path], Any]
"""The run's folder -> the `Data`, whose index is kept there."""

IndexAnew = Callable[[Path, Path], Any]
"""(the run's folder, an empty folder) -> the `Data` as it is now, with its index in the second folder."""

Engine = Literal["dali", "native"]

OpenLoader = Callable[[Any, int, Engine | None], Loader]
"""(data, optimizer steps done, what decoded when the run was begun) -> the batches of the steps that follow."""


class Fit:
    """Trains a loop in a run's folder, as often as it is called.

    Args:
        loop: What is trained.
        out: The run's folder, new or of an earlier start of this run.
        open_source: Opens the data.
        open_loader: Makes its batches.
        notes: What config.json says beside the configuration.
        index_anew: Looks at data that has changed; None if `open_source` keeps no index.
    """

    def __init__(
        self,
        loop: Loop,
        out: Path,
        open_source: OpenSource,
        open_loader: OpenLoader,
        notes: Notes | None = None,
        index_anew: IndexAnew | None = None,
    ) -> None:
        self.loop = loop
        self.out = out
        self._open_source = open_source
        self._open_loader = open_loader
        self._notes = notes
        self._index_anew = index_anew
        self._trained = False

    def __call__(self, resume: Resume = "auto", data_changed: bool = False) -> Path:
        """Train up to `config.steps`, from the newest checkpoint if there is one; see `Data2VecTrainer.fit`."""
        if resume not in ("auto", "never", "must"):
            raise ValueError(f"resume must be 'auto', 'never' or 'must', got {resume!r}")
        config: Any = self.loop.config
        world = self.loop.world
        world.ending = False
        with own_modes(self.loop.device), contextlib.ExitStack() as held:
            run = RunDirectory(self.out)
            last, source = self._opened(run, held, config, resume, data_changed)
            config = self.loop.config
            with world.together("when it read the checkpoint"):
                if last is None:
                    self.loop.begin()
                else:
                    self.loop.load(last)
            first = 0 if last is None else last.step
            world.alone("when it wrote the configuration", lambda: run.write_config(config, self._notes))
            if self.loop.selection.exhausted:
                tell(
                    f"{run.path} is complete: {self._stopped()} after step {first}. Raise task.patience to go on.",
                    _INFO,
                )
                return run.path
            if last is not None and first >= config.steps:
                tell(f"{run.path} is complete: {first} of {config.steps} steps are done. Raise steps to go on.", _INFO)
                return run.path
            if last is not None:
                tell(f"continuing {run.path} after step {first} of {config.steps}{self._others(last)}", _INFO)
            self._run(run, first, source, last)
            why = f"{config.steps} steps" if not self.loop.selection.exhausted else self._stopped()
            tell(f"finished {run.path}: {why}", _INFO)
        return run.path

    def _opened(
        self, run: RunDirectory, held: contextlib.ExitStack, config: Any, resume: Resume, data_changed: bool
    ) -> tuple[Checkpoint | None, Data]:
        """The checkpoint to continue from and the data; of several processes the main one looks first.

        It locks the folder, mends what needs it, and makes the index. The others read what it has found.
        """
        world = self.loop.world
        world.same(to_dict(config), "the configuration")
        found: list[tuple[Checkpoint | None, Data]] = []

        def lead() -> dict[str, Any]:
            held.enter_context(run)
            last = run.last_checkpoint(config, resume)
            self.loop.config = as_begun(config, last)
            if last is None and self._trained:
                raise RunError("this trainer has trained before it had a checkpoint to go back to: make a new one")
            finish(run.path)
            if data_changed:
                self._take_changed(run, last)
            found.append((last, self._source(run, last)))
            known = None if last is None else {"name": last.folder.name, "step": last.step, "state": last.state}
            return {"id": run.id, "checkpoint": known}

        told = world.alone("when it opened the run", lead)
        with world.together("when it opened the data"):
            if not world.main:
                check_seen(run.path, told["id"])
                known, last = told["checkpoint"], None
                if known is not None:
                    last = Checkpoint(run.checkpoints / known["name"], known["step"], known["state"])
                self.loop.config = as_begun(config, last)
                found.append((last, self._open_source(run.path)))
        world.same(found[0][1].fingerprint, "the data (its fingerprint)")
        return found[0]

    def _others(self, last: Checkpoint) -> str:
        """A word about a number of processes that is not the one that the checkpoint was made by."""
        before, now = last.state.get("processes", 1), self.loop.world.size
        return "" if before == now else f", with {now} processes instead of {before}: the same but for rounding"

    def _shared(self) -> str:
        """A line about what each process does."""
        count, deal = cast(Any, self.loop.config).loader.accumulation, self.loop.deal
        parts = f"the {count} micro-batches of a step" if count > 1 else "the micro-batch of a step"
        cut = "" if deal.pieces == 1 else f", cut into {deal.pieces} pieces{' each' if count > 1 else ''}"
        return f"{deal.world} processes share {parts}{cut}"

    def _stopped(self) -> str:
        chosen = self.loop.selection
        return f"{chosen.since} validations without a better one than that of step {chosen.step}"

    def _source(self, run: RunDirectory, last: Checkpoint | None) -> Data:
        """The data; refuses what the checkpoint was not trained on."""
        try:
            source: Data = self._open_source(run.path)
        except DataError:
            if last is not None or not run.forget_index():  # of other data, left by a start that trained nothing
                raise
            source = self._open_source(run.path)
        if last is None:
            return source
        before = trained_on(read_changes(run.path), last.step, last.state["fingerprint"])
        if before != source.fingerprint:
            raise RunError(
                f"the data is not what {run.path} was trained on (fingerprint {before} then, {source.fingerprint} "
                "now): give the same data, continue with what there is now by --data-changed (data_changed=True), or "
                "start a new run in another folder with --init-from"
            )
        return source

    def _take_changed(self, run: RunDirectory, last: Checkpoint | None) -> None:
        """Let the run go on from `last` with the data as it is now."""
        if last is None:
            raise RunError(
                f"{run.path} has no checkpoint to continue from with other data: leave out --data-changed "
                "(data_changed=True) to begin a run"
            )
        changes = read_changes(run.path)
        trained = last.state["fingerprint"]
        before = trained_on(changes, last.step, trained)
        folder = new_folder(run.path)
        try:
            source: Data = (
                self._open_source(run.path) if self._index_anew is None else self._index_anew(run.path, folder)
            )
            now, count = source.fingerprint, len(source)
            made, kept = head_of(folder), head_of(run.path)
            if now == before and (made is None or (kept or {}).get("fingerprint") == made["fingerprint"]):
                tell(f"the data of {run.path} has not changed; it goes on as it would without --data-changed", _INFO)
                return
            earlier = [change for change in changes if change.after_step < last.step]
            change = DataChange(last.step, last.state.get("samples"), count, trained, now)
            exchange(run.path, folder, earlier if now == trained else [*earlier, change])
        finally:
            delete(folder)
        if now == trained:
            tell(f"{run.path} goes on after step {last.step} with the data that it was trained on up to there", _INFO)
            return
        known = "a number" if change.samples_before is None else f"{change.samples_before:,}"
        tell(
            f"{run.path} goes on with other data after step {last.step}: {count:,} samples instead of {known} "
            f"(fingerprint {now} instead of {trained})",
            _INFO,
        )

    def _journal(self, run: RunDirectory, first: int, metrics_bytes: int) -> Journal:
        """The log: the main process writes it, the others read the lines that it found there."""
        config, made = self.loop.config, list[Journal]()

        def lead() -> None:
            made.append(open_journal(run, config, first, metrics_bytes))

        world = self.loop.world
        world.alone("when it opened the log", lead)
        with world.together("when it read the log"):
            if not world.main:
                made.append(read_journal(run, config, first))
        return made[0]

    def _run(self, run: RunDirectory, first: int, source: Data, last: Checkpoint | None) -> None:
        loop, config = self.loop, cast(Any, self.loop.config)
        if loop.device.type == "cpu":
            keep_freed_memory(loop.update.parameters)
        gpus = [loop.device] if loop.device.type == "cuda" else []
        world = loop.world
        with (
            self._journal(run, first, 0 if last is None else last.state["metrics_bytes"]) as journal,
            contextlib.ExitStack() as held,
        ):
            with world.together("when it made ready for the first step"):
                loader = held.enter_context(
                    self._open_loader(source, first, None if last is None else last.state.get("engine"))
                )
            stop = held.enter_context(StopSignals())
            held.enter_context(torch.random.fork_rng(devices=gpus))
            held.enter_context(tensor_float32(config.precision, loop.device))
            held.enter_context(products(config.numerics))
            if world.size > 1:
                tell(self._shared(), _INFO)
            if first == 0 < config.steps < loader.steps_per_epoch:
                tell(
                    f"{config.steps:,} steps see {config.steps / loader.steps_per_epoch:.0%} of the samples; an epoch "
                    f"has {loader.steps_per_epoch:,} steps",
                    _INFO,
                )

            def write(step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
                state = {
                    "fingerprint": source.fingerprint,
                    "samples": len(source),
                    "engine": loader.engine,
                    "metrics_bytes": journal.lines.sync(),
                    **loop.state(),
                    "processes": world.size,
                    "config": to_dict(config),
                    "torch": torch.__version__,
                    "d2v_fast": __version__,
                }
                run.save(step, tensors, state, config.checkpoint.keep, loop.selection.step)

            def save(step: int) -> None:
                doing = f"when it wrote the checkpoint of step {step}"
                loop.kept.check(loop.update, doing)
                tensors = loop.tensors(doing)
                world.alone(doing, lambda: write(step, tensors))

            self._trained = True
            loop.run(first, loader, journal, stop, save)
