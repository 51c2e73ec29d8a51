"""Checkpoints: folders that are whole or not there, with the checksum of every file, and nothing pickled.

checkpoints/step_00001000/ holds student.safetensors, teacher.safetensors, optimizer.safetensors and state.json. It is
written under another name, forced to the disk and renamed, so a death in between leaves the one before it.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from d2v_fast.errors import CheckpointDamaged, CheckpointTooNew, CheckpointUnreadable, RunError, RunStopped
from d2v_fast.files import DISK_FULL, delete, exists, sync, sync_folder
from d2v_fast.log import tell
from d2v_fast.run.checkpoint_folder import (
    TEMPORARY,
    aside_in,
    checkpoints_in,
    clean,
    delete_old,
    free_name,
    put_aside,
    step_of,
    there,
)
from d2v_fast.tensor_files import read_tensors

FORMAT = 1
"""Version of the layout of state.json; a reader refuses a newer one."""

_LOOKS = 3
"""How often a folder is listed while somebody else deletes from it."""
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk whose files have been checked."""

    folder: Path
    step: int
    """Optimizer steps done."""
    state: dict[str, Any]
    """Everything that is not a tensor."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of "student", "teacher" or "optimizer", on the CPU.

        Raises:
            CheckpointDamaged, CheckpointUnreadable: Its file has gone or changed since it was checked.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            return read_tensors(path)
        except (*_NOT_THERE, SafetensorError) as error:
            raise CheckpointDamaged(self.folder, f"{path.name}: {error}") from error
        except OSError as error:
            raise _unreadable(self.folder, error) from error


def save(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    keep: int,
    best: int | None = None,
) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep` of those up to it, and the best one.

    Args:
        root: The folder of the checkpoints.
        step: Optimizer steps done.
        tensors: "student", "teacher" and "optimizer", each a mapping from names to tensors on any device.
        state: Everything else, as JSON can hold it.
        keep: Checkpoints to keep, this one included.
        best: The step of one that stays, whatever its age.

    Returns:
        The folder of the new checkpoint.

    Raises:
        RunStopped: It could not be written, for example because the disk is full; the ones before it are untouched.
    """
    final = root / f"step_{step:08d}"
    folder: Path | None = None
    try:
        root.mkdir(exist_ok=True)
        clean(root)
        folder = free_name(root / f"{TEMPORARY}{step:08d}")
        folder.mkdir()
        _write(folder, step, tensors, state)
        if exists(final):  # a good one if the run was stopped and continued without a step, or a damaged one
            os.rename(final, free_name(root / f"{TEMPORARY}old_{step:08d}"))
        os.rename(folder, final)
        sync_folder(root)
    except (OSError, SafetensorError) as error:
        if folder is not None:
            delete(folder)
        clean(root)  # what was replaced gets its name back
        raise RunStopped(_why_not_written(root, final, error)) from error
    delete_old(root, step, keep, best)
    clean(root)
    return final


