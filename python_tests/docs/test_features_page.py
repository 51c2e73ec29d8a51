"""docs/features.md runs as it stands, and says what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    accuracy = {
        (kind.strip(), scaled): float(value)
        for kind, value, scaled in re.findall(r"^(.+?)  (\S+) \+- \S+  standardize=(\w+)$", printed, re.MULTILINE)
    }
    assert len(accuracy) == 6
    assert accuracy["pretrained", "True"] > accuracy["random start", "True"] + 0.1
    assert accuracy["pixels", "False"] > accuracy["pixels", "True"]


def test_every_number_of_a_log_line_is_explained():
    from d2v_fast.run.progress import _GROUPS

    text = PAGE.read_text()
    for name in (*(name for names in _GROUPS.values() for name in names), "explained", "samples_per_second"):
        assert f"`{name}`" in text, name
