"""Lets the kernels' tests import what lies beside them: the offline compiler, the launches, the strict interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "simulators"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
