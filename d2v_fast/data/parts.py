"""A scan in parts: what each process of a cluster found out lies in a folder beside the manifest, until all is there.

`MANIFEST.parts/2-of-4.part` has a line that says what was scanned and how, and then a line for each sample of the part,
in order. It gets its name when it is complete, so that a part is there as a whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v_fast.data.listing import Listing
from d2v_fast.errors import DataError
from d2v_fast.files import NOT_SUPPORTED, tell_once, write_whole
from d2v_fast.log import tell

Row = list[int] | str | None
"""What is known of a sample: its sizes; why it cannot be read; None for a file that this program wrote itself."""


@dataclass(frozen=True)
class Part:
    """One of the equal slices of a corpus, counted from 1."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Part:
        """Reads "2/4".

        Raises:
            DataError: It is something else, or there is no such part.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise DataError(f"--part {text}: it is i/n, the i-th of n parts, from 1/n to n/n, such as 2/4")
        return Part(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, samples: int) -> range:
        """Which samples of a sorted list are its own: each is in one part, and the parts differ by one at most."""
        return range((self.number - 1) * samples // self.count, self.number * samples // self.count)


def fingerprint(listing: Listing) -> str:
    """Hash of which samples there are, in which order, where they lie, and of their bytes."""
    digest = hashlib.blake2b(json.dumps([listing.names, listing.containers]).encode(), digest_size=16)
    digest.update(listing.file_bytes.astype("<i8").tobytes())
    for array, kind in ((listing.places, "<i8"), (listing.spans, "<f8")):
        digest.update(b"" if array is None else array.astype(kind).tobytes())
    return digest.hexdigest()


class Parts:
    """The parts of a manifest that are complete.

    Args:
        folder: Where they lie; it is made.
        count: How many there will be.
        task: What is scanned and how; all parts have to agree on it. Its "samples" is how many there are, and its
            "files" their fingerprint.
    """

    def __init__(self, folder: Path, count: int, task: dict[str, Any]) -> None:
        self.folder, self._count, self._task = folder, count, task
        folder.mkdir(exist_ok=True)

    def file(self, part: Part, ending: str = "part") -> Path:
        """The place of a part, or of what else belongs to it."""
        return self.folder / f"{part.number}-of-{part.count}.{ending}"

    def check(self) -> None:
        """Compares the parts that are there with the task.

        Raises:
            DataError: One belongs to another task; the message says what to do.
        """
        again = f"or delete {self.folder} and build every part again"
        for path in sorted(self.folder.glob("*-of-*.part")):
            count = path.stem.rsplit("-", 1)[1]
            if count != str(self._count):
                raise DataError(
                    f"--part: {path} is one of {count} parts, this command builds one of {self._count}: "
                    f"use --part i/{count}, {again}"
                )
            with path.open("rb") as file:
                task = _parsed(file.readline(), path)
            if not isinstance(task, dict):
                raise _damaged(path)
            for key in self._task.keys() - {"files", "samples"}:
                if task.get(key) != self._task[key]:
                    raise DataError(
                        f"--part: {path} was built with {key} {task.get(key)!r}, this command has {self._task[key]!r}: "
                        f"use the same options for every part, {again}"
                    )
            if task != self._task:
                raise DataError(
                    f"--part: the files have changed since {path} was built (then {task.get('samples')} samples, now "
                    f"{self._task['samples']}; names or sizes differ): put them back as they were, {again}"
                )

    def missing(self) -> list[Part]:
        """Those that are not complete yet."""
        there = {path.name for path in self.folder.glob("*-of-*.part")}
        every = (Part(number, self._count) for number in range(1, self._count + 1))
        return [part for part in every if self.file(part).name not in there]

    def save(self, part: Part, rows: Sequence[Row]) -> None:
        """Keeps a complete part."""
        lines = [json.dumps(self._task), *map(json.dumps, rows)]
        write_whole(self.file(part), "\n".join(lines) + "\n")

    def rows(self, width: int) -> Iterator[Row]:
        """What is known of all samples, in their order, when no part is missing.

        Args:
            width: How many sizes a sample has.

        Raises:
            DataError: A part is damaged.
        """
        for number in range(1, self._count + 1):
            part = Part(number, self._count)
            path = self.file(part)
            left = len(part.of(self._task["samples"]))
            with path.open("rb") as file:
                file.readline()
                for line in file:
                    row = _parsed(line, path)
                    left -= 1
                    sizes = isinstance(row, list) and len(row) == width and all(type(size) is int for size in row)
                    if left < 0 or not (sizes or row is None or isinstance(row, str)):
                        raise _damaged(path)
                    yield row
            if left:
                raise _damaged(path)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keeps other processes out, here and on other machines; the system ends it with the process.

        Where a file system has no locks it is told, and the work goes on.
        """
        path = self.folder / f"{name}.lock"
        with path.open("a") as file:
            try:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                    tell(f"waiting for another process that works on {path.with_suffix('')}")
                    fcntl.lockf(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED | {errno.ENOLCK}:
                    raise
                message = f"{self.folder} has no locks ({error.strerror}): start no part twice at once"
                tell_once("lock", self.folder, message)
            yield


def _parsed(line: bytes, path: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    return DataError(f"--part: {path} is damaged: delete it, and build that part again")
