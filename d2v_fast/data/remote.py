"""Files at addresses that fsspec knows ("s3://...")."""

from __future__ import annotations

from typing import Any

from d2v_fast.errors import DataError


def remote_bytes(address: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file that fsspec knows.

    Raises:
        OSError: It cannot be read.
    """
    system, path = remote(address)
    try:
        data: bytes = system.cat_file(path, start=start, end=end)
    except OSError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
    return data


def remote(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        DataError: fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        import fsspec
    except Exception as error:  # not there, or there and broken
        raise DataError(
            f"data: {address} is read through fsspec, which is not installed: pip install fsspec"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(address)
        return system, path
    except Exception as error:  # every file system has errors of its own
        raise DataError(f"data: fsspec cannot open {address}: {type(error).__name__}: {error}") from error
