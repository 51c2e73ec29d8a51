"""What the data was that a run began with, without its samples: the head of its index."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2v_fast.data.columns import Damaged, read_head
from d2v_fast.data.index import FILE, FORMAT_OF_LINES, LINES, Index, index_file
from d2v_fast.errors import DataError
from d2v_fast.files import write_whole


def check_fingerprint(run: Path, modality: str, samples: int, fingerprint: str) -> None:
    """Keeps the fingerprint of a source of one's own in `run`, or compares it with the one kept there.

    Raises:
        DataError: The run began with other data.
    """
    path = index_file(run)
    now = {"format": FORMAT_OF_LINES, "modality": modality, "samples": samples, "fingerprint": fingerprint}
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / LINES, json.dumps(now) + "\n")
        return
    before = head_of(run)
    if before is None:
        raise DataError(f"{path} is damaged: delete it, and it is written again")
    if before != now:
        changed = ", ".join(
            f"{key} was {before.get(key)!r}, is {now[key]!r}"
            for key in ("modality", "samples", "fingerprint")
            if before.get(key) != now[key]
        )
        raise DataError(
            f"data is not what this run began with: {changed}. Continue with what there is now by --data-changed "
            "(data_changed=True), or start a new run in another folder."
        )


def head_of(run: Path) -> dict[str, Any] | None:
    """The head of the index in a folder, of files or of a source of one's own; None if there is none, or a damaged one.

    Raises:
        DataError: It cannot be read just now.
    """
    path = index_file(run)
    try:
        if path.name == FILE:
            return read_head(path)
        with path.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read just now ({error.strerror or error}): start again") from error
    except (Damaged, ValueError, RecursionError):
        return None
    return head if isinstance(head, dict) else None


def keep_notes(folder: Path, run: Path, modality: str) -> None:
    """Put the notes of the index of `run` into the one in `folder`, except where files are looked for.

    Whose tokenizer it is, for example, does not change with the data.
    """
    new, old = head_of(folder), head_of(run)
    if new is None or "files" not in new:  # a source of one's own
        return
    path = index_file(folder)
    index = Index.load(path, modality)
    if old is None or "files" not in old:
        notes = {name: value for name, value in index.notes.items() if name != "tokenizer"}
    elif not (known := old.get("notes", {})):
        notes = {}
    else:
        notes = known | {name: index.notes[name] for name in ("endings", "manifest") if name in index.notes}
    replace(index, notes=notes).save(path)
