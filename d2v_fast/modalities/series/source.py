"""Recordings of many channels from files: .npy, Parquet with a column for each channel, WAV and other sound files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.collection import Collection
from d2v_fast.data.formats import parquet
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError
from d2v_fast.modalities import npy, recordings
from d2v_fast.modalities.recordings import MATRICES, Reader, Recordings
from d2v_fast.modalities.series.config import SeriesInputs

FORMATS = ".npy, Parquet or WAV"

PARQUET = ".parquet"


def kind(inputs: SeriesInputs | None) -> Kind:
    """Recordings as the formats see them."""
    if inputs is None:
        return recordings.kind("series", FORMATS, None, _readers(()))
    return recordings.kind("series", FORMATS, inputs.sample_rate, _readers(inputs.channels))


def open_series(
    found: Collection, inputs: SeriesInputs, channels: int | None, *, run: Path | None, threads: int
) -> Recordings:
    """Indexes recordings; those with another number of channels than the model takes cannot be read.

    Args:
        found: Files.
        inputs: How they become inputs.
        channels: Of the model, if there is one.
        run: Folder for the index; None keeps it in memory.
        threads: Threads that read headers.
    """
    source = Recordings(
        "series",
        found,
        rate=inputs.sample_rate,
        mono=False,
        readers=_readers(inputs.channels),
        run=run,
        threads=threads,
    )
    if channels is not None:
        source.expect(channels, "model.embedding.channels")
    return source


def _readers(columns: tuple[str, ...]) -> Mapping[str, Reader]:
    return {**MATRICES, PARQUET: _parquet(columns)}


def _parquet(columns: tuple[str, ...]) -> Reader:
    """Reads Parquet files, a row for each point in time."""

    def shape(store: Store, index: int) -> tuple[int, int]:
        with store.open(index) as file:
            table = parquet.table(file)
            names = _columns(table.schema_arrow.names, columns, store.label(index))
            rows = table.metadata.num_rows
        if rows == 0 or rows * len(names) > npy.MOST:
            raise SampleError(store.label(index), f"has {rows} rows (at least 1, and at most {npy.MOST} numbers)")
        return rows, len(names)

    def load(store: Store, index: int, expected: tuple[int, int]) -> np.ndarray:
        label = store.label(index)
        table: Any = parquet.table(BytesIO(store.read(index).data))
        names = _columns(table.schema_arrow.names, columns, label)
        read: Callable[..., Any] = table.read
        found = _matrix(read(columns=names), names, label)
        if found.shape != expected:
            raise SampleError(label, f"is {list(found.shape)}, but was {list(expected)} when the data was indexed")
        return found

    def part(store: Store, index: int, expected: tuple[int, int], rows: slice, axis: int) -> np.ndarray | None:
        label = store.label(index)
        if axis != 0 or store.path(index) is None:
            return None
        with store.open(index) as file:
            table: Any = parquet.table(file)
            names = _columns(table.schema_arrow.names, columns, label)
            if (there := (table.metadata.num_rows, len(names))) != expected:
                raise SampleError(label, f"is {list(there)}, but was {list(expected)} when the data was indexed")
            counts = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
            ends = np.cumsum(counts)
            groups = [i for i, end in enumerate(ends.tolist()) if end > rows.start and end - counts[i] < rows.stop]
            before = int(ends[groups[0]]) - counts[groups[0]]
            values = table.read_row_groups(groups, columns=names)
            return _matrix(values.slice(rows.start - before, rows.stop - rows.start), names, label)

    return Reader(shape, load, part)


def _matrix(values: Any, names: list[str], label: str) -> np.ndarray:
    """float32 [rows, columns] of a table.

    Raises:
        SampleError: A column holds no numbers.
    """
    for name in names:
        kind = str(values.schema.field(name).type)
        if not kind.startswith(("int", "uint", "float", "double", "halffloat")):
            raise SampleError(label, f"column {name!r} holds {kind}, no numbers: name the channels by inputs.channels")
    # a null becomes NaN, so that it is a gap like any other
    parts = [values.column(name).cast("float32").to_numpy() for name in names]
    return np.stack(parts, axis=1).astype(np.float32)


def _columns(there: list[str], wanted: tuple[str, ...], label: str) -> list[str]:
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise SampleError(label, f"lacks the channel {', '.join(map(repr, lacking))}; it has {', '.join(there)}")
    return list(wanted) or there
