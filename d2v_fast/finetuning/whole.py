"""Whole samples in batches of one shape: nothing is cropped, padded or drawn; neighbours in a batch change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data import DataSource
from d2v_fast.errors import SampleError
from d2v_fast.models.grouping import grouped


def whole_batches(
    source: DataSource,
    prepare: Callable[..., Tensor],
    batch_size: int,
    failed: Callable[[int, SampleError], None],
    threads: int = 2,
    only: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The samples of a source, each once; those of one shape are batched together.

    Args:
        source: Where they are.
        prepare: (sample, name=...) -> the encoder's input, as `Encoder.prepare`.
        batch_size: Samples in a batch, at most.
        failed: Told the number of each sample that cannot be used, and why; it is left out.
        threads: That read and prepare.
        only: Numbers of the samples that are wanted; None: all.
    """
    sizes = np.asarray(source.sizes)
    wanted = np.arange(len(sizes)) if only is None else np.array(only, dtype=np.int64)
    order = wanted[np.argsort(sizes.reshape(len(sizes), -1)[wanted, 0], kind="stable")].tolist()

    def make(i: int) -> Tensor | SampleError:
        try:
            return prepare(source.read(i), name=source.name(i))
        except SampleError as error:
            return error.alone()

    def good(pool: ThreadPoolExecutor) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(order), batch_size):  # no more than these wait in memory
            some = order[begin : begin + batch_size]
            for i, made in zip(some, pool.map(make, some), strict=True):
                if isinstance(made, SampleError):
                    failed(i, made)
                else:
                    yield i, made

    with ThreadPoolExecutor(threads, "d2v_fast-whole") as pool:
        for numbers, inputs in grouped(good(pool), batch_size):
            yield Batch(inputs=inputs, sample_ids=torch.tensor(numbers, dtype=torch.int64))
