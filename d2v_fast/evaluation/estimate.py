"""What `embed` would write, and how long it would take, from a few samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from d2v_fast.data import Openable
from d2v_fast.data.store import human_bytes
from d2v_fast.errors import DataError
from d2v_fast.evaluation.embed import check
from d2v_fast.evaluation.given import open_given, reading_threads
from d2v_fast.evaluation.layers import Layers, chosen
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.windows import Windows
from d2v_fast.run.weights import Network, load

_TRIED = 64
"""Samples that are read, spread over all of them."""


def estimate(
    run: str | Path,
    data: Openable,
    *,
    out: str | Path,
    network: Network = "student",
    layers: Layers = "last",
    pool: Literal["mean", "none"] = "mean",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    allow_roots: Sequence[str] = (),
    window: float | None = None,
    overlap: float | None = None,
) -> list[tuple[str, str]]:
    """(what, value) lines about what `embed` would do with the same arguments; nothing is written.

    Raises:
        ConfigError: See `embed`.
        DataError: See `embed`; or none of the samples that are tried can be read.
        RunError: See `embed`.
    """
    target = check(out, pool, batch_size)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load(run, network).to(device)
    numbers = chosen(layers, len(encoder.blocks))
    windows = Windows(encoder, window, overlap)
    source = open_given(encoder, data, allow_roots)
    tried = np.unique(np.linspace(0, len(source) - 1, _TRIED).astype(np.int64)).tolist()
    began = time.perf_counter()
    part = Maker(encoder, source, numbers, pool, batch_size, reading_threads(), windows).of(tried)
    seconds = time.perf_counter() - began
    if not len(part):
        name, reason = next(iter(part.broken.items()))
        raise DataError(f"none of the {len(tried)} samples that were tried can be read; {name}: {reason}")
    rows = 1 if part.counts is None else float(part.counts.mean())
    share, width = len(source) * len(part) / len(tried), part.features.shape[2]
    return [
        ("file", str(target)),
        ("samples", f"{len(source):,}"),
        ("features", f"{len(numbers)} layers of {width} channels"),
        ("rows of a sample", f"{rows:,.4g}"),
        ("cannot be read", f"{len(part.broken):,} of {len(tried):,} that were tried"),
        (
            "on the disk",
            f"about {human_bytes(4 * share * rows * len(numbers) * width)}, and as much while it is written",
        ),
        ("time", f"about {timedelta(seconds=round(seconds * len(source) / len(tried)))} on {device}"),
    ]
