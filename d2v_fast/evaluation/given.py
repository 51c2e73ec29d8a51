"""The data of an evaluation: whatever pretraining takes, and lists of paths or texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2v_fast import registry
from d2v_fast.data import DataSource, LoaderConfig, Openable, open_source
from d2v_fast.data.formats.archives import is_archive
from d2v_fast.data.formats.find import one_file
from d2v_fast.errors import DataError
from d2v_fast.models import Encoder


class Given:
    """Samples as a person has them: paths of files, or texts where the modality takes them. A `DataSource`.

    Args:
        encoder: Of a run, says how they are read.
        samples: Strings and paths.
    """

    def __init__(self, encoder: Encoder, samples: Sequence[str | Path]) -> None:
        self._encoder, self._samples = encoder, samples
        self.modality: str = encoder.config.modality
        self._opener: Any = registry.get(self.modality)
        self._texts: bool = self._opener.kind(encoder.inputs).documents
        width = self._opener.size_width
        self.sizes = np.zeros(len(samples) if width == 1 else (len(samples), width), dtype=np.int64)  # not known
        digest = hashlib.blake2b(digest_size=16)
        for sample in samples:
            stat = Path(sample).stat() if isinstance(sample, Path) and sample.is_file() else None
            about = () if stat is None else (stat.st_size, stat.st_mtime_ns)
            digest.update(repr((str(sample), about)).encode("utf-8", "surrogatepass"))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """The path, or the number of a text."""
        sample = self._samples[index]
        return f"text {index}" if self._texts and not isinstance(sample, Path) else str(sample)

    def read(self, index: int) -> Any:
        """The file, or the text, as the modality reads it."""
        encoder = self._encoder
        return self._opener.read(self._samples[index], encoder.inputs, encoder.config, name=self.name(index))

    def origin(self, index: int) -> tuple[DataSource, int]:
        """A source of this sample alone, and its number there.

        Raises:
            DataError, SampleError: It cannot be read.
        """
        sample, encoder = self._samples[index], self._encoder
        if self._texts:
            text = sample if isinstance(sample, str) else sample.read_text(encoding="utf-8-sig")
            return self._opener.open_texts([self.name(index)], [(text,)], encoder.inputs, encoder.config), 0
        found = one_file(sample, self._opener.kind(encoder.inputs))
        return self._opener.open(found, encoder.inputs, encoder.config, run=None, threads=1), 0


def reading_threads() -> int:
    """Threads that read samples: as many as a run of this machine has by default."""
    return LoaderConfig().thread_count(gpu=torch.cuda.is_available())


def open_given(encoder: Encoder, data: Openable, allow_roots: Sequence[str] = ()) -> DataSource:
    """The samples, opened with the inputs of the encoder's run; nothing is written.

    Args:
        encoder: Of a run.
        data: What `open_source` takes, or a list of paths of files, or of texts.
        allow_roots: See `open_source`.

    Raises:
        DataError: They cannot be used.
    """
    if isinstance(data, (list, tuple)) and data and all(isinstance(one, (str, Path)) for one in data):
        shards = ["://" in str(one) or is_archive(str(one)) for one in data]
        if not all(shards):
            return Given(encoder, data)
    if isinstance(data, (list, tuple)) and not data:
        raise DataError("data is empty: give at least one sample")
    return open_source(
        data,
        encoder.config.modality,
        encoder.inputs,
        embedding=encoder.config,
        threads=reading_threads(),
        allow_roots=allow_roots,
    )
