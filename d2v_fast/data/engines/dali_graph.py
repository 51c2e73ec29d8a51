"""The DALI pipeline: from a file's bytes and its plan to what the native engine makes of them, on a CPU or a GPU.

A graph is the same for both devices but for the pipeline's `device_id`, the decoder's device and the copies to the GPU
(`put`). Nothing in it is random: it is a function of what it is fed. What it computes is its modality's
(`DaliGraph.define`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline
from torch import Tensor

from d2v_fast.data.protocol import DaliGraph

DEPTH = 2
"""Batches in flight: while one is on the GPU, the CPU's part of the next is done."""

Sample = Mapping[str, np.ndarray]
"""What a graph is fed for one sample: "encoded" and what its plan says, by the name of the input."""


class Graph:
    """A running pipeline.

    Args:
        graph: The modality's part.
        batch_size: Samples at most.
        threads: Of DALI.
        device: CPU or CUDA.

    Raises:
        RuntimeError: DALI cannot build the pipeline, or run it.
    """

    def __init__(self, graph: DaliGraph, batch_size: int, threads: int, device: torch.device) -> None:
        self.batch_size = batch_size
        self._pipeline = construct(graph, batch_size, threads, device)
        self._pipeline.build()
        for _ in range(DEPTH):  # DALI's first run takes all the batches that may be in flight
            self._feed([graph.example()])
        self._pipeline.schedule_run()
        for _ in range(DEPTH):
            self.take()

    def start(self, samples: Sequence[Sample]) -> None:
        """Begins a batch; at most `DEPTH` of them before the first is taken."""
        self._feed(samples)
        self._pipeline.schedule_run()

    def take(self) -> Tensor:
        """The oldest batch begun, float32 [B, ...] on the graph's device; its memory is DALI's while it is used.

        Raises:
            RuntimeError: A sample cannot be decoded, and the pipeline is dead.
        """
        (output,) = self._pipeline.share_outputs()
        batch: Tensor = torch.from_dlpack(output.as_tensor())
        self._pipeline.release_outputs()
        return batch

    def _feed(self, samples: Sequence[Sample]) -> None:
        for name in samples[0]:
            self._pipeline.feed_input(name, [sample[name] for sample in samples])


def construct(graph: DaliGraph, batch_size: int, threads: int, device: torch.device) -> Pipeline:
    """The pipeline, not yet built: for a GPU this needs none."""
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device.index or 0 if device.type == "cuda" else None,
        prefetch_queue_depth=DEPTH,
    )
    with pipeline:
        pipeline.set_outputs(graph.define(gpu=device.type == "cuda"))
    return pipeline


def put_on(gpu: bool) -> Callable[[Any], Any]:
    """What puts a node on the GPU, or leaves it where it is."""
    return _to_gpu if gpu else _stay


def _to_gpu(node: Any) -> Any:
    return node.gpu()


def _stay(node: Any) -> Any:
    return node


def external(name: str, dtype: Any, ndim: int) -> Any:
    """An input of the graph."""
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)
