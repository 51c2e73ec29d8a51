"""Whether a folder holds a run that has trained: what a start must know before it writes anything."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from d2v_fast.errors import RunError
from d2v_fast.files import exists
from d2v_fast.run import checkpoint as checkpoints
from d2v_fast.run.metrics_file import read_metrics

ABOUT = "run.json"
"""The file in a run's folder that says what became of it."""


def folder_of(path: str | Path) -> Path:
    """The path of a run's folder, absolute, without links.

    Raises:
        RunError: It is none: empty, too long, with a zero byte, or of an unknown user.
    """
    try:
        if str(path) == "":  # what a variable that is not set comes to; for a path it would be the current folder
            raise ValueError("it is empty")
        folder = Path(path).expanduser().resolve()
        exists(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{str(path)!r} cannot be the folder of a run: {error}") from error
    return folder


def evidence(run: Path) -> str | None:
    """What shows that the run in the folder `run` has trained and could lose something; None if it has not.

    Raises:
        RunError: It cannot be known just now.
    """
    root = run / "checkpoints"
    if steps := checkpoints.steps(root):
        return f"its last checkpoint is step_{steps[-1]:08d}"
    if aside := checkpoints.aside(root):
        name = aside[-1].removeprefix("damaged_")
        return f"checkpoints/{aside[-1]} was set aside; if it is good, give it its name back: {name}"
    about = read_about(run)
    if "trained" in about:
        return f"{ABOUT} says that it has had a checkpoint" if about["trained"] else None
    lines = read_metrics(run / "metrics.jsonl")  # a run of a version that had no run.json
    if not lines:
        return None
    try:
        config = read_json(run / "config.json")
        first = min(config["steps"], config["checkpoint"]["every"])
        begun = lines[-1]["step"] >= first
    except (OSError, KeyError, TypeError):
        begun = True
    return f"metrics.jsonl goes to step {lines[-1]['step']}" if begun else None


def read_about(run: Path) -> dict[str, Any]:
    """run.json; empty if it is not there.

    Raises:
        RunError: It cannot be read, or is not a run's.
    """
    path = run / ABOUT
    try:
        about = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RunError(f"{path} cannot be read just now: {error.strerror}") from error
    if not isinstance(about.get("id"), str) or not isinstance(about.get("trained"), bool):
        raise RunError(f"{path} is damaged, or is not a run's: delete it, and it is written again")
    return about


def check_seen(run: Path, known: str) -> None:
    """Look whether this process sees the folder of a run that another one, maybe of another machine, has locked.

    Args:
        run: The folder.
        known: The id that the other one sees there.

    Raises:
        RunError: It does not.
    """
    if read_about(run).get("id") != known:
        raise RunError(
            f"{run} on {socket.gethostname()} is not the folder that the main process uses: the run's folder and the "
            "data must lie where all processes see them"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is something else in it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
