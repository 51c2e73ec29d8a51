"""Files of features on their way: parts of them, which an interruption leaves, and one file of all parts."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from d2v_fast.errors import DataError
from d2v_fast.evaluation.embedded import NAMES, Embedded
from d2v_fast.files import write_whole

_LONGEST_HEADER = 100_000_000
"""Bytes that readers of safetensors accept."""


@dataclass(frozen=True)
class Parts:
    """A folder of parts on their way to one file: what is done stays done when the work is interrupted."""

    folder: Path

    def begin(self, settings: dict[str, Any]) -> int:
        """Makes the folder, or looks how far an earlier start came.

        Returns:
            The number of the first sample that is in no part.

        Raises:
            DataError: The parts are of other settings.
        """
        path = self.folder / "settings.json"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path} is damaged ({error}): delete the folder to begin anew") from error
            if before != settings:
                key = next(k for k in [*settings, *before] if before.get(k) != settings.get(k))
                raise DataError(
                    f"{self.folder} holds the beginning of something else ({key} was {before.get(key)!r}, is "
                    f"{settings.get(key)!r}): delete it to begin anew, or ask for what it was begun with"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(settings))
        done = max((int(part.stem.split("_")[2]) for part in self._files()), default=0)
        for part in self._files():  # the beginning of a long sample
            if int(part.stem.split("_")[1]) >= done:
                part.unlink()
        return done

    def add(self, first: int, end: int, part: Embedded, number: int = 0) -> None:
        """Keeps the samples of [first, end), or a piece of one.

        Args:
            first: Number of the first sample.
            end: Behind the last one; `first` for a piece of sample `first` that is not the last piece.
            part: The features. A piece without any says that the sample is broken: what is there of it is deleted.
            number: Of the piece.
        """
        if number and not len(part):
            for piece in self._files():
                if int(piece.stem.split("_")[1]) == first:
                    piece.unlink()
        arrays = {"features": part.features, "ids": part.ids}
        if part.counts is not None:
            arrays["counts"] = part.counts
        path = self.folder / f"part_{first:012d}_{end:012d}_{number:06d}.safetensors"
        temporary = path.with_suffix(".tmp")
        save_file(arrays, temporary, {"names": json.dumps(part.names), "broken": json.dumps(part.broken)})
        os.replace(temporary, path)

    def __iter__(self) -> Iterator[Embedded]:
        for path in self._files():
            arrays = load_file(path)
            with safe_open(path, "np") as file:
                about = file.metadata()
            names, broken = json.loads(about["names"]), json.loads(about["broken"])
            yield Embedded(arrays["features"], arrays["ids"], names, arrays.get("counts"), broken)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part_*.safetensors"))


def write(out: Path, parts: Parts, about: dict[str, str], layers: Sequence[int] | None) -> Embedded:
    """Writes one file of all parts, a part at a time, under a temporary name first.

    Args:
        out: Ends in one of `ENDINGS`.
        parts: All of them.
        about: What the file says of itself, where its format has room for it.
        layers: Numbers of the layers, if there is a dimension for them.

    Returns:
        Everything but the features, of which there are none.

    Raises:
        DataError: No sample could be read, or the names of so many samples do not fit into this format.
    """
    ids: list[np.ndarray] = []
    names: list[str] = []
    counts: list[np.ndarray] = []
    broken: dict[str, str] = {}
    rows, shape = 0, None
    for part in parts:
        broken |= part.broken
        if len(part):
            again = len(ids) > 0 and part.ids[0] == ids[-1][-1]  # one more piece of the same sample
            if again and part.counts is not None:
                counts[-1][-1] += part.counts[0]
            else:
                ids.append(part.ids)
                names += part.names
                counts += [] if part.counts is None else [part.counts]
            rows, shape = rows + len(part.features), part.features.shape[1:]
    if shape is None:
        name, reason = next(iter(broken.items()))
        raise DataError(f"none of the {len(broken)} samples can be read; {name}: {reason}")
    rest = Embedded(
        np.empty((0, *shape), np.float32),
        np.concatenate(ids),
        names,
        np.concatenate(counts) if counts else None,
        broken,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    if out.suffix == ".npy":
        _write_npy(temporary, parts, (rows, *shape))
        tokens = [1] * len(rest) if rest.counts is None else rest.counts.tolist()
        lines = zip(rest.ids.tolist(), rest.names, tokens, strict=True)
        more = {} if rest.counts is None or about.get("step") is None else {"step": json.loads(about["step"])}
        text = "".join(json.dumps({"id": i, "name": name, "rows": n} | more) + "\n" for i, name, n in lines)
        write_whole(out.with_name(out.name + NAMES), text)
    elif out.suffix == ".parquet":
        _write_parquet(temporary, parts, about, layers)
    else:
        _write_safetensors(temporary, parts, (rows, *shape), rest, about)
    os.replace(temporary, out)
    return rest


def _write_npy(path: Path, parts: Parts, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        _write_features(file, parts)


def _write_features(file: Any, parts: Parts) -> None:
    for part in parts:
        file.write(np.ascontiguousarray(part.features, dtype="<f4").tobytes())
    file.flush()
    os.fsync(file.fileno())


def _write_safetensors(path: Path, parts: Parts, shape: tuple[int, ...], rest: Embedded, about: dict[str, str]) -> None:
    arrays = {"ids": rest.ids} if rest.counts is None else {"ids": rest.ids, "counts": rest.counts}
    head: dict[str, Any] = {"__metadata__": {**about, "names": json.dumps(rest.names)}}
    end = 0
    for name, array in arrays.items():
        head[name] = {"dtype": "I64", "shape": list(array.shape), "data_offsets": [end, end := end + array.nbytes]}
    size = 4 * int(np.prod(shape))
    head["features"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise DataError(f"the names of {len(rest):,} samples do not fit into a .safetensors file: use .parquet")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.astype("<i8").tobytes())
        _write_features(file, parts)


def _utf8(name: str) -> str:
    """`name`, with escapes for the bytes of a file name that are not UTF-8, for which Parquet has no room."""
    return name.encode("utf-8", "backslashreplace").decode()


def _write_parquet(path: Path, parts: Parts, about: dict[str, str], layers: Sequence[int] | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["features"] if layers is None else [f"layer_{k}" for k in layers]
    writer: Any = None
    try:
        for part in _whole(parts):
            table = pa.table(
                {"id": pa.array(part.ids), "name": pa.array([_utf8(name) for name in part.names], pa.string())}
                | {
                    column: _vectors(pa, part.features if layers is None else part.features[:, i], part.counts)
                    for i, column in enumerate(columns)
                }
            ).replace_schema_metadata(about)
            writer = pq.ParquetWriter(path, table.schema) if writer is None else writer
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _whole(parts: Parts) -> Iterator[Embedded]:
    """The parts that have samples, the pieces of a long sample joined: a row of a table holds all of it."""
    waiting: list[Embedded] = []
    for part in parts:
        if not len(part):
            continue
        if waiting and waiting[-1].ids[-1] != part.ids[0]:
            yield _joined(waiting)
            waiting = []
        waiting.append(part)
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[Embedded]) -> Embedded:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    features = np.concatenate([piece.features for piece in pieces])
    return Embedded(features, first.ids, first.names, np.array([len(features)], dtype=np.int64))


def _vectors(pa: Any, features: np.ndarray, counts: np.ndarray | None) -> Any:
    """A column: a vector for each sample, or a list of vectors for each sample."""
    vectors = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(features).reshape(-1), features.shape[-1])
    if counts is None:
        return vectors
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), vectors)
