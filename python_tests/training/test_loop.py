"""The loop itself: what it knows of the method (nothing), and that whatever ends it saves first."""

from __future__ import annotations

from pathlib import Path

import d2v_fast.training.loop


def test_the_loop_knows_no_method():
    text = Path(d2v_fast.training.loop.__file__).read_text().lower()
    assert [word for word in ("teacher", "student", "mask", "row", "ema") if word in text] == []
