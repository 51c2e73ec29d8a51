"""The benchmark behind docs/outcomes.md: its quick form, its splits, its language model."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from pathlib import Path

import pytest

from d2v_fast.finetuning.ngram import read_arpa

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark_module(monkeypatch):
    """outcomes.py, whose neighbours it imports by name."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("benchmarks/ is not here")
    for package in ("sklearn", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra demo)")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import outcomes

    return outcomes


@pytest.fixture
def run(benchmark_module, monkeypatch):
    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["outcomes.py", *map(str, arguments)])
        benchmark_module.main()

    return call


def test_the_quick_form_runs_and_does_nothing_twice(run, tmp_path, capsys):
    arguments = ("pretrain", "choose", "cells", "table", "text", "--out", tmp_path, "--quick", "--seeds", 0)
    run(*arguments)
    table = capsys.readouterr().out
    assert table.count("| texts | ") == 3 + 2 + 1  # shares of labels, probes, teacher
    assert "pictures" not in table
    cells = {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    names = {file.stem for file in cells}
    assert {
        f"text-{share}-{start}-0" for share in ("0.01", "0.1", "1") for start in ("random", "student", "raw")
    } < names
    counts = [
        json.loads((tmp_path / "cells" / f"text-{share}-raw-0.json").read_text())["samples"] for share in (0.1, 1)
    ]
    assert counts[0] < counts[1]
    written = (tmp_path / "outcomes.md").read_bytes()
    run(*arguments)
    assert {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()} == cells
    assert (tmp_path / "outcomes.md").read_bytes() == written
    assert (tmp_path / "outcomes.png").stat().st_size > 5000


def test_parts_of_texts_share_nothing_and_labels_are_drawn_by_class(benchmark_module, tmp_path):
    data = benchmark_module.KINDS["text"](tmp_path, True)
    texts = [set(part.inputs) for part in (data.train, data.dev, data.test)]
    assert min(map(len, texts)) > 0
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    corpus = [json.loads(line)["text"] for line in data.corpus.read_text().splitlines()]
    assert not {text.encode()[:126].decode(errors="ignore") for text in corpus} & (texts[1] | texts[2])
    some, others = (benchmark_module.share_of(data.train, 0.2, seed) for seed in (0, 1))
    assert set(some.labels) == set(others.labels) == set(data.train.labels)
    assert some.inputs != others.inputs
    assert len(benchmark_module.share_of(data.train, 1.0, 0)) == len(data.train)


def test_the_language_model_is_a_distribution(benchmark_module, tmp_path):
    sentences = ["the cat sees the dog", "the dog sees a cat", "a cat"]
    model = read_arpa(benchmark_module.write_arpa(tmp_path / "a.arpa", sentences, order=3))
    words = {*" ".join(sentences).split(), "</s>", "<unk>"}
    for history in ([], ["the"], ["the", "cat"], ["dog", "dog"], ["<unk>"]):
        assert sum(math.exp(model.score([*history, word])[-1]) for word in words) == pytest.approx(1, abs=1e-5)
    assert read_arpa(benchmark_module.write_arpa(tmp_path / "b.arpa", sentences, order=1)).score(["cat", "<unk>"])
    likely, unlikely = model.score(["the", "dog"])[-1], model.score(["the", "a"])[-1]
    assert likely > unlikely


def test_the_commands_of_the_page_are_those_of_the_benchmark(benchmark_module, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark_module, "write_tables", lambda out: asked.append("table"))
    for name in ("pretrained", "choose", "cells", "longer"):
        monkeypatch.setattr(benchmark_module.Bench, name, lambda self, *given, name=name: asked.append(name))
    monkeypatch.setattr(Path, "mkdir", lambda *given, **options: None)
    lines = re.findall(
        r"^python (benchmarks/outcomes.py .*)$", (ROOT / "docs" / "outcomes.md").read_text(), re.MULTILINE
    )
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        benchmark_module.main()
    assert set(asked) == {"pretrained", "choose", "cells", "longer", "table"}
