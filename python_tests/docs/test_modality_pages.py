"""The pages from raw files to a fine-tuned model in transformers run as they stand, and end with the right answers."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from d2v_fast.commands import cli

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- not run: python_tests/docs/test_modality_pages.py does -->\n"


@pytest.fixture
def run_page(tmp_path, monkeypatch, capsys):
    """Page to what its last block prints, which uses transformers; None where that is not installed."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> str | None:
        page = DOCS / f"{name}.md"
        blocks = re.findall(rf"{MARK}```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        assert len(blocks) == page.read_text().count("\n```") / 2
        for language, code in blocks:
            if language == "sh":
                for line in code.splitlines():
                    program, *arguments = shlex.split(line, comments=True)
                    assert program == "d2v-fast", line
                    if find_spec("transformers") or arguments[0] != "export":
                        cli.main(arguments)
            elif find_spec("transformers") or "transformers" not in code:
                capsys.readouterr()
                exec(compile(code, str(page), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out if find_spec("transformers") else None

    return run


def number(file: str, name: str) -> float:
    return float(json.loads(Path(file).read_text())["metrics"][name])


def test_vision(run_page):
    pytest.importorskip("sklearn")
    printed = run_page("vision")
    assert number("pretrained.json", "accuracy") > number("scratch.json", "accuracy") + 0.05
    first = Path("answers.csv").read_text().splitlines()[1].split(",")
    assert printed in (None, f"test/{first[0]} {first[1]}\n")


def test_speech(run_page):
    printed = run_page("speech")
    assert number("numbers.json", "wer") < 0.2
    cli.main(["predict", "runs/words", "--data", "test.jsonl", "--out", "answers.jsonl"])
    said = json.loads(Path("answers.jsonl").read_text().splitlines()[0])["transcript"]
    assert printed in (None, f"['{said}']\n")


def test_text(run_page):
    printed = run_page("text")
    assert number("numbers.json", "accuracy") > 0.9
    assert printed in (None, "['sea', 'wood']\n")


def test_signals(run_page):
    printed = run_page("signals")
    assert number("numbers.json", "accuracy") > 0.9
    assert printed in (None, "fast\n")
