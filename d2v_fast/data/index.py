"""The index: which samples there are and how large each is, kept in the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.listing import Listing
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError
from d2v_fast.files import write_whole

FILE = "index.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """A listing with what the headers say."""

    modality: str
    names: list[str]
    file_bytes: np.ndarray
    sizes: np.ndarray
    """int64 [N, k], what the modality's header reader returns; zeros for an unreadable file."""

    problems: dict[int, str]
    """Why a file is unreadable, by its number."""

    extra: dict[str, Any] = field(default_factory=dict)
    """What else there is to keep: the files that must not change, where these are not the samples; archives; text:
    facts about tokens.bin."""

    places: np.ndarray | None = None
    """int64 [N, 2], where in its archive a sample lies; see `Listing`."""

    notes: dict[str, Any] = field(default_factory=dict)
    """What a later start has to know and no sample depends on: the endings that were looked for, whose tokenizer it
    is. Empty in an index that was made before there were notes."""

    @property
    def files(self) -> dict[str, int]:
        """Files that must not change, with their sizes in bytes."""
        return self.extra.get("files") or dict(zip(self.names, self.file_bytes.tolist(), strict=True))

    @property
    def containers(self) -> tuple[str, ...]:
        """The archives, relative to the root."""
        return tuple(self.extra.get("containers", ()))

    @property
    def spans(self) -> np.ndarray | None:
        """float64 [N, 2], which part of its file a sample is; see `Listing`."""
        found = self.extra.get("spans")
        return None if found is None else np.array(found, dtype=np.float64).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        """Hash of the names, the file sizes and the sample sizes."""
        digest = hashlib.blake2b(self.modality.encode(), digest_size=16)
        digest.update("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(self.file_bytes.astype("<i8").tobytes())
        digest.update(self.sizes.astype("<i8").tobytes())
        digest.update(json.dumps(self.extra, sort_keys=True).encode())
        if self.places is not None:
            digest.update(self.places.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a header line and one line per file, under a temporary name first."""
        head = {"format": _FORMAT, "modality": self.modality, "files": len(self.names), "fingerprint": self.fingerprint}
        lines = [json.dumps(head | {"extra": self.extra, "notes": self.notes})]
        for i, name in enumerate(self.names):
            line: list[Any] = [name, int(self.file_bytes[i]), self.sizes[i].tolist()]
            if i in self.problems or self.places is not None:
                line.append(self.problems.get(i))
            if self.places is not None:
                line.append(self.places[i].tolist())
            lines.append(json.dumps(line))
        write_whole(path, "\n".join(lines) + "\n")

    @staticmethod
    def load(path: Path, modality: str) -> Index:
        """Reads what `save` wrote.

        Raises:
            DataError: The file is damaged, of another version or modality, or cannot be read just now.
        """
        try:
            with path.open(encoding="utf-8") as file:
                head = json.loads(file.readline())
                rows = [json.loads(line) for line in file]
            if head["format"] != _FORMAT:
                raise DataError(
                    f"{path} was written by another version of d2v_fast (format {head['format']}, this one reads "
                    f"{_FORMAT}): use that version for this run"
                )
            if head["modality"] != modality:
                raise DataError(f"{path} describes {head['modality']}, not {modality}: use another folder for this run")
            if "files" not in head:
                raise DataError(f"{path} belongs to a DataSource, not to files: use another folder for this run")
            index = Index(
                modality,
                [row[0] for row in rows],
                np.array([row[1] for row in rows], dtype=np.int64),
                np.array([row[2] for row in rows], dtype=np.int64),
                {i: row[3] for i, row in enumerate(rows) if len(row) > 3 and row[3] is not None},
                head["extra"],
                np.array([row[4] for row in rows], dtype=np.int64) if rows and len(rows[0]) > 4 else None,
                head.get("notes", {}),
            )
            if not isinstance(index.notes, dict):
                raise TypeError(f"notes {index.notes!r}")
            whole = index.fingerprint == head["fingerprint"]
        except OSError as error:
            raise DataError(
                f"{path} cannot be read just now ({error.strerror or error}); nothing says that it is damaged: see to "
                "the disk or the permissions and start again"
            ) from error
        except DataError:
            raise
        except Exception as error:  # of JSON, of wrong types, of numbers beyond 64 bits
            raise DataError(
                f"{path} is damaged ({type(error).__name__}: {error}): delete it, and the data is indexed again"
            ) from error
        if not whole:
            raise DataError(f"{path} is damaged: delete it, and the data is indexed again")
        return index


GONE = -1
"""The size of a file that is not there."""


@dataclass(frozen=True)
class Collection:
    """Samples that were found but not looked at yet: a folder, a manifest, archives, rows of a table."""

    where: str
    """For messages."""

    files: Mapping[str, int] | None
    """What must not change during a run, and its size in bytes; None if that is the listing itself."""

    listing: Callable[[], Listing]
    """Finds the samples; may be slow."""

    store: Callable[[Listing | Index], Store]
    """Opens the samples of a listing, or those of an index that was made of it."""

    endings: tuple[str, ...] = ()
    """What the names of the files end in, where they were found by that."""

    fields: Callable[[], dict[str, dict[str, Any]]] | None = None
    """Reads what else is said about the samples, by their names: the other columns of a manifest or a table, the files
    or members beside a sample, its folder. Only labels need it."""


def check_fingerprint(run: Path, modality: str, samples: int, fingerprint: str) -> None:
    """Keeps the fingerprint of a source of one's own in `run`, or compares it with the one kept there.

    Raises:
        DataError: The run began with other data.
    """
    path = run / FILE
    now = {"format": _FORMAT, "modality": modality, "samples": samples, "fingerprint": fingerprint}
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(now) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
    except OSError as error:
        raise DataError(f"{path} cannot be read just now ({error.strerror or error}): start again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it, and it is written again") from error
    if not isinstance(before, dict):
        raise DataError(f"{path} is damaged: delete it, and it is written again")
    if before != now:
        changed = ", ".join(
            f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if before.get(key) != now[key]
        )
        raise DataError(
            f"data is not what this run began with: {changed}. Continue with what there is now by --data-changed "
            "(data_changed=True), or start a new run in another folder."
        )


def head_of(path: Path) -> dict[str, Any] | None:
    """The first line of an index, of files or of a source of one's own; None if there is no index, or no such line."""
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read just now ({error.strerror or error}): start again") from error
    except (ValueError, RecursionError):  # damaged
        return None
    return head if isinstance(head, dict) else None


def keep_notes(path: Path, before: Path, modality: str) -> None:
    """Put the notes of the index `before` into the one at `path`, except where files are looked for.

    Whose tokenizer it is, for example, does not change with the data.
    """
    new, old = head_of(path), head_of(before)
    if new is None or "files" not in new:  # a source of one's own
        return
    index = Index.load(path, modality)
    if old is None or "files" not in old:
        notes = {name: value for name, value in index.notes.items() if name != "tokenizer"}
    elif not (known := old.get("notes", {})):
        notes = {}
    else:
        notes = known | {name: index.notes[name] for name in ("endings",) if name in index.notes}
    replace(index, notes=notes).save(path)
