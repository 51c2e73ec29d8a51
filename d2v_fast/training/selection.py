"""Which validation was the best so far, and whether it is time to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2v_fast.training.task import Metrics, Select


class Selection:
    """Follows one number of the validations; a part of the checkpoint.

    Attributes:
        by: The number, and what is better; None chooses nothing.
        value: The best so far; None before the first.
        step: After which optimizer step, counted from 1, it was measured.
        since: Validations after it.
    """

    def __init__(self, by: Select | None) -> None:
        self.by = by
        self.value: float | None = None
        self.step: int | None = None
        self.since = 0

    @property
    def exhausted(self) -> bool:
        """Whether there were `patience` validations since the best one."""
        return self.by is not None and self.by.patience is not None and self.since >= self.by.patience

    def add(self, metrics: Metrics, step: int) -> None:
        """Count a validation after `step`. A number that is missing is never better; the first of equals stays.

        Raises:
            KeyError: The validation has no such number.
        """
        if self.by is None:
            return
        value = metrics[self.by.metric]
        sign = 1 if self.by.largest else -1
        if value is not None and value == value and (self.value is None or sign * value > sign * self.value):  # no nan
            self.value, self.step, self.since = value, step, 0
        else:
            self.since += 1

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"value": self.value, "step": self.step, "since": self.since}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint; nothing, if it has nothing."""
        self.value, self.step, self.since = state.get("value"), state.get("step"), state.get("since", 0)
