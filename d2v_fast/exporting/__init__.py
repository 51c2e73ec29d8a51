"""A run's network as a folder that other libraries load: `d2v-fast export`, `d2v_fast.export`."""

from __future__ import annotations

from d2v_fast.exporting.write import FORMATS, export

__all__ = ["FORMATS", "export"]