def newest(root: Path, *, set_aside: bool = False) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; None if there is no checkpoint at all.

    Args:
        root: The folder of the checkpoints.
        set_aside: If an older one is good, rename the damaged ones after it, so that nothing takes them for good ones.

    Raises:
        RunError: There are checkpoints, but none is good.
        CheckpointUnreadable, CheckpointTooNew: This holds for the newest one that is not damaged. Nothing was renamed.
    """
    for _ in range(_LOOKS):
        try:
            found = checkpoints_in(root)
        except OSError as error:
            raise _unlisted(root, error) from error
        good, damaged = _newest_of(found)
        # Where a trainer runs beside a reader, what was listed may be deleted by now: then there are newer ones.
        if not any(not there(error.folder) for error in damaged):
            break
    if good is None:
        if found:
            raise RunError(
                f"no checkpoint in {root} is good, so the run cannot continue ({damaged[0]}). Put a copy of one back, "
                "or start a new run in another folder"
            )
        return None
    taken = [*(problem.folder for problem in damaged), good.folder]
    for problem, before in zip(damaged, taken[1:], strict=True):
        tell(f"warning: {problem}; trying {before.name}, the one before it")
        if set_aside:
            put_aside(problem.folder)
    return good


def _newest_of(found: list[tuple[int, Path]]) -> tuple[Checkpoint | None, list[CheckpointDamaged]]:
    """The newest good one of a list, and what is wrong with those after it, the newest first."""
    damaged: list[CheckpointDamaged] = []
    for _, folder in reversed(found):
        try:
            return read(folder), damaged
        except CheckpointDamaged as error:
            damaged.append(error)
    return None, damaged


def read(folder: Path) -> Checkpoint:
    """Check the files of one checkpoint.

    Raises:
        CheckpointDamaged: A file is missing, truncated or changed; the message names it.
        CheckpointUnreadable: The system does not let it be read just now.
        CheckpointTooNew: A newer version wrote it.
    """
    try:
        step, state, files = _read_state(folder)
        if step_of(folder.name) not in (None, step):
            raise CheckpointDamaged(folder, f"it is that of step {step}; give it this name back")
        for name, written in files.items():
            path = folder / name
            size = path.stat().st_size if exists(path) else None
            if size != written["bytes"]:
                what = "is missing" if size is None else f"has {size} bytes where {written['bytes']} were written"
                raise CheckpointDamaged(folder, f"{name} {what}")
            if _checksum(path)["crc32"] != written["crc32"]:
                raise CheckpointDamaged(folder, f"the checksum of {name} differs")
    except _NOT_THERE as error:
        raise CheckpointDamaged(folder, f"{error}") from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Checkpoint(folder, step, state)


def steps(root: Path) -> list[int]:
    """The steps of the checkpoints in `root`, good or not, in order.

    Raises:
        CheckpointUnreadable: The folder cannot be listed just now.
    """
    try:
        return [step for step, _ in checkpoints_in(root)]
    except OSError as error:
        raise _unlisted(root, error) from error


def aside(root: Path) -> list[str]:
    """Names of the checkpoints that were set aside as damaged, by this version or an older one.

    Raises:
        CheckpointUnreadable: The folder cannot be listed just now.
    """
    try:
        return aside_in(root)
    except OSError as error:
        raise _unlisted(root, error) from error


def _write(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Fill the new folder of a checkpoint and force it to the disk."""
    files = {}
    for name, values in tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
        files[path.name] = _checksum(path, forced=True)
    text = json.dumps({**state, "format": FORMAT, "step": step, "files": files})
    body = json.dumps({"crc32": zlib.crc32(text.encode()), "state": text})
    path = folder / "state.json"
    with open(path, "w", encoding="utf-8") as file:
        file.write(body)
        file.flush()
        sync(file.fileno(), path)
    sync_folder(folder)


def _read_state(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Step, state, and the files with their sizes and checksums.

    Raises:
        CheckpointDamaged, CheckpointTooNew, OSError: See `read`.
    """
    try:
        body = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        whole = "state" in body
        if whole and zlib.crc32(body["state"].encode()) != body["crc32"]:
            raise ValueError("its checksum differs")
        state = json.loads(body["state"]) if whole else body  # where a later layout may say that it is one
        if state["format"] > FORMAT:
            raise CheckpointTooNew(
                f"checkpoint {folder} was written by a newer version of d2v_fast (format {state['format']}, this one "
                f"reads {FORMAT}): continue with that version"
            )
        if not whole:
            raise ValueError("its state is missing")
        files = {name: {key: written[key] for key in ("bytes", "crc32")} for name, written in state["files"].items()}
        return state["step"], state, files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(folder, f"state.json cannot be read ({error})") from error


def _checksum(path: Path, *, forced: bool = False) -> dict[str, int]:
    """Size and CRC-32 of a file: damage has to be noticed, not malice. `forced` brings it to the disk first."""
    crc = size = 0
    with open(path, "rb") as file:
        if forced:
            sync(file.fileno(), path)
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return {"bytes": size, "crc32": crc}


def _unreadable(folder: Path, error: OSError) -> CheckpointUnreadable:
    return CheckpointUnreadable(
        f"checkpoint {folder} cannot be read just now ({error}); nothing was changed. Try again when it can be; if it "
        f"never can, move it out of {folder.parent}, and the one before it is taken"
    )


def _unlisted(root: Path, error: OSError) -> CheckpointUnreadable:
    return CheckpointUnreadable(
        f"{root} cannot be listed just now ({error.strerror}); nothing was changed. Try again when it can be"
    )


def _why_not_written(root: Path, final: Path, error: OSError | SafetensorError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"os error (\d+)", str(error)):  # how safetensors reports it
        number = int(match[1])
    full = number in DISK_FULL
    reason = "the disk is full" if full else str(error)
    remedy = "Free some space (or lower checkpoint.keep)" if full else f"See whether {root} can be written to"
    try:
        good = [f"the last good one is {path}" for _, path in checkpoints_in(root)[-1:]] or ["there is none before it"]
    except OSError:
        good = ["the ones before it cannot be listed"]
    return f"checkpoint {final} could not be written: {reason}; {good[0]}. {remedy} and run the same command again"
