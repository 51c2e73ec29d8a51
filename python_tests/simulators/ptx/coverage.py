"""Which PTX lines ran, over all launches of a kernel, and which may stay without having run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .parse import Kernel


class Coverage:
    """The instructions of one kernel that were executed by at least one thread."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._executed = np.zeros(len(kernel.code), bool)

    def add(self, executed: NDArray) -> None:
        """Adds what one launch executed (`Report.executed`)."""
        self._executed |= executed

    def missed(self) -> list[str]:
        """`line: instruction` of each that did not run."""
        return [f"{i.line}: {i.text}" for i, ran in zip(self.kernel.code, self._executed, strict=True) if not ran]

    def check(self, allowed: Mapping[str, str]) -> None:
        """Every instruction ran but for the allowed ones, and every allowance is still needed.

        Args:
            allowed: part of an instruction's text -> the reason why it cannot run.

        Raises:
            AssertionError: names the PTX lines, or the stale allowances.
        """
        missed = self.missed()
        unexpected = [line for line in missed if not any(part in line.split(": ", 1)[1] for part in allowed)]
        if unexpected:
            raise AssertionError(f"{self.kernel.name}: never executed:\n  " + "\n  ".join(unexpected))
        stale = [part for part in allowed if not any(part in line.split(": ", 1)[1] for line in missed)]
        if stale:
            raise AssertionError(f"{self.kernel.name}: these allowances are stale, all their lines run: {stale}")
