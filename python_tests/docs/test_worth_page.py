"""The benchmark behind docs/worth.md: its quick form on the demo's digits, its standard errors, its splits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "worth.md"


@pytest.fixture
def worth(monkeypatch):
    """worth.py, whose neighbours it imports by name."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("benchmarks/ is not here")
    for package in ("sklearn", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra demo)")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import worth

    return worth


@pytest.fixture
def digits(worth):
    """A `Worth` in which the question for choices and the held-out one are about digits."""
    from sklearn.datasets import load_digits
    from worth_parts import Part, Question, Worth

    from d2v_fast.data import ArraySource

    bunch = load_digits()
    pictures, names = list(np.round(bunch.images * (255 / 16)).astype(np.uint8)), np.array([*map(str, bunch.target)])

    def part(first: int, grouped: bool = False) -> Part:
        groups = np.array([f"{first} {i // 4}" for i in range(40)]) if grouped else None
        return Part(pictures[first : first + 40], names[first : first + 40], groups)

    def pixels(fit: Part, judge: Part) -> tuple[np.ndarray, np.ndarray]:
        x, z = (np.stack(one.inputs).reshape(len(one), -1).astype(np.float32) for one in (fit, judge))
        return x, z

    questions = [
        Question(f"digits {i}", "which digit", part(i), part(i + 40, grouped=i > 0), "digits 0" if i else "")
        for i in (0, 80, 160)
    ]
    corpus = ArraySource("vision", pictures[240:300], [f"picture {i}" for i in range(60)])
    return Worth("vision-tiny", {}, corpus, (questions[0],), tuple(questions[1:]), {"pixels": pixels})


def test_the_quick_form_runs_and_does_nothing_twice(worth, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worth.Study, "data", lambda self, kind: digits)
    monkeypatch.setattr(sys.modules["worth_tuning"], "SHARES", (0.1,))
    common = ["vision", "--quick", "--out", str(tmp_path), "--seeds"]

    def all_of_it() -> None:
        worth.main(["pretrain", "choose", "judge", *common, "0", "1"])
        worth.main(["finetune", "table", *common, "0"])

    all_of_it()
    worth.main(["try", "vision", "--quick", "--out", str(tmp_path), "--set", "optim.lr=0.02", "mask.ratio=0.5"])
    files = {file: file.read_bytes() for file in tmp_path.glob("*/*.json")}
    names = {str(file.relative_to(tmp_path)) for file in files}
    assert {"pretrain/vision-1.json", "judge/vision-1.json", "curve/vision.json", "choose/vision.json"} < names
    assert "try/vision-mask.ratio=0.5,optim.lr=0.02.json" in names
    curve = json.loads((tmp_path / "curve/vision.json").read_text())["points"]
    assert [point["step"] for point in curve] == [2 * (i + 1) for i in range(8)]
    assert all(a["cpu_seconds"] < b["cpu_seconds"] for a, b in pairwise(curve))
    judged = json.loads((tmp_path / "judge/vision-0.json").read_text())
    right = judged["right"]["digits 80"]
    assert len(right["features"]) == len(right["floor"]) == 40
    assert np.mean([c == "1" for c in right["floor"]]) == judged["accuracy"]["digits 80"]["floor"] > 0.5
    assert "finetune/vision-digits 80-0.1-student-0.json" in names
    capsys.readouterr()
    all_of_it()
    table = capsys.readouterr().out
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*.json")} == files
    assert table.count("| vision | digits ") == 2
    assert "optim.lr=0.02" in table
    assert (tmp_path / "worth.png").stat().st_size > 5000


def test_a_bootstrap_over_groups_is_wider_than_one_over_samples(worth):
    from worth_table import bootstrap, compared, verdict

    random = np.random.default_rng(0)
    difference = random.standard_normal(4000)
    assert bootstrap(difference) == pytest.approx(1 / np.sqrt(4000), rel=0.05)
    groups = [str(i // 10) for i in range(4000)]
    together = np.repeat(random.standard_normal(400), 10)
    assert bootstrap(together, groups) == pytest.approx(1 / np.sqrt(400), rel=0.1)
    rows = [{"right": {"q": {"features": "1" * 90 + "0" * 10, "floor": "1" * k + "0" * (100 - k)}}} for k in (60, 70)]
    found = compared(rows, "q", "floor")
    assert found["difference"] == pytest.approx(0.25)
    assert found["seeds"] == pytest.approx(0.05)
    assert found["within"] == pytest.approx((np.sqrt(0.3 * 0.7) + np.sqrt(0.2 * 0.8)) / 20, rel=0.05)
    assert verdict(found) == "better"
    assert verdict(found | {"within": 0.2}) == "not shown"
    assert verdict(found | {"difference": -0.25}) == "worse"


def test_parts_that_share_something_are_refused(worth, digits):
    from worth_parts import check, of_labels

    check(digits, lambda picture: picture.tobytes())
    first, second = digits.held
    for wrong in (
        replace(first, judge=first.fit),
        replace(first, judge=digits.dev[0].judge),
        replace(first, fit=replace(first.fit, groups=first.judge.groups)),
    ):
        with pytest.raises(SystemExit):
            check(replace(digits, held=(wrong, second)), lambda picture: picture.tobytes())
    with pytest.raises(SystemExit, match="'digits 80' is no question for choices"):
        check(replace(digits, held=(first, replace(second, chosen_on="digits 80"))), lambda picture: picture.tobytes())
    few = of_labels(first.fit, 0.1, 0)
    assert sorted(set(few.labels)) == sorted(set(first.fit.labels))
    assert len(few) == 10
    assert not all((a == b).all() for a, b in zip(few.inputs, of_labels(first.fit, 0.1, 1).inputs, strict=True))


def test_words_change_places(worth):
    pytest.importorskip("tokenizers")
    from worth_text import _shifted

    sentences = [(f"The cat number {i} sat down on the old mat today.", "book") for i in range(60)]
    made = _shifted(sentences)
    changed = [(text, i) for i, (text, label, _) in enumerate(made) if label == "changed"]
    assert 15 < len(changed) < 45
    for text, i in changed:
        before, after = sentences[i][0].split(), text.split()
        differs = [k for k in range(len(before)) if before[k] != after[k]]
        assert differs == [differs[0], differs[0] + 1]
        assert sorted(before) == sorted(after)
    assert next(text for text, label, _ in made if label != "changed") in {text for text, _ in sentences}
    assert {group for _, _, group in made} == {"book 0", "book 1"}


def test_the_page_names_every_question_and_command(worth):
    text = PAGE.read_text()
    for name in ("clothes", "emoji", "numbers", "commands", "fields", "order of words", "letters", "words", "packages"):
        assert f"`{name}`" in text, name
    assert "python benchmarks/worth.py" in text
    assert "worth" in sys.modules
