"""The numbers of a run between two log lines. They stay on the device until a line is written."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

NON_FINITE_LIMIT = 20
"""Non-finite steps in a row after which a run stops (float16 may skip a few while its loss scale settles)."""


class Window:
    """Sums over the steps since the last log line, and counts since the start; all of it is part of a checkpoint."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, gradient norm, finite steps
        self._counts = torch.zeros(2, dtype=torch.float64, device=device)  # steps skipped: in all, in a row until now
        self.skipped_samples = 0

    def add(self, loss: Tensor, grad_norm: Tensor, found_inf: Tensor, skipped_samples: int) -> None:
        """Count one step; found_inf is 1 if it was skipped. No transfer to the host."""
        good = found_inf == 0
        step = torch.stack([loss, grad_norm, torch.ones_like(loss)]).double()
        self._sums += torch.where(good, step, 0.0)
        total, row = self._counts.unbind()
        self._counts = torch.stack([total + found_inf, torch.where(good, 0.0, row + 1)])
        self.skipped_samples += skipped_samples

    def read(self) -> tuple[dict[str, Any], int]:
        """The fields of the log line, and the number of steps skipped in a row; begins a new window."""
        loss, norm, steps, skipped, row = torch.cat([self._sums, self._counts]).tolist()
        self._sums.zero_()
        line = {
            "loss": loss / steps if steps else None,
            "grad_norm": norm / steps if steps else None,
            "skipped_samples": self.skipped_samples,
            "skipped_steps": int(skipped),
        }
        return line, int(row)

    def state(self) -> dict[str, Any]:
        """For the checkpoint: JSON keeps every bit of a float64."""
        return {
            "sums": self._sums.tolist(),
            "counts": self._counts.tolist(),
            "skipped_samples": self.skipped_samples,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._sums = torch.tensor(state["sums"], dtype=torch.float64, device=self._sums.device)
        self._counts = torch.tensor(state["counts"], dtype=torch.float64, device=self._sums.device)
        self.skipped_samples = state["skipped_samples"]


class Clock:
    """Rates since the last log line: the only numbers of a line that differ between two equal runs."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._samples = 0
        self._waited = 0.0

    def add(self, samples: int) -> None:
        """Count samples that were trained on."""
        self._samples += samples

    def read(self, waited: float) -> dict[str, float]:
        """samples_per_second and data_wait, the share of the time spent waiting for data.

        Args:
            waited: Seconds that the loader has been waited for since it was made.
        """
        now = time.perf_counter()
        elapsed = max(now - self._begin, 1e-9)
        line = {"samples_per_second": self._samples / elapsed, "data_wait": (waited - self._waited) / elapsed}
        self._begin, self._samples, self._waited = now, 0, waited
        return line


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """The line with null for nan and infinity, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
