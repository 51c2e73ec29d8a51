"""docs/export.md runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from d2v_fast.commands import cli

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_page_runs(tmp_path, monkeypatch):
    for library in ("transformers", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is not installed (extra export)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "some.txt").write_text("\n\n".join(f"text {i} of some that say little" for i in range(2000)))
    blocks = re.findall(
        r"test_export_page.py does -->\n```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 7
    for language, code in blocks:
        if language == "sh":
            for line in code.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "d2v-fast", line
                cli.main(arguments)
        else:
            exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
