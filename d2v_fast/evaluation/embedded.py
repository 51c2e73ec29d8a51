"""Files of features: safetensors, npy and parquet, as they are read; `parts` writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from d2v_fast.errors import DataError

ENDINGS = (".safetensors", ".npy", ".parquet")
NAMES = ".names.jsonl"
"""What the list of samples beside a .npy ends in: a line for each with id, name and number of rows."""


@dataclass(frozen=True)
class Embedded:
    """Features of samples."""

    features: np.ndarray
    """float32 [N, C] or [N, layers, C]; of each token: [all tokens, C] or [all tokens, layers, C]."""

    ids: np.ndarray
    """int64 [N], numbers of the samples in their source, ascending; those that could not be read are missing."""

    names: list[str]
    """[N], their names."""

    counts: np.ndarray | None = None
    """int64 [N], tokens of each sample, whose features follow each other; None where they are pooled."""

    broken: dict[str, str] = field(default_factory=dict)
    """Name and reason of what could not be read."""

    step: tuple[float, int] | None = None
    """Seconds from one moment to the next, and tokens of a moment; None where there is no time."""

    def __len__(self) -> int:
        return len(self.ids)

    def times(self, sample: int) -> np.ndarray:
        """When each token of the features of a sample begins, in seconds: float64 [counts[sample]].

        Raises:
            ValueError: The features are pooled, or of what has no time.
        """
        if self.counts is None or self.step is None:
            raise ValueError("these features are pooled, or of samples that have no time")
        seconds, tokens = self.step
        return np.arange(int(self.counts[sample])) // tokens * seconds


def read_embedded(path: str | Path) -> Embedded:
    """Reads what `d2v_fast.embed` has written, of any format; the features of a .npy stay on the disk (a map).

    Raises:
        DataError: There is no such file, or it is none of these.
    """
    path = Path(path).expanduser()
    if path.suffix not in ENDINGS or not path.is_file():
        raise DataError(f"{path} is no file of features ({', '.join(ENDINGS)})")
    if path.suffix == ".safetensors":
        arrays = load_file(path)
        with safe_open(path, "np") as file:
            about = file.metadata()
        step = _step(about.get("step"))
        return Embedded(arrays["features"], arrays["ids"], json.loads(about["names"]), arrays.get("counts"), step=step)
    if path.suffix == ".npy":
        with path.with_name(path.name + NAMES).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        features = np.load(path, mmap_mode="r")
        rows = np.array([line["rows"] for line in lines], dtype=np.int64)
        counts = None if len(features) == len(lines) and (rows == 1).all() else rows
        ids, names = np.array([line["id"] for line in lines]), [line["name"] for line in lines]
        return Embedded(features, ids, names, counts, step=lines[0].get("step") and tuple(lines[0]["step"]))
    return _read_parquet(path)


def _read_parquet(path: Path) -> Embedded:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    counts, found = None, []
    for name in table.column_names[2:]:
        column = table[name].chunk(0)
        if isinstance(column, pa.ListArray):
            counts = np.diff(column.offsets.to_numpy())
            column = column.flatten()
        found.append(column.flatten().to_numpy().reshape(-1, column.type.list_size))
    features = found[0] if table.column_names[2:] == ["features"] else np.stack(found, axis=1)
    counts = None if counts is None else counts.astype(np.int64)
    step = _step((table.schema.metadata or {}).get(b"step"))
    return Embedded(features, table["id"].to_numpy(), table["name"].to_pylist(), counts, step=step)


def _step(written: str | bytes | None) -> tuple[float, int] | None:
    found = None if written is None else json.loads(written)
    return None if found is None else (float(found[0]), int(found[1]))
