"""Features of whole data sets, streamed into a file."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from d2v_fast.data import Openable
from d2v_fast.data.own import BROKEN
from d2v_fast.data.scan import Progress
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation.embedded import ENDINGS, Embedded
from d2v_fast.evaluation.given import open_given, reading_threads
from d2v_fast.evaluation.layers import Layers, chosen
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.parts import Parts, write
from d2v_fast.evaluation.windows import Windows
from d2v_fast.files import exists, write_whole
from d2v_fast.interop import foreign
from d2v_fast.log import tell
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import Network, load

WINDOW = 1024
"""Samples that are sorted by length, and kept in one part, where their features are pooled."""


def embed(
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
) -> Path:
    """Write the features of every sample of a data set to a file; the same call continues after an interruption.

    Samples are prepared as the run did, whole, without masks, random crops or padding: features do not depend on what
    else is in a batch. Those longer than the inputs of the training are taken in overlapping windows, whose middles are
    put together, see `evaluation.windows`. Those that cannot be read are named, counted and left out, with their
    reasons in OUT.broken.jsonl. Memory holds a few batches, whatever the size of the data set or of a recording; but a
    .parquet file takes all tokens of a sample at once.

    Example:
        >>> d2v_fast.embed("runs/photos", "photos/", out="photos.safetensors", network="teacher")

    Args:
        run: A run's folder, or that of one checkpoint, or what else `d2v_fast.load` takes.
        data: What pretraining takes: a folder, a manifest, tar shards, a `datasets.Dataset`, arrays, a source of one's
            own; or a list of paths, or of texts where the run is one of text. Each document of text is by itself.
        out: The file: .safetensors, .npy (with the names beside it, OUT.names.jsonl) or .parquet. `read_embedded` reads
            them all.
        network: Student, teacher, or the run's random start.
        layers: See `evaluation.layers`; one of them gives features [N, C], several [N, layers, C].
        pool: "mean" over the tokens, or "none": the features of each token.
        batch_size: Samples in a batch at most.
        device: A GPU if there is one.
        allow_roots: Folders that a manifest may name besides those below its own.
        window: Seconds of a window (of text: tokens); None: the longest input of the training; 0: all is used whole.
        overlap: Of two windows; None: a fifth of a window.

    Returns:
        The file.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data cannot be used, the file is there already, or an earlier start asked for something else.
        RunError: The run cannot be read.
    """
    target = check(out, pool, batch_size)
    encoder = load(run, network).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    numbers = chosen(layers, len(encoder.blocks))
    single = isinstance(layers, int) or (isinstance(layers, str) and layers != "all" and "," not in layers)
    windows = Windows(encoder, window, overlap)
    source = open_given(encoder, data, allow_roots)
    about = {
        "weights": _weights(run, network),
        "network": network,
        "layers": list(numbers),
        "pool": pool,
        "fingerprint": source.fingerprint,
        "samples": len(source),
        "single": single,
        "window": windows.count,
        "overlap": windows.overlap,
        "step": None if windows.step is None else list(windows.step),
    }
    parts = Parts(target.with_name(target.name + ".parts"))
    maker = Maker(encoder, source, numbers, pool, batch_size, reading_threads(), windows)
    _fill(parts, about, maker, single)
    rest = write(target, parts, {key: json.dumps(value) for key, value in about.items()}, None if single else numbers)
    if rest.broken:
        lines = [json.dumps({"path": name, "reason": reason}) for name, reason in rest.broken.items()]
        write_whole(target.with_name(target.name + BROKEN), "\n".join(lines) + "\n")
        tell(f"{len(rest.broken):,} of {len(source):,} samples left out; {target.name}{BROKEN} has the reasons")
    shutil.rmtree(parts.folder)
    tell(f"{target}: features of {len(rest):,} samples", logging.INFO)
    return target


def _weights(run: str | Path, network: Network) -> str:
    """Where the weights are: the same words mean the same weights, as checkpoints do not change."""
    if (folder := foreign.place(run)) is not None:
        return str(folder.resolve())
    opened = Run(run)
    return str((opened.path if network == "initial" else opened.best().folder).resolve())


def check(out: str | Path, pool: str, batch_size: int) -> Path:
    """The file to be written, after a look at what can be known before anything is read.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The file is there already.
    """
    if pool not in ("mean", "none") or batch_size < 1:
        raise ConfigError(f'pool is "mean" or "none" and batch_size at least 1, got {pool!r} and {batch_size}')
    target = Path(out).expanduser()
    if target.suffix not in ENDINGS:
        raise ConfigError(f"out is {str(out)!r}; the name of the file ends in one of {', '.join(ENDINGS)}")
    if target.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("a .parquet file needs pyarrow: pip install pyarrow, or use .safetensors")
    if exists(target):
        raise DataError(f"{target} is there already: delete it, or give another name")
    return target


def _fill(parts: Parts, about: dict[str, Any], maker: Maker, single: bool) -> None:
    """Makes the parts that are missing."""
    source, tokens = maker.source, maker.pool == "none"
    first = parts.begin(about)
    if first:
        tell(f"{first:,} of {len(source):,} samples are done already", logging.INFO)

    def kept(part: Embedded) -> Embedded:
        return replace(part, features=part.features[:, 0]) if single else part

    with Progress("embedding", len(source) - first) as progress:
        for start in range(first, len(source), maker.batch_size if tokens else WINDOW):
            end = min(start + (maker.batch_size if tokens else WINDOW), len(source))
            long = maker.long(range(start, end)) if tokens else {}
            for run in _runs(range(start, end), long):
                if run.start not in long:
                    parts.add(run.start, run.stop, kept(maker.of(run, progress.advance)))
                    continue
                for k, (part, last) in enumerate(maker.tokens_of(run.start, long[run.start])):
                    parts.add(run.start, run.stop if last else run.start, kept(part), k)
                progress.advance(1)


def _runs(numbers: range, long: Container[int]) -> Iterator[range]:
    """Consecutive samples that are not long, and long ones one by one."""
    begin = numbers.start
    for i in numbers:
        if i in long:
            yield from [range(begin, i)] if begin < i else []
            yield range(i, i + 1)
            begin = i + 1
    yield from [range(begin, numbers.stop)] if begin < numbers.stop else []
