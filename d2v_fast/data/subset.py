"""Some samples of a source as a source of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from d2v_fast.data.source import DataSource


class Subset:
    """The samples `ids` of a source, numbered anew. Whatever else the source has, such as a tokenizer, it has too.

    Args:
        source: All samples.
        ids: int64, numbers in the source.
    """

    encoded: Callable[[int], bytes]
    gather: Callable[[np.ndarray, np.ndarray], None]

    def __init__(self, source: DataSource, ids: np.ndarray) -> None:
        self._source, self._ids = source, ids
        self.modality = source.modality
        self.sizes = np.asarray(source.sizes)[ids]
        digest = hashlib.blake2b(source.fingerprint.encode(), digest_size=16)
        digest.update(ids.astype("<i8").tobytes())
        self.fingerprint = digest.hexdigest()
        own: Any = source
        if hasattr(source, "encoded"):
            self.encoded = lambda index: bytes(own.encoded(int(ids[index])))
        if hasattr(source, "gather"):
            self.gather = lambda indices, out: own.gather(ids[indices], out)

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, index: int) -> str:
        """That in the source."""
        return self._source.name(int(self._ids[index]))

    def read(self, index: int) -> np.ndarray | Tensor:
        """The sample of the source."""
        return self._source.read(int(self._ids[index]))

    def origin(self, index: int) -> tuple[DataSource, int]:
        """The source of a sample and its number there."""
        return self._source, int(self._ids[index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("encoded", "gather", "part"):
            raise AttributeError(name)
        return getattr(self._source, name)
