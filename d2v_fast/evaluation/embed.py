"""Features of whole data sets, streamed into a file."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.data import DataSource, Openable
from d2v_fast.data.own import BROKEN
from d2v_fast.data.scan import Progress
from d2v_fast.errors import ConfigError, DataError, SampleError, failed
from d2v_fast.evaluation.embedded import ENDINGS, Embedded, Parts, write
from d2v_fast.evaluation.given import open_given, reading_threads
from d2v_fast.evaluation.layers import Layers, chosen, token_features
from d2v_fast.files import exists, write_whole
from d2v_fast.interop import foreign
from d2v_fast.log import report, tell
from d2v_fast.models import Encoder
from d2v_fast.models.grouping import grouped
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import Network, load

T = TypeVar("T")

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
) -> Path:
    """Write the features of every sample of a data set to a file; the same call continues after an interruption.

    Samples are prepared as the run did, whole, without masks, random crops or padding: features do not depend on what
    else is in a batch. Those that cannot be read are named, counted and left out, with their reasons in
    OUT.broken.jsonl. Memory holds a few batches, whatever the size of the data set.

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
    source = open_given(encoder, data, allow_roots)
    about = {
        "weights": _weights(run, network),
        "network": network,
        "layers": list(numbers),
        "pool": pool,
        "fingerprint": source.fingerprint,
        "samples": len(source),
        "single": single,
    }
    parts = Parts(target.with_name(target.name + ".parts"))
    _fill(parts, about, encoder, source, numbers, pool, batch_size, reading_threads(), single)
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


def _fill(
    parts: Parts,
    about: dict[str, Any],
    encoder: Encoder,
    source: DataSource,
    layers: Sequence[int],
    pool: str,
    batch_size: int,
    threads: int,
    single: bool,
) -> None:
    """Makes the parts that are missing."""
    first = parts.begin(about)
    if first:
        tell(f"{first:,} of {len(source):,} samples are done already", logging.INFO)
    window = WINDOW if pool == "mean" else batch_size
    with Progress("embedding", len(source) - first) as progress:
        for start in range(first, len(source), window):
            numbers = range(start, min(start + window, len(source)))
            part = features_of(encoder, source, numbers, layers, pool, batch_size, threads, progress.advance)
            kept = part.features[:, 0] if single else part.features
            parts.add(start, numbers.stop, Embedded(kept, part.ids, part.names, part.counts, part.broken))


@torch.no_grad()
def features_of(
    encoder: Encoder,
    source: DataSource,
    numbers: Sequence[int],
    layers: Sequence[int],
    pool: str,
    batch_size: int,
    threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Embedded:
    """Features [N or tokens, layers, C] of some samples, in their order.

    Args:
        encoder: In eval mode, of a run.
        source: Where the samples are.
        numbers: Which ones, ascending.
        layers: Numbers of layers.
        pool: See `embed`.
        batch_size: Samples in a batch at most.
        threads: That read.
        advance: Is told how many more samples are done.
    """
    modality: Any = registry.get(source.modality)
    found: dict[int, Tensor] = {}
    broken: dict[int, SampleError] = {}

    def read(i: int) -> tuple[int, Tensor | SampleError]:
        try:
            return i, modality.prepare(source.read(i), encoder.inputs, encoder.config, name=source.name(i))
        except Exception as error:  # whatever it is, it is this sample that cannot be read
            return i, failed(source.name(i), error)

    def whole() -> Iterator[tuple[int, Tensor]]:
        for i, sample in _ahead(read, _by_length(source, numbers), threads):
            if isinstance(sample, SampleError):
                broken[i] = sample
                report(sample.name, sample.reason)
                advance(1)
            else:
                yield i, sample

    device = next(encoder.parameters()).device
    for some, batch in grouped(whole(), batch_size):
        tokens = token_features(encoder, batch.to(device), layers)
        found.update(zip(some, (tokens.mean(1) if pool == "mean" else tokens).cpu(), strict=True))
        advance(len(some))
    order = sorted(found)
    rows = [found[i] for i in order]
    joined = torch.stack(rows) if rows and pool == "mean" else torch.cat(rows or [torch.empty(0, len(layers), 0)])
    counts = None if pool == "mean" else np.array([len(row) for row in rows], dtype=np.int64)
    names = [source.name(i) for i in order]
    reasons = {broken[i].name: broken[i].reason for i in sorted(broken)}
    return Embedded(joined.numpy(), np.array(order, dtype=np.int64), names, counts, reasons)


def _by_length(source: DataSource, numbers: Sequence[int]) -> list[int]:
    """Samples of equal size after each other, as far as that is known without reading."""
    sizes = np.asarray(source.sizes)[list(numbers)].reshape(len(numbers), -1)
    order = np.lexsort(sizes.T[::-1])
    return [numbers[i] for i in order.tolist()]


def _ahead(work: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """Results in order, a few of them made ahead of time."""
    left = iter(numbers)
    coming: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="d2v-embed")
    try:
        coming.extend(pool.submit(work, i) for _, i in zip(range(2 * max(1, threads)), left, strict=False))
        while coming:
            result = coming.popleft().result()
            coming.extend(pool.submit(work, i) for _, i in zip(range(1), left, strict=False))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
