"""A kernel that does nothing: what compiles and launches it can compile and launch the others."""

from __future__ import annotations

import triton


@triton.jit
def nothing() -> None:
    """Takes nothing and does nothing."""
