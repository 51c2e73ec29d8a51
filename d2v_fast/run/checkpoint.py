"""Checkpoints: folders that are whole or not there, with the checksum of every file, and nothing pickled.

checkpoints/step_00001000/ holds student.safetensors, teacher.safetensors, optimizer.safetensors and state.json. It is
written under another name, forced to the disk and renamed, so a death in between leaves the one before it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v_fast.errors import RunError, RunStopped
from d2v_fast.log import tell

FORMAT = 1
"""Version of the layout of state.json; a reader refuses a newer one."""

_NAME = re.compile(r"step_(\d{8,})")
_TEMPORARY = ".writing_"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk whose files have been checked."""

    folder: Path
    step: int
    """Optimizer steps done."""
    state: dict[str, Any]
    """Everything that is not a tensor."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of "student", "teacher" or "optimizer", on the CPU."""
        return load_file(self.folder / f"{name}.safetensors")


def save(root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep`.

    Args:
        root: The folder of the checkpoints.
        step: Optimizer steps done.
        tensors: "student", "teacher" and "optimizer", each a mapping from names to tensors on any device.
        state: Everything else, as JSON can hold it.
        keep: Checkpoints to keep, this one included.

    Returns:
        The folder of the new checkpoint.

    Raises:
        RunStopped: It could not be written, for example because the disk is full; the ones before it are untouched.
    """
    final = root / f"step_{step:08d}"
    folder = root / f"{_TEMPORARY}{step:08d}"
    try:
        root.mkdir(exist_ok=True)
        clean(root)
        folder.mkdir()
        files = {}
        for name, values in tensors.items():
            path = folder / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
            files[path.name] = _check(path, sync=True)
        text = json.dumps({"format": FORMAT, "step": step, "files": files, **state})
        body = json.dumps({"crc32": zlib.crc32(text.encode()), "state": text})
        with open(folder / "state.json", "w") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(folder)
        if final.exists():  # a damaged one of the same step
            os.rename(final, root / f"{_TEMPORARY}old_{step:08d}")
        os.rename(folder, final)
        _sync_folder(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "os error 28" in str(error)
        reason = "the disk is full" if full else str(error)
        good = [f"the last good one is {path}" for _, path in _list(root)[-1:]] or ["there is none before it"]
        raise RunStopped(
            f"checkpoint {final} could not be written: {reason}; {good[0]}. "
            "Free some space (or lower checkpoint.keep) and run the same command again"
        ) from error
    for _, path in _list(root)[:-keep]:
        # Renamed first: a kill while the files go leaves no half of a checkpoint under its name.
        dying = root / f"{_TEMPORARY}old_{path.name}"
        os.rename(path, dying)
        shutil.rmtree(dying)
    clean(root)
    return final


def newest(root: Path, *, set_aside: bool = False, report: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; None if there is no checkpoint at all.

    Args:
        root: The folder of the checkpoints.
        set_aside: Rename damaged ones, so that they are never taken for good ones again.
        report: Receives one line for each damaged checkpoint; by default it is logged.

    Raises:
        RunError: There are checkpoints, but none is good.
    """
    say = report or tell
    found = _list(root)
    for step, folder in reversed(found):
        try:
            return read(folder)
        except RunError as error:
            before = [path.name for other, path in found if other < step]
            say(f"warning: {error}; trying {before[-1]}, the one before it" if before else f"warning: {error}")
            if set_aside:
                aside = root / f"damaged_{folder.name}"
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(folder, aside)
    if found:
        raise RunError(
            f"no checkpoint in {root} is good, so the run cannot continue; "
            "delete its folder to begin again, or put a copy of a checkpoint back"
        )
    return None


def read(folder: Path) -> Checkpoint:
    """Check the files of one checkpoint.

    Raises:
        RunError: A file is missing, truncated or changed; the message names it.
    """
    try:
        body = json.loads((folder / "state.json").read_text())
        text = body["state"]
        if zlib.crc32(text.encode()) != body["crc32"]:
            raise ValueError("its checksum differs")
        state = json.loads(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"checkpoint {folder} is damaged: state.json cannot be read ({error})") from error
    if state["format"] > FORMAT:
        raise RunError(f"checkpoint {folder} was written by a newer version of d2v_fast (format {state['format']})")
    for name, written in state["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != written["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes where {written['bytes']} were written"
            raise RunError(f"checkpoint {folder} is damaged: {name} {what}")
        if _check(path)["crc32"] != written["crc32"]:
            raise RunError(f"checkpoint {folder} is damaged: the checksum of {name} differs")
    return Checkpoint(folder, state["step"], state)


def clean(root: Path) -> None:
    """Remove what a process that died left half written or half deleted."""
    for path in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)


def _list(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints in `root`, oldest first."""
    if not root.is_dir():
        return []
    return sorted((int(match[1]), path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)))


def _check(path: Path, *, sync: bool = False) -> dict[str, int]:
    """Size and CRC-32 of a file (damage, not malice, is what has to be noticed); `sync` forces it to the disk first."""
    crc = size = 0
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return {"bytes": size, "crc32": crc}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
