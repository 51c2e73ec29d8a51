"""Which PTX lines ran, over all launches of a kernel, and which may stay without having run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .launch import Report
from .parse import Kernel


class Coverage:
    """The instructions of one kernel that were executed by at least one thread."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._executed, self._reached = (np.zeros(len(kernel.code), bool) for _ in range(2))

    def add(self, report: Report) -> None:
        """Adds what one launch executed."""
        self._executed |= report.executed
        self._reached |= report.reached

    def missed(self, *, branches: bool = True) -> list[str]:
        """`line: instruction` of each that did not run."""
        return [self._name(at) for at in self._missed(branches)]

    def check(self, allowed: Mapping[str, tuple[int, str]], *, branches: bool = True) -> None:
        """Every instruction ran but for the allowed ones, and every allowance is still needed.

        Args:
            allowed: part of an instruction's text -> how many such instructions at most do not run, and why they
                cannot. What stands between the same two labels or branches as one of them need not run either.
            branches: whether each conditional branch must also have been taken, not only reached.

        Raises:
            AssertionError: names the PTX lines, or an allowance that is exceeded or stale (all its lines run).
        """
        starts = set(self.kernel.labels.values())
        starts |= {at + 1 for at, instruction in enumerate(self.kernel.code) if instruction.opcode == "bra"}
        block = np.cumsum([at in starts for at in range(len(self.kernel.code))])
        missed = self._missed(branches)
        used = {part: [at for at in missed if part in self.kernel.code[at].text] for part in allowed}
        excused = {block[at] for places in used.values() for at in places}
        unexpected = [self._name(at) for at in missed if block[at] not in excused]
        if unexpected:
            raise AssertionError(f"{self.kernel.name}: never executed:\n  " + "\n  ".join(unexpected))
        for part, (count, _) in allowed.items():
            if not 1 <= len(used[part]) <= count:
                lines = "".join(f"\n  {self._name(at)}" for at in used[part])
                what = f"{'exceeded' if used[part] else 'stale'} allowance for {part!r}"
                raise AssertionError(
                    f"{self.kernel.name}: {what}: {len(used[part])} lines, 1 to {count} expected{lines}"
                )

    def _missed(self, branches: bool) -> NDArray:
        passed = np.array([not branches and instruction.opcode == "bra" for instruction in self.kernel.code])
        return np.flatnonzero(~(self._executed | self._reached & passed))

    def _name(self, at: int) -> str:
        return f"{self.kernel.code[at].line}: {self.kernel.code[at].text}"
