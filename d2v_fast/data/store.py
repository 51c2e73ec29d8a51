"""Encoded samples by number: files below a root, or slices of archives, opened only where that is allowed."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from d2v_fast.data.file_part import FilePart
from d2v_fast.data.paths import Fence
from d2v_fast.data.remote import RemoteFile, remote_bytes
from d2v_fast.errors import SampleError

MAX_BYTES = 1 << 30
"""Larger files are not read into memory as a whole: one sample must not take all there is."""


class Store(Protocol):
    """Files or the like, before they are decoded. Every method may be called from several threads."""

    @property
    def names(self) -> Sequence[str]:
        """A name for each sample, which stays with it."""
        ...

    def label(self, index: int) -> str:
        """What messages call the sample: a path that can be looked at, where there is one."""
        ...

    def path(self, index: int) -> Path | None:
        """The file that is this sample and nothing else; None if there is no such file.

        Raises:
            SampleError: The file may not be opened.
        """
        ...

    def extension(self, index: int) -> str:
        """What the name of the sample's file ends in, in lower case (".wav"); "" where it has none."""
        ...

    def span(self, index: int) -> tuple[float, float] | None:
        """The part of its file that is the sample: first second and seconds (nan: to the end); None if it is all."""
        ...

    def open(self, index: int) -> BinaryIO:
        """The sample as a file.

        Raises:
            OSError: It cannot be opened.
            SampleError: It may not be opened.
        """
        ...

    def read(self, index: int) -> np.ndarray:
        """The sample as it is stored, uint8 [bytes].

        Raises:
            SampleError: It is gone, enormous or cut off, or may not be opened.
        """
        ...


def span_name(start: float, length: float) -> str:
    """What the name of a part of a file ends in: ` [5.5 s + 3 s]`."""
    return f" [{start!r} s + {length!r} s]" if length == length else f" [from {start!r} s]"


