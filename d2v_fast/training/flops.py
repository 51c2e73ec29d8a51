"""FLOPs of matrix products: those of a step, and what the machine's bare products reach.

They are counted while they run, by torch's counter with formulas for our operators. Sums, norms and activations are
not counted. Attention over packed sequences is counted as if all were the longest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from d2v_fast import ops
from d2v_fast.batch import Batch
from d2v_fast.ops.linear import by_onednn

_SIDES = {"cpu": 1024, "cuda": 4096}
"""Of the matrices whose product is the measure: on a GPU they must be large to keep it busy."""

_LEAST_SECONDS, _MOST_SECONDS = 0.05, 0.5
"""How long bare products are tried, at least and, on a machine that others keep busy, at most."""

_TRIES = 8
"""Products that are tried in that time, if they are fast enough."""


class StepFlops:
    """FLOPs of the steps of a run: those of one are counted, and scaled with the size of the inputs for the others.

    The counter only watches, so no bit changes; but it slows the host down, so it watches a single step.
    """

    def __init__(self) -> None:
        self._each: dict[int, float] = {}  # of an element of the inputs, by what a step leaves untrained

    @contextlib.contextmanager
    def counted(self, batches: Sequence[Batch], held: int) -> Iterator[None]:
        """Within the context is the step of `batches`, which leaves `held` parameters untrained."""
        size = _size(batches)
        if held in self._each or size == 0:
            yield
            return
        with counter() as seen:
            yield
        self._each[held] = seen.get_total_flops() / size

    def of(self, batches: Sequence[Batch], held: int) -> float:
        """FLOPs of the step of `batches`; 0 if none was counted."""
        return self._each.get(held, 0.0) * _size(batches)


def _size(batches: Sequence[Batch]) -> float:
    """Elements of the inputs, without what pads samples to the longest of their micro-batch."""
    return sum(batch.inputs.numel() * _filled(batch) for batch in batches if len(batch.sample_ids))


def _filled(batch: Batch) -> float:
    lengths = batch.lengths
    return 1.0 if lengths is None else float(lengths.sum()) / (len(lengths) * int(lengths.max()))


def bare_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs per second of bare products of two large matrices by the library that the run asks, the best of a few.

    Measured once in a process for each format, device, library and number of threads.
    """
    x = torch.empty(0, dtype=dtype, device=device)
    ours = device.type == "cpu" and by_onednn(x, _SIDES["cpu"] ** 3)
    return _measured(dtype, device, ours, torch.get_num_threads())


@cache
def _measured(dtype: torch.dtype, device: torch.device, ours: bool, threads: int) -> float:
    side = _SIDES.get(device.type, _SIDES["cpu"])
    x = torch.full((side, side), 0.5, device=device, dtype=dtype)  # no random numbers: those are the run's

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # One thread's own time, where there is one: others may have its core, and would lower the peak.
        return time.thread_time() if device.type == "cpu" and threads == 1 else time.perf_counter()

    ops.linear(x, x)  # the library prepares itself
    begin, best, tries = time.perf_counter(), float("inf"), 0
    while (spent := time.perf_counter() - begin) < _LEAST_SECONDS or (tries < _TRIES and spent < _MOST_SECONDS):
        start = seconds()
        ops.linear(x, x)
        best = min(best, seconds() - start)
        tries += 1
    return 2 * side**3 / best


def counter() -> FlopCounterMode:
    """A context that counts; `get_total_flops()` says how many so far. What it counts runs more slowly."""
    ours, aten = torch.ops.d2v_fast, torch.ops.aten
    formulas = {
        ours.decoder_layer: _convolved,
        ours.decoder_layer_backward: _convolved_back,
        ours.linear: _linear,
        ours.gelu_linear: _linear,
        ours.front_layer: _strided,
        ours.front_layer_backward: _convolved_back,  # of which one half is computed again
        ours.strided_convolution: _strided,
        ours.strided_convolution_backward: _convolved_back,
        ours.fused_attention: _attended,
        ours.fused_attention_backward: _attended_back,
        aten.convolution_backward: _torch_convolved_back,
        aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_back,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _convolved(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    places = torch.Size(out_shape[0][:-1]).numel() if isinstance(out_shape[0], torch.Size) else 0
    return 2 * places * torch.Size(weight).numel()


def _convolved_back(grad: Any, x: Any, weight: Any, *rest: Any, **options: Any) -> int:
    return 4 * torch.Size(grad[:-1]).numel() * torch.Size(weight).numel()


def _strided(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return 2 * torch.Size(out_shape[:-1]).numel() * torch.Size(weight).numel()


def _attended(query: Any, key: Any, value: Any, starts: Any, positions: Any, visible: Any, factors: Any, bias: Any,
              longest: int, *rest: Any, **options: Any) -> int:  # fmt: skip
    return 4 * torch.Size(query).numel() * longest  # sequences of one length


def _attended_back(grad: Any, *rest: Any, **options: Any) -> int:
    return 10 * torch.Size(grad).numel() * rest[10]


def _linear(x: Any, weight: Any, bias: Any, out_shape: Any = None, **options: Any) -> int:
    return 2 * torch.Size(x).numel() * int(weight[0])


def _torch_convolved_back(grad: Any, x: Any, weight: Any, *rest: Any, **options: Any) -> int:
    places = torch.Size(grad).numel() // grad[1]  # torch's own formula forgets the groups
    return 2 * places * torch.Size(weight).numel() * sum(bool(wanted) for wanted in rest[7][:2])


def _sdpa(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return 4 * torch.Size(query).numel() * key[2]


def _sdpa_back(grad: Any, query: Any, key: Any, *rest: Any, **options: Any) -> int:
    return 10 * torch.Size(query).numel() * key[2]
