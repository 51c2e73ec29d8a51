"""Rows of Hugging Face `datasets`: an object, or a folder that `save_to_disk` has written (extra `hf`)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.listing import Listing
from d2v_fast.data.own import DOCUMENT
from d2v_fast.data.paths import Fence
from d2v_fast.data.store import check_bytes
from d2v_fast.errors import DataError, SampleError, reading

_TABLES = (
    ("datasets.arrow_dataset", "Dataset"),
    ("datasets.iterable_dataset", "IterableDataset"),
    ("datasets.dataset_dict", "DatasetDict"),
    ("datasets.dataset_dict", "IterableDatasetDict"),
)
"""Where the classes of Hugging Face's tables are. A module of somebody's own called `datasets` has no such parts."""


def is_table(data: object) -> bool:
    """Whether an object is a table of Hugging Face `datasets`; imports nothing, as whoever has one has imported it."""
    known = [getattr(sys.modules.get(module), name, None) for module, name in _TABLES]
    return isinstance(data, tuple(cls for cls in known if isinstance(cls, type)))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` has written a folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def saved(folder: Path, kind: Kind, allow_roots: Sequence[str]) -> Collection:
    """The rows of a saved folder; of several splits "train" is taken.

    Raises:
        DataError: `datasets` is not installed, the folder is damaged, or has no column of the modality.
    """
    return rows(load(folder), kind, where=str(folder), fence=Fence(folder, allow_roots))


def load(folder: Path) -> Any:
    """What `save_to_disk` has written.

    Raises:
        DataError: `datasets` is not installed, or the folder is damaged.
    """
    try:
        from datasets import load_from_disk
    except Exception as error:  # not installed; broken; or another module of that name
        raise DataError(
            f"data: {folder} was saved by Hugging Face datasets, which is not installed: pip install 'd2v_fast[hf]' "
            f"({type(error).__name__}: {error})"
        ) from error
    try:
        return load_from_disk(str(folder))
    except Exception as error:  # whatever its readers raise
        raise DataError(f"data: {folder} cannot be read by Hugging Face datasets: {error}") from error


def rows(data: Any, kind: Kind, *, where: str | None = None, fence: Fence | None = None) -> Collection:
    """The rows of a `datasets.Dataset`, or of the split "train" of a `DatasetDict`.

    Raises:
        DataError: It is streamed, has no column of the modality, or no split "train".
    """
    where = where or f"the {type(data).__name__}"
    data = split(data, where)
    column = _column(data, kind, where)
    fields = partial(columns, data, column)
    if not kind.documents:
        feature = type(data.features[column])
        data = data.cast_column(column, feature(decode=False))
    data = data.select_columns([column]).with_format(None)

    def files() -> dict[str, int]:
        return {f"{column} of {data._fingerprint}": len(data)}

    if kind.documents:
        texts = TextStore(column, where, lambda: (text for batch in data.iter(1000) for text in batch[column]))
        return Collection(where, files, lambda: Listing([column], np.array([len(data)])), lambda known: texts)
    store = TableStore(data, column, where, fence)
    listing = Listing(store.names, np.full(len(data), -1))
    return Collection(where, files, lambda: listing, lambda known: store, fields=fields)


def split(data: Any, where: str) -> Any:
    """The table itself, or the split "train" of several.

    Raises:
        DataError: It is streamed, or there are several splits and none of that name.
    """
    if isinstance(data, dict):
        if "train" not in data and len(data) != 1:
            raise DataError(f"data: {where} has the splits {', '.join(data)}; pass one of them")
        data = data.get("train", next(iter(data.values())))
    if not hasattr(data, "__len__"):
        raise DataError(
            f"data: {where} is a {type(data).__name__}, which cannot be read at random: load it without streaming=True"
        )
    return data


def columns(data: Any, but: str | None = None) -> dict[str, dict[str, Any]]:
    """The columns of a table without media, by the names of its rows; classes as their names, not their numbers."""
    features = data.features
    wanted = [
        name for name, feature in features.items() if name != but and type(feature).__name__ not in ("Audio", "Image")
    ]
    found: dict[str, dict[str, Any]] = {}
    if not wanted:
        return found
    for i, row in enumerate(data.select_columns(wanted).with_format(None)):
        for name in wanted:
            if type(features[name]).__name__ == "ClassLabel" and row[name] is not None:
                # a table without labels for its rows, as some tests are, says -1
                row[name] = features[name].int2str(row[name]) if row[name] >= 0 else None
        found[f"row {i}"] = row
    return found


def _column(data: Any, kind: Kind, where: str) -> str:
    features = data.features
    if kind.feature is None:
        strings = [name for name, feature in features.items() if getattr(feature, "dtype", "") in _STRINGS]
        found = [DOCUMENT] if DOCUMENT in strings else strings
    else:
        found = [name for name, feature in features.items() if type(feature).__name__ == kind.feature]
    if len(found) != 1:
        wanted = kind.feature or DOCUMENT
        have = ", ".join(f"{name} ({_short(feature)})" for name, feature in features.items())
        many = "more than one" if found else "no"
        raise DataError(f"data: {where} has {many} {wanted} column; there are {have}. Leave one by select_columns")
    return found[0]


_STRINGS = ("string", "large_string")


def _short(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


class TableStore:
    """Samples in the rows of a table: their bytes, or the path of a file."""

    def __init__(self, data: Any, column: str, where: str, fence: Fence | None) -> None:
        self.names = [f"row {i}" for i in range(len(data))]
        self._data, self._column, self._where, self._fence = data, column, where, fence

    def label(self, index: int) -> str:
        """The table and the row."""
        return f"{self._where}, row {index}"

    def path(self, index: int) -> Path | None:
        """None: what a row holds is known when it is read."""
        return None

    def extension(self, index: int) -> str:
        """None: what a row holds is told by its content."""
        return ""

    def span(self, index: int) -> None:
        """A row is a sample as a whole."""
        return

    def open(self, index: int) -> BinaryIO:
        """The row's sample as a file."""
        return io.BytesIO(self.read(index).data)

    def read(self, index: int) -> np.ndarray:
        """The row's sample as it is stored; see `Store`."""
        label = self.label(index)
        with reading(label):
            value: Any = self._data[index][self._column] or {}
            content, path = value.get("bytes"), value.get("path")
            if not content and not path:
                raise SampleError(label, "is empty")
            if content:
                check_bytes(len(content), label)
                return np.frombuffer(bytearray(content), np.uint8)
        with reading(str(path)):
            file = Path(path)
            if self._fence is not None:
                self._fence.check(str(file))
            check_bytes(file.stat().st_size, str(file))
            return np.fromfile(file, np.uint8)


class TextStore:
    """A column of documents, as one sample of the corpus.

    Args:
        name: Of the column.
        where: Of the table, for messages.
        texts: Begins to give the documents.
    """

    def __init__(self, name: str, where: str, texts: Callable[[], Iterator[str | None]]) -> None:
        self.names = [name]
        self.texts = texts
        self._where = where

    def label(self, index: int) -> str:
        """The table and the column."""
        return f"{self._where}, column {self.names[index]}"

    def path(self, index: int) -> Path | None:
        """None."""
        return None

    def extension(self, index: int) -> str:
        """None: the column is no file."""
        return ""

    def span(self, index: int) -> None:
        """All of the column."""
        return

    def open(self, index: int) -> BinaryIO:
        """Not for documents: `texts` gives them."""
        raise NotImplementedError

    def read(self, index: int) -> np.ndarray:
        """Not for documents: `texts` gives them."""
        raise NotImplementedError
