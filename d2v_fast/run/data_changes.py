"""What a run knows of its data having changed: from which step on, and an index that is exchanged whole or not at all.

The new index is made in a folder of its own. Renaming that folder is the change: before, the run is the old one,
afterwards the new one, whenever the process ends. Its files are then moved to where they belong, by this start or by
the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from d2v_fast.data.index import FILE, LINES
from d2v_fast.errors import RunError, RunStopped
from d2v_fast.files import DISK_FULL, delete, exists, sync_folder, write_whole

RECORD = "data_changes.json"
_MADE = ".data_made"
_CHANGED = ".data_changed"


@dataclass(frozen=True)
class DataChange:
    """One change."""

    after_step: int
    """Optimizer steps that were made with the data before."""

    samples_before: int | None
    """None if the checkpoint is of a version that did not count them."""

    samples_after: int
    """How many there are now."""

    fingerprint_before: str
    """Of the data before."""

    fingerprint_after: str
    """Of the data now."""


def read_changes(run: Path) -> list[DataChange]:
    """The changes of a run, in their order; none if its data is that of its first start.

    Raises:
        RunError: The file that says so is damaged, or cannot be read.
    """
    path = run / RECORD
    try:
        changes = [DataChange(**change) for change in json.loads(path.read_text(encoding="utf-8"))]
        if not all(type(change.after_step) is int for change in changes):
            raise ValueError("after_step is no whole number")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} cannot be read just now: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}): put it back, or delete it and continue with --data-changed "
            "(data_changed=True)"
        ) from error
    return changes


def trained_on(changes: Sequence[DataChange], step: int, fingerprint: str) -> str:
    """The fingerprint of the data that a run goes on with.

    Args:
        changes: Of the run.
        step: Of the checkpoint that it continues from.
        fingerprint: Of the data that this checkpoint was trained on.
    """
    for change in changes:
        if change.after_step == step and change.fingerprint_before == fingerprint:
            return change.fingerprint_after
    return fingerprint


def new_folder(run: Path) -> Path:
    """An empty folder in that of the run, to make an index in. What an earlier start left in it is deleted."""
    folder = run / _MADE
    delete(folder)
    folder.mkdir()
    return folder


def exchange(run: Path, made: Path, changes: Sequence[DataChange]) -> None:
    """Give the run the files in the folder `made`, and these changes in place of those it had, all of it or nothing.

    Raises:
        RunStopped: It could not be written; nothing was changed.
    """
    try:
        write_whole(made / RECORD, json.dumps([asdict(change) for change in changes], indent=2) + "\n")
        os.rename(made, run / _CHANGED)
        sync_folder(run)
    except OSError as error:
        reason = "the disk is full" if error.errno in DISK_FULL else error.strerror
        raise RunStopped(f"the new index of {run} could not be written: {reason}") from error
    finish(run)


def finish(run: Path) -> None:
    """Move the files of an exchange to where they belong, if an earlier start did not come to its end.

    Raises:
        RunError: They cannot be moved just now; the next start tries again.
    """
    folder = run / _CHANGED
    try:
        if not exists(folder):
            return
        made = set(os.listdir(folder))
        for name in {FILE, LINES} - made if made & {FILE, LINES} else ():  # an index of the other kind is the old one
            (run / name).unlink(missing_ok=True)
        for name in sorted(made):
            os.replace(folder / name, run / name)
        sync_folder(run)
        os.rmdir(folder)
    except OSError as error:
        raise RunError(f"the new index in {folder} cannot be put into place: {error.strerror}; start again") from error