class FileStore:
    """Files below a root, or slices of such files.

    Args:
        root: The folder that the names are relative to.
        names: Of the samples; paths, unless `places` says where a sample lies.
        places: int64 [N, 2], which of `containers` a sample lies in (-1: it is a file of its own), and its first byte.
        file_bytes: int64 [N], bytes of each sample; needed for slices only.
        containers: Paths of the archives, relative to the root, or addresses that fsspec knows ("s3://...").
        spans: float64 [N, 2], where samples are parts of their files: see `Listing`. Their names end in `span_name`.
        fence: Where files may lie; None trusts all links, as they are in a folder that the user has named.
        compared: A file of another size than `file_bytes` says is a broken sample.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        *,
        places: np.ndarray | None = None,
        file_bytes: np.ndarray | None = None,
        containers: Sequence[str] = (),
        spans: np.ndarray | None = None,
        fence: Fence | None = None,
        compared: bool = False,
    ) -> None:
        self.root, self.names, self._spans = root, names, spans
        self._home = "" if root == Path() else str(root)  # joined as text: making a `Path` takes longer than opening it
        self._places, self._bytes, self._containers, self._fence = places, file_bytes, containers, fence
        self._compared = compared

    def fenced(self, fence: Fence) -> FileStore:
        """The same files, where only those inside are opened."""
        return FileStore(
            self.root,
            self.names,
            places=self._places,
            file_bytes=self._bytes,
            containers=self._containers,
            spans=self._spans,
            fence=fence,
            compared=self._compared,
        )

    def some(self, numbers: Sequence[int]) -> FileStore:
        """A store of some of these samples alone, small enough to be given to another process."""
        places, containers = None, self._containers
        if self._places is not None:
            places = self._places[numbers]
            used, new = np.unique(places[:, 0], return_inverse=True)
            containers = ["" if i < 0 else self._containers[i] for i in used.tolist()]
            places[:, 0] = np.where(places[:, 0] < 0, -1, new.reshape(-1))
        return FileStore(
            self.root,
            [self.names[i] for i in numbers],
            places=places,
            file_bytes=None if self._bytes is None else self._bytes[numbers],
            containers=containers,
            spans=None if self._spans is None else self._spans[numbers],
            fence=self._fence,
            compared=self._compared,
        )

    def label(self, index: int) -> str:
        """The sample's path."""
        name = self.names[index]
        if name.startswith(os.pardir):  # a line of a manifest that lies above its root
            return os.path.normpath(self.root / name)
        if self._places is not None:  # a member may be called "/a.wav"
            return name if "://" in name else str(self.root / name)
        return os.path.join(self._home, name)

    def extension(self, index: int) -> str:
        """That of the sample's file or member; see `Store`."""
        return os.path.splitext(self._file(index))[1].lower()

    def span(self, index: int) -> tuple[float, float] | None:
        """The part of the file that is the sample; see `Store`."""
        if self._spans is None:
            return None
        start, length = self._spans[index].tolist()
        return None if start == 0 and length != length else (start, length)

    def _file(self, index: int) -> str:
        span = self.span(index)
        return self.names[index] if span is None else self.names[index].removesuffix(span_name(*span))

    def path(self, index: int) -> Path | None:
        """The sample's file, None for a slice; see `Store`."""
        path = self._plain(index)
        return None if path is None else Path(path)

    def _plain(self, index: int) -> str | None:
        if self._places is not None and self._places[index, 0] >= 0:
            return None
        path = self._allowed(os.path.join(self._home, self._file(index)))
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # left to whoever opens it
            return path
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # it might wait for ever, or never end
            raise SampleError(self.label(index), "is not a plain file")
        if self._compared and self._bytes is not None and status.st_size != self._bytes[index] >= 0:
            raise SampleError(
                self.label(index),
                f"has {status.st_size} bytes, but had {self._bytes[index]} when the data was indexed",
            )
        return path

    def open(self, index: int) -> BinaryIO:
        """The sample as a file; see `Store`."""
        path = self._plain(index)
        if path is not None:
            return open(path, "rb")
        container, start, size = self._slice(index)
        if "://" in container:
            return io.BufferedReader(RemoteFile(container, start, size))
        return io.BufferedReader(_Window(self._allowed(os.path.join(self._home, container)), start, size))

    def read(self, index: int) -> np.ndarray:
        """The sample as it is stored; see `Store`."""
        label, size, start = self.label(index), -1, 0
        try:
            path = self._plain(index)
            if path is None:
                container, start, size = self._slice(index)
                if size < 0:
                    raise SampleError(label, f"claims to have {size} bytes")
                check_bytes(size, label)
                if "://" in container:
                    data = np.frombuffer(bytearray(remote_bytes(container, start, start + size)), np.uint8)
                else:
                    archive = self._allowed(os.path.join(self._home, container))
                    data = np.fromfile(archive, np.uint8, count=size, offset=start)
            else:
                with open(path, "rb") as file:
                    check_bytes(os.fstat(file.fileno()).st_size, label)
                    data = np.fromfile(file, np.uint8)
        except OSError as error:
            raise SampleError(label, error.strerror or str(error)) from error
        if len(data) < size:
            raise SampleError(label, f"is cut off: {len(data)} of {size} bytes are there")
        if len(data) == 0:
            raise SampleError(label, "is empty")
        return data

    def _allowed(self, path: str) -> str:
        if self._fence is not None:
            self._fence.check(path)
        return path

    def _slice(self, index: int) -> tuple[str, int, int]:
        assert self._places is not None
        assert self._bytes is not None
        container, start = self._places[index].tolist()
        return self._containers[container], start, int(self._bytes[index])


def check_bytes(size: int, label: str) -> None:
    """Refuses a sample that would fill the memory.

    Raises:
        SampleError: It is larger than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise SampleError(label, f"has {human_bytes(size)} (at most {human_bytes(MAX_BYTES)} are read at once)")


def human_bytes(count: float) -> str:
    """`35.2 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class _Window(FilePart):
    """A part of a local file, as a file."""

    def __init__(self, path: str, start: int, size: int) -> None:
        super().__init__(start, size)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (closed by `close`)

    def between(self, start: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), end - start, start)

    def close(self) -> None:
        self._file.close()
        super().close()
