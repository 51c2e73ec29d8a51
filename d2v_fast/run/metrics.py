"""The numbers of a run between two log lines. They stay on the device until a line is written."""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

NON_FINITE_LIMIT = 20
"""Non-finite steps in a row after which a run stops (float16 may skip a few while its loss scale settles)."""


class Totals(NamedTuple):
    """What a log line says about the steps since the one before it, and counts since the start."""

    losses: dict[str, float | None]
    """"loss", the mean of the steps that were not skipped; and "loss_NAME" of each of its parts, if it has several."""

    grad_norm: float | None
    """Mean of the gradient's norm before clipping."""

    skipped_samples: int
    """Samples that could not be read, since the start."""

    skipped_steps: int
    """Steps whose loss or gradient was not finite, since the start."""

    skipped_lately: int
    """Of them the last ones in succession, up to now."""


class Window:
    """Sums over the steps since the last log line, and counts since the start; all of it is part of a checkpoint."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, gradient norm, finite steps
        self._counts = torch.zeros(2, dtype=torch.float64, device=device)  # steps skipped: in all, in a row until now
        self._parts: dict[str, Tensor] = {}  # float64 [] for each part of the loss, if it has several
        self.skipped_samples = 0

    def add(
        self,
        loss: Tensor,
        grad_norm: Tensor,
        found_inf: Tensor,
        skipped_samples: int,
        parts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Count one step without a transfer to the host.

        Args:
            loss: float32 [].
            grad_norm: float32 [].
            found_inf: float32 [], 1 if the step was skipped.
            skipped_samples: Samples that were missing from it.
            parts: The parts of the loss by name, float32 [] each; the same names at every step.
        """
        good = found_inf == 0
        step = torch.stack([loss, grad_norm, torch.ones_like(loss)]).double()
        self._sums += torch.where(good, step, 0.0)
        total, row = self._counts.unbind()
        self._counts = torch.stack([total + found_inf, torch.where(good, 0.0, row + 1)])
        if parts is not None and len(parts) > 1:
            for name, value in parts.items():
                self._parts[name] = self._parts.get(name, 0.0) + torch.where(good, value.double(), 0.0)
        self.skipped_samples += skipped_samples

    def read(self) -> Totals:
        """The numbers of the log line; begins a new window."""
        values = [self._sums, self._counts, *(part.reshape(1) for part in self._parts.values())]
        loss, norm, steps, skipped, row, *parts = torch.cat(values).tolist()
        self._sums.zero_()
        names = ["loss", *(f"loss_{name}" for name in self._parts)]
        self._parts = {}
        losses = {name: value / steps if steps else None for name, value in zip(names, [loss, *parts], strict=True)}
        return Totals(losses, norm / steps if steps else None, self.skipped_samples, int(skipped), int(row))

    def state(self) -> dict[str, Any]:
        """For the checkpoint: JSON keeps every bit of a float64."""
        return {
            "sums": self._sums.tolist(),
            "counts": self._counts.tolist(),
            "parts": {name: float(part) for name, part in self._parts.items()},
            "skipped_samples": self.skipped_samples,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        device = self._sums.device
        self._sums = torch.tensor(state["sums"], dtype=torch.float64, device=device)
        self._counts = torch.tensor(state["counts"], dtype=torch.float64, device=device)
        parts = state.get("parts", {})
        self._parts = {name: torch.tensor(part, dtype=torch.float64, device=device) for name, part in parts.items()}
        self.skipped_samples = state["skipped_samples"]


RATES = ("samples_per_second", "data_wait", "flops_per_second", "flops_share", "peak_memory")
"""The only fields of a log line that differ between two equal runs."""


class Clock:
    """Rates since the last log line."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._samples = 0
        self._flops = 0.0
        self._waited = 0.0

    def add(self, samples: int, flops: float = 0.0) -> None:
        """Count samples that were trained on, and the FLOPs of their matrix products."""
        self._samples += samples
        self._flops += flops

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the context, time does not count."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._begin += time.perf_counter() - begin

    def read(self, waited: float, peak: float | None = None) -> dict[str, float | None]:
        """The fields `RATES` but for the memory; flops_per_second and flops_share are None if no FLOPs were counted.

        Args:
            waited: Seconds that the loader has been waited for since it was made.
            peak: FLOPs per second of bare matrix products.
        """
        now = time.perf_counter()
        elapsed = max(now - self._begin, 1e-9)
        rate = self._flops / elapsed if self._flops else None
        line = {
            "samples_per_second": self._samples / elapsed,
            "data_wait": (waited - self._waited) / elapsed,
            "flops_per_second": rate,
            "flops_share": rate / peak if rate and peak else None,
        }
        self._begin, self._samples, self._flops, self._waited = now, 0, 0.0, waited
        return line


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held so far, or on CUDA the most of its tensors there (no waiting)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss would begin with the parent's
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, in bytes


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """The line with null for nan and infinity, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
