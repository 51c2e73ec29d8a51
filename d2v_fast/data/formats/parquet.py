"""Parquet files: opened, and their rows; pyarrow is imported when one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from d2v_fast.errors import DataError


def table(file: Any) -> Any:
    """A Parquet file, opened.

    Raises:
        DataError: pyarrow is not installed, or cannot read it.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except Exception as error:  # not there, or there and broken
        raise DataError(
            f"data: {file} is a Parquet file, which needs pyarrow: pip install 'd2v_fast[parquet]' "
            f"({type(error).__name__}: {error})"
        ) from error
    try:
        return ParquetFile(file)
    except Exception as error:  # pyarrow's errors are of many kinds
        raise DataError(f"data: {file} is not a Parquet file: {error}") from error


def rows(opened: Any, where: object, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of an opened Parquet file.

    Raises:
        DataError: It is damaged inside.
    """
    batches = opened.iter_batches(batch_size=1024, columns=list(columns))
    while True:
        try:
            found = next(batches).to_pylist()
        except StopIteration:
            return
        except Exception as error:  # pyarrow's errors are of many kinds
            raise DataError(f"data: {where} is damaged: {type(error).__name__}: {error}") from error
        yield from found
