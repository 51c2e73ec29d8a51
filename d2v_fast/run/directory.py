"""The folder of a run: who may use it, whether it holds a run, and the files in it that are not checkpoints."""

from __future__ import annotations

import json
import mimetypes
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from d2v_fast.checks import may_change, younger_fields
from d2v_fast.config_json import differences, field_of, with_overrides
from d2v_fast.data.index import index_file
from d2v_fast.errors import ConfigError, RunError, RunStopped
from d2v_fast.files import DISK_FULL, delete, exists, tell_once, write_whole
from d2v_fast.log import tell
from d2v_fast.run import checkpoint as checkpoints
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.evidence import ABOUT, evidence, folder_of, read_about, read_json
from d2v_fast.run.lock import Lock
from d2v_fast.run.metrics_file import read_metrics
from d2v_fast.run.settings import AnyConfig, ModalityUnknown, Notes, config_from, decode, encode

_MEDIA = ("image/", "audio/", "video/")


class RunDirectory:
    """A locked run folder. Use it as a context manager.

    A folder that holds a run, in whatever state, is never trained over from step 0. A start that ended before its first
    checkpoint leaves nothing behind that could be lost, so after it the folder is free for another configuration.
    run.json says which of the two it is: `id`, a name of this run for services outside, and `trained`, whether a
    checkpoint has ever been written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = folder_of(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._lock = Lock(self.path)
        self._about: dict[str, Any] = {}
        self._pending: dict[str, Any] | None = None  # config.json of this start, until there is something to go with it

    def __enter__(self) -> RunDirectory:
        """Create the folder if it is not there, and lock it.

        Raises:
            RunError: Another process uses the run, the folder holds something that is not a run, or it cannot be used.
        """
        try:
            self._refuse_strange()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RunError(f"{self.path} cannot be used for a run: {reason}; choose another folder") from error
        try:
            self._about = read_about(self.path)
            if "id" not in self._about:
                self._write_about({"id": secrets.token_hex(8), "trained": evidence(self.path) is not None})
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same as long as the run's folder lives; no other run has them."""
        return str(self._about["id"])

    def last_checkpoint(
        self, config: AnyConfig, resume: Literal["auto", "never", "must"] = "auto"
    ) -> Checkpoint | None:
        """The checkpoint to continue from; None if the folder is free for a new run.

        Args:
            config: The configuration of this start.
            resume: See `Data2VecTrainer.fit`.

        Raises:
            RunError: The folder holds a run that cannot be continued: none of its checkpoints is good, or they are
                gone, or cannot be read just now, or `config` would change its bits. Nothing was changed.
        """
        reason = evidence(self.path)
        if resume == "never" and reason is not None:
            raise RunError(f"{self.path} already holds a run; choose another folder, or resume='auto' to continue it")
        checkpoints.clean(self.checkpoints)
        last = checkpoints.newest(self.checkpoints, set_aside=True)
        if last is not None:
            self._check_config(as_begun(config, last), last)
            return last
        if reason is not None:
            raise RunError(
                f"{self.path} holds a run ({reason}), but no checkpoint to continue it from, and it is not begun "
                "again: put a checkpoint back, or give a new run another folder (or delete this one)"
            )
        if resume == "must":
            raise RunError(f"{self.path} has no checkpoint to continue from; resume='auto' begins a new run")
        lines = read_metrics(self.metrics_file)
        if lines:
            tell(
                f"{self.path}: an earlier start ended after step {lines[-1]['step']}, before its first checkpoint; "
                "beginning again"
            )
        return None

    def write_config(self, config: AnyConfig, notes: Notes | None = None) -> None:
        """Write config.json, whole or not at all. For a run that has trained this waits for its next checkpoint.

        So a start that fails leaves no trace: its `steps`, for example, can be taken back.

        Args:
            config: What is trained.
            notes: What stands beside it; None: what a run that has trained has there already.

        Raises:
            RunStopped: It could not be written.
        """
        if notes is None:
            notes = read_settings(self.path)[1] if self._about["trained"] and exists(self.config_file) else Notes()
        content = encode(config, notes)
        if self._about["trained"]:
            self._pending = content
        else:
            _write(self.config_file, content)

    def forget_index(self) -> bool:
        """Delete the index of the data that a start without a checkpoint has left behind.

        Returns:
            Whether there was one, and the run has not trained with it.
        """
        path = index_file(self.path)
        return not self._about["trained"] and exists(path) and delete(path)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: dict[str, Any],
        keep: int,
        best: int | None = None,
    ) -> Path:
        """Write a checkpoint, see `checkpoint.save`; from then on the folder holds a run."""
        folder = checkpoints.save(self.checkpoints, step, tensors, state, keep, best)
        try:
            if not self._about["trained"]:
                self._write_about({**self._about, "trained": True})
            if self._pending is not None:
                _write(self.config_file, self._pending)
                self._pending = None
        except RunStopped as error:  # the checkpoint itself says all of it as well
            tell_once("about", self.path, str(error))
        return folder

    def _check_config(self, config: AnyConfig, last: Checkpoint) -> None:
        """Refuse to continue a run with a configuration that would change its bits.

        Raises:
            RunError: Names every such field with both values.
        """
        before, wrong = config_of(last), []
        for name, old, new in differences(before, config):
            change = may_change(config, name)
            if change == "always" or (change == "with steps" and config.steps > before.steps):
                continue
            if name == "steps" and new >= old:
                continue
            hint = " (it may only grow)" if name == "steps" else ""
            if change == "with steps":
                hint = " (it may change when steps grows)"
            wrong.append(f"{name}: the run has {old!r}, this command {new!r}{hint}")
        if wrong:
            raise RunError(
                f"{self.path} was made with another configuration; " + "; ".join(wrong) + ". Give these fields the "
                "run's values to continue it, or start a new run in another folder (--init-from takes over its weights)"
            )

    def _refuse_strange(self) -> None:
        """Refuse a folder that holds something of another purpose; logs of a scheduler and the like are welcome.

        Raises:
            RunError: It is a file, or holds recordings or pictures, or a config.json that is no run's.
            OSError: It cannot be looked at.
        """
        if not exists(self.path):
            return
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; give the run a folder of its own")
        names = sorted(os.listdir(self.path))
        if self.checkpoints.name in names and not self.checkpoints.is_dir():
            raise RunError(
                f"{self.checkpoints} is no folder, or a link to one that is not there: bring it back, or move it away"
            )
        if ABOUT in names or checkpoints.steps(self.checkpoints):
            return
        if self.config_file.name in names:
            if not {"model", "loader", "checkpoint", "steps"} <= read_json(self.config_file).keys():
                raise RunError(
                    f"{self.config_file} is not the configuration of a run; give the run a new or an empty folder"
                )
            return
        strange = [name for name in names if (mimetypes.guess_type(name)[0] or "").startswith(_MEDIA)]
        if strange:
            raise RunError(
                f"{self.path} holds files ({', '.join(strange[:3])}) but no config.json, so it is not a run; "
                "give the run a new or an empty folder"
            )

    def _write_about(self, about: dict[str, Any]) -> None:
        _write(self.path / ABOUT, about)
        self._about = about


