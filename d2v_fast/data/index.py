"""The index: which samples there are and how large each is, kept in the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.columns import Damaged, read_columns, write_columns
from d2v_fast.data.names import Names, encoded
from d2v_fast.errors import DataError

FILE = "index.bin"
"""A file of columns; see `columns`."""

LINES = "index.jsonl"
"""What earlier versions wrote, a line for each sample; and the single line that is kept about a source of one's
own."""

_FORMAT = 2
FORMAT_OF_LINES = 1
_PIECE = 1 << 16
"""Rows that are hashed at once."""


@dataclass(frozen=True)
class Index:
    """A listing with what the headers say."""

    modality: str
    names: Sequence[str]
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

    spans: np.ndarray | None = None
    """float64 [N, 2], which part of its file a sample is; see `Listing`."""

    known: Mapping[str, Any] = field(default_factory=dict)
    """What need not be computed again as it was read from the file: "fingerprint" and "ranges"."""

    @property
    def files(self) -> dict[str, int]:
        """Files that must not change, with their sizes in bytes."""
        return self.extra.get("files") or dict(zip(self.names, self.file_bytes.tolist(), strict=True))

    @property
    def containers(self) -> tuple[str, ...]:
        """The archives, relative to the root."""
        return tuple(self.extra.get("containers", ()))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The smallest and the largest of each column of `sizes`, of samples that can be read; (0, 0) if none can."""
        if "ranges" in self.known:
            return [(low, high) for low, high in self.known["ranges"]]
        read = self.sizes[(self.sizes != 0).any(axis=1)]
        return list(zip(read.min(0).tolist(), read.max(0).tolist(), strict=True)) if len(read) else [(0, 0)]

    @property
    def fingerprint(self) -> str:
        """Hash of the names, the file sizes and the sample sizes."""
        if "fingerprint" in self.known:
            return str(self.known["fingerprint"])
        digest = hashlib.blake2b(self.modality.encode(), digest_size=16)
        digest.update(self.names.text.data if isinstance(self.names, Names) else encoded(self.names))
        for array in (self.file_bytes, self.sizes):
            _update(digest, array)
        for text in self._said():
            digest.update(text.encode())
        if self.places is not None:
            _update(digest, self.places)
        return digest.hexdigest()

    def _said(self) -> Iterator[str]:
        """`extra` and "spans", which was a part of it, as JSON."""
        if self.spans is None:
            yield json.dumps(self.extra, sort_keys=True)
            return
        for i, key in enumerate(sorted([*self.extra, "spans"])):
            yield "{" if i == 0 else ", "
            if key != "spans":
                yield json.dumps({key: self.extra[key]}, sort_keys=True)[1:-1]
                continue
            yield '"spans": ['
            for low in range(0, len(self.spans), _PIECE):
                yield ", " if low else ""
                yield json.dumps(self.spans[low : low + _PIECE].tolist())[1:-1]
            yield "]"
        yield "}"

    def save(self, path: Path) -> None:
        """Writes a file of columns, under a temporary name first."""
        names = Names.of(self.names)
        problems = json.dumps({str(i): reason for i, reason in self.problems.items()}).encode()
        columns = {
            "names": names.text,
            "ends": names.ends,
            "file_bytes": self.file_bytes.astype(np.int64, copy=False),
            "sizes": self.sizes.astype(np.int64, copy=False),
            "problems": np.frombuffer(problems, np.uint8),
        }
        if self.places is not None:
            columns["places"] = self.places.astype(np.int64, copy=False)
        if self.spans is not None:
            columns["spans"] = self.spans
        head = {"format": _FORMAT, "modality": self.modality, "files": len(names), "fingerprint": self.fingerprint}
        write_columns(path, head | {"ranges": self.ranges, "extra": self.extra, "notes": self.notes}, columns)

    @staticmethod
    def load(path: Path, modality: str, *, all_of_it: bool = False) -> Index:
        """Reads what `save` wrote, or what earlier versions did.

        Args:
            path: Of the file; its name says which of the two it is.
            modality: Of the run.
            all_of_it: Compare a file of columns with its hashes also where it is large.

        Raises:
            DataError: The file is damaged, of another version or modality, or cannot be read just now.
        """
        try:
            if path.name.endswith(".jsonl"):
                return _load_lines(path, modality)
            head, columns = read_columns(path, all_of_it=all_of_it)
            _check_head(path, head, modality, _FORMAT)
            return Index(
                modality,
                Names(columns["names"], columns["ends"]),
                columns["file_bytes"],
                columns["sizes"],
                {int(i): reason for i, reason in json.loads(columns["problems"].tobytes()).items()},
                head["extra"],
                columns.get("places"),
                head["notes"],
                columns.get("spans"),
                {"fingerprint": head["fingerprint"], "ranges": head["ranges"]},
            )
        except OSError as error:
            raise DataError(
                f"{path} cannot be read just now ({error.strerror or error}); nothing says that it is damaged: see to "
                "the disk or the permissions and start again"
            ) from error
        except DataError:
            raise
        except Exception as error:  # of JSON, of wrong types, of numbers beyond 64 bits
            why = "" if isinstance(error, Damaged) else f"{type(error).__name__}: "
            raise DataError(f"{path} is damaged ({why}{error}): delete it, and the data is indexed again") from error


def _update(digest: Any, array: np.ndarray) -> None:
    for low in range(0, len(array), _PIECE):
        digest.update(np.ascontiguousarray(array[low : low + _PIECE], dtype="<i8"))


def _check_head(path: Path, head: Mapping[str, Any], modality: str, reads: int) -> None:
    if head["format"] != reads:
        raise DataError(
            f"{path} was written by another version of d2v_fast (format {head['format']}, this one reads {reads}): "
            "use that version for this run"
        )
    if head["modality"] != modality:
        raise DataError(f"{path} describes {head['modality']}, not {modality}: use another folder for this run")
    if "files" not in head:
        raise DataError(f"{path} belongs to a DataSource, not to files: use another folder for this run")


def _load_lines(path: Path, modality: str) -> Index:
    """An index of earlier versions."""
    with path.open(encoding="utf-8") as file:
        head = json.loads(file.readline())
        rows = [json.loads(line) for line in file]
    _check_head(path, head, modality, FORMAT_OF_LINES)
    extra = dict(head["extra"])
    spans = extra.pop("spans", None)
    index = Index(
        modality,
        [row[0] for row in rows],
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
        {i: row[3] for i, row in enumerate(rows) if len(row) > 3 and row[3] is not None},
        extra,
        np.array([row[4] for row in rows], dtype=np.int64) if rows and len(rows[0]) > 4 else None,
        head.get("notes", {}),
        None if spans is None else np.array(spans, dtype=np.float64).reshape(-1, 2),
    )
    if not isinstance(index.notes, dict):
        raise TypeError(f"notes {index.notes!r}")
    if index.fingerprint != head["fingerprint"]:
        raise Damaged("its fingerprint is not that of what was written")
    return replace(index, known={"fingerprint": head["fingerprint"]})


def index_file(run: Path) -> Path:
    """The index in a folder: the file of columns, unless there is only one of lines."""
    path, lines = run / FILE, run / LINES
    return lines if not path.exists() and lines.exists() else path
