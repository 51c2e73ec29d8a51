"""Samples one by one, with the columns that stand beside them: what labels and predictions begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from d2v_fast.data.config import InputsConfig
from d2v_fast.data.formats.beside import Fields
from d2v_fast.data.formats.texts import texts as read_texts
from d2v_fast.data.own import DOCUMENT
from d2v_fast.data.protocol import modality_of
from d2v_fast.data.source import DataSource, Openable, collect, open_source
from d2v_fast.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Samples and what stands beside each of them, without any label having been read."""

    source: DataSource

    rows: list[Fields] | None = None
    """The columns of each sample; None where there are none, or none were asked for."""

    problems: dict[int, str] = field(default_factory=dict)
    """Why a sample cannot be used, by its number, as far as that is known before it is read."""


def open_samples(
    data: Openable,
    modality: str,
    inputs: InputsConfig,
    *,
    text: str = DOCUMENT,
    text_pair: str = "text_pair",
    columns: bool = False,
    embedding: Any | None = None,
    run: Path | None = None,
    threads: int = 2,
    allow_roots: Sequence[str] = (),
) -> Samples:
    """Opens samples one by one: those of `open_source`; but of texts, each is a sample of its own.

    Args:
        data: See `open_labelled`, as for all that follows.
        modality: Name of the modality.
        inputs: How files become inputs.
        text: Texts only: the column of the text.
        text_pair: Texts only: the column of the second text of a pair.
        columns: Whether the columns are wanted, too.
        embedding: What the model takes.
        run: Folder for the index; None keeps it in memory.
        threads: Threads that read headers.
        allow_roots: Folders that a manifest may name besides those below its own.

    Raises:
        DataError: See `open_source`; or no row has a text.
    """
    opens = modality_of(modality)
    rows: list[Fields] | None = None
    if _reads_texts(data, opens, inputs):
        named = read_texts(data, opens.kind(inputs))
        rows = [fields for _, fields in named]
        pairs = [_pair(fields, text, text_pair) for fields in rows]
        bad = {i: f"has no text (column {text!r})" for i, pair in enumerate(pairs) if not pair[0].strip()}
        if len(bad) == len(rows):
            raise DataError(f"data: no row has a text in a column {text!r}; there are {names_of(rows)}")
        return Samples(opens.open_texts([name for name, _ in named], pairs, inputs, embedding), rows, bad)
    found = collect(data, modality, inputs, run=run, allow_roots=allow_roots)
    if found is None:
        source = open_source(data, modality, inputs, embedding=embedding, run=run, threads=threads)
    else:  # searched once
        source = opens.open(found, inputs, embedding, run=run, threads=threads)
    if columns and found is not None and found.fields is not None:
        about = found.fields()
        rows = [about.get(source.name(i), {}) for i in range(len(source))]
    return Samples(source, rows)


def _reads_texts(data: Any, opens: Any, inputs: InputsConfig) -> bool:
    """Whether the samples are texts that have to be read one by one, not a source that is ready."""
    if isinstance(data, (np.ndarray, Tensor)) or all(hasattr(data, name) for name in ("sizes", "fingerprint", "read")):
        return False
    try:
        return bool(opens.kind(inputs).documents)
    except DataError:  # a modality without files
        return False


def _pair(fields: Fields, text: str, text_pair: str) -> tuple[str, ...]:
    first, second = fields.get(text), fields.get(text_pair)
    if not isinstance(first, str):
        return ("",)
    return (first, second) if isinstance(second, str) else (first,)


def names_of(rows: Iterable[Fields]) -> str:
    """Names the columns that there are, for messages."""
    found = sorted({name for row in rows for name in row})
    return ", ".join(found[:20]) if found else "no columns, no folders, and no .cls, .txt or .json beside the samples"