def read_config(run: Path) -> AnyConfig:
    """The configuration of the run in the folder `run`.

    Raises:
        RunError: See `read_settings`.
    """
    return read_settings(run)[0]


def read_settings(run: Path) -> tuple[AnyConfig, Notes]:
    """What config.json of the run in the folder `run` says.

    Raises:
        RunError: There is none, it cannot be read, or the run's modality is not registered.
    """
    path = run / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ConfigError("it holds no fields")
        return decode(content)
    except ModalityUnknown as error:
        raise RunError(f"{path} cannot be used: {error}") from error
    except FileNotFoundError:
        raise RunError(f"{run} is not a run: it has no config.json") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read just now: {error.strerror}") from error
    except ConfigError as error:
        raise RunError(f"{path} cannot be read ({error}); it was made by another version, or is damaged") from error
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({error}), it is damaged: move it away, and the newest checkpoint says what it said"
        ) from error


def as_begun(config: AnyConfig, last: Checkpoint | None) -> AnyConfig:
    """The configuration of a start, with what a run that was begun by an older version means by its silence.

    A field that is younger than the run (its metadata has `checks.MISSING`) keeps the run's value, unless the start has
    another one than the default.
    """
    if last is None:
        return config
    before = config_of(last)
    younger = [name for name, default in younger_fields(before) if field_of(before, name) != default]
    kept = {
        name: field_of(before, name)
        for name, default in younger_fields(config)
        if name in younger and field_of(config, name) == default
    }
    return with_overrides(config, kept)


def config_of(checkpoint: Checkpoint) -> AnyConfig:
    """The configuration that a checkpoint was trained with.

    Raises:
        RunError: This version cannot read it.
    """
    try:
        return config_from(checkpoint.state["config"])
    except (KeyError, ConfigError) as error:
        raise RunError(f"the configuration in {checkpoint.folder} cannot be used: {error}") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        reason = "the disk is full" if error.errno in DISK_FULL else error.strerror
        raise RunStopped(f"{path} could not be written: {reason}") from error
