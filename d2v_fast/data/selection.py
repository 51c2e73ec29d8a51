"""Which samples take part, which are held out, how both are cut into batches: found once and kept beside the index.

All of it follows from the sizes, the names and the configuration, and takes time and memory for every sample; so the
first start writes it into the run's folder, and a later one maps it into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.columns import Damaged, read_columns, write_columns
from d2v_fast.data.computed import ComputedPlan
from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.holding import split
from d2v_fast.data.layout import Layout, lay_out
from d2v_fast.data.protocol import Sampling
from d2v_fast.data.skipped import Known
from d2v_fast.data.source import DataSource
from d2v_fast.files import tell_once

FILE = "plan.bin"
"""A file of columns; see `columns`. What is in it can be made again."""

_FORMAT = 1
_LOOKED_AT = 200
"""Batches whose padding is measured."""

MUCH_WASTE = 0.03
"""Share of a batch that is padding, or cut off, beyond which it is said."""


@dataclass(frozen=True)
class Selection:
    """What a loader has to know of the samples besides their sizes."""

    train: Layout
    held_out: Layout | None

    known: Known
    """What is known of broken samples before anything is read."""

    left_out: int
    """Samples that take no part, such as clips that are too short."""

    remarks: tuple[str, ...]
    """What a person should be told."""

    stand_in: np.ndarray | None
    """What `Sampling.known` gives in place of the size of an unreadable sample; None if there is none."""

    def plan(self, layout: Layout, sizes: np.ndarray, sampling: Sampling, accumulation: int, seed: int) -> ComputedPlan:
        """The batches of one of the two."""
        return ComputedPlan(sizes, layout, sampling, accumulation, seed, self.stand_in)


def select(source: DataSource, usable: np.ndarray, sampling: Sampling, config: LoaderConfig) -> Selection:
    """Decides all of it anew.

    Args:
        source: All samples.
        usable: int64, those that take part; see `Sampling.usable`.
        sampling: What the modality does with them.
        config: Of the loader.

    Raises:
        DataError: Too few samples are left, or a batch cannot hold one.
    """
    sizes = np.asarray(source.sizes, dtype=np.int64)
    train, held_out = split(source, usable, config.holdout)
    known = sampling.known(sizes)
    unknown = np.flatnonzero((sizes == 0).reshape(len(sizes), -1).any(axis=1))
    stand_in = np.asarray(known[unknown[0]], dtype=np.int64) if len(unknown) else None
    layout = lay_out(known, train, sampling, config)
    remarks = list(sampling.remarks(sizes, len(usable)))
    waste = _waste(ComputedPlan(sizes, layout, sampling, 1, 0, stand_in), layout, known, sampling)
    if waste > MUCH_WASTE:
        remarks.append(
            f"{waste:.0%} of a batch by length is padding or cut off: {layout.count:,} samples make only "
            f"{layout.batches:,} batches. A smaller loader.{_budget_field(config)} wastes less"
        )
    return Selection(
        layout,
        lay_out(known, held_out, sampling, config, fixed=True) if len(held_out) else None,
        Known.of(sizes, usable),
        len(source) - len(usable),
        tuple(remarks),
        stand_in,
    )


def _budget_field(config: LoaderConfig) -> str:
    return "batch_tokens" if config.batch_seconds is None else "batch_seconds"


def _waste(plan: ComputedPlan, layout: Layout, known: np.ndarray, sampling: Sampling) -> float:
    """The share of some batches that is longer than the sample in a row; 0 where batches are not made by length."""
    lengths = sampling.lengths(known)
    if layout.windows is None or lengths is None:
        return 0.0
    valid = whole = 0
    for number in np.unique(np.linspace(0, layout.batches - 1, _LOOKED_AT).astype(int)).tolist():
        found = np.minimum(lengths[plan.samples(number, 0)], layout.longest)
        valid += int(found.sum())
        whole += len(found) * int(found.max())
    return 1 - valid / whole


def kept_selection(source: DataSource, settings: str) -> Selection | None:
    """What an earlier start of the run wrote; None if it wrote nothing, or about other samples or settings.

    Args:
        source: All samples; its `folder` is where the index is.
        settings: What besides the samples decides.
    """
    folder = getattr(source, "folder", None)
    if folder is None or not settings:
        return None
    try:
        head, columns = read_columns(folder / FILE)
        if head["format"] != _FORMAT or head["key"] != _key(source, settings):
            return None
        stand_in = head["stand_in"]
        return Selection(
            _layout(head["train"], "train", columns),
            None if head["held_out"] is None else _layout(head["held_out"], "held_out", columns),
            Known(**head["known"]),
            head["left_out"],
            tuple(head["remarks"]),
            None if stand_in is None else np.array(stand_in, dtype=np.int64),
        )
    except (OSError, Damaged, ValueError, KeyError, TypeError, RecursionError):  # it is made again
        return None


def keep_selection(made: Selection, source: DataSource, settings: str) -> None:
    """Writes what a later start of the run need not decide again; where that fails it is told, and decided again."""
    folder: Path | None = getattr(source, "folder", None)
    if folder is None or not settings:
        return
    head: dict[str, Any] = {
        "format": _FORMAT,
        "key": _key(source, settings),
        "known": {"usable": made.known.usable, "broken": made.known.broken, "first": list(made.known.first)},
        "left_out": made.left_out,
        "remarks": made.remarks,
        "stand_in": None if made.stand_in is None else made.stand_in.tolist(),
    }
    columns: dict[str, np.ndarray] = {}
    for name, layout in (("train", made.train), ("held_out", made.held_out)):
        head[name] = None
        if layout is not None:
            head[name] = {"count": layout.count, "longest": layout.longest, "size": layout.size}
            arrays = {"ids": layout.ids, "ends": layout.ends, "windows": layout.windows}
            columns |= {f"{name} {what}": array for what, array in arrays.items() if array is not None}
    try:
        write_columns(folder / FILE, head, columns)
    except OSError as error:
        tell_once("plan", folder, f"{folder / FILE} cannot be written ({error.strerror}): every start makes it again")


def _layout(head: dict[str, int], name: str, columns: dict[str, np.ndarray]) -> Layout:
    arrays: Sequence[Any] = [columns.get(f"{name} {what}") for what in ("ids", "ends", "windows")]
    return Layout(head["count"], head["longest"], head["size"], *arrays)


def _key(source: DataSource, settings: str) -> str:
    said = json.dumps([source.modality, len(source), source.fingerprint, settings])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
