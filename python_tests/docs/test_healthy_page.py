"""docs/healthy.md: its commands run, and what docs/healthy.py has written is what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2v_fast
from d2v_fast.commands.cli import main
from d2v_fast.report.curves import KNOWN
from d2v_fast.report.references import reference_of

PAGE = Path(__file__).parents[2] / "docs" / "healthy.md"


def test_the_page_runs(tmp_path, monkeypatch):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for i in range(0, 1797, 2):
        folder = tmp_path / "digits" / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[i] * (255 / 16)).astype(np.uint8)).save(folder / f"{i:04}.png")
    blocks = re.findall(r"```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("d2v-fast")]
    assert len(commands) == 3
    for line in commands:
        main(shlex.split(line)[1:])
    healthy, collapsed = (d2v_fast.Run(tmp_path / "runs" / name).metrics() for name in ("healthy", "collapsed"))
    # "Later it explains something by itself, far less": 10 % at this end of a run of 100 steps.
    assert healthy[-1]["explained"] > 0.5 > 0.2 > collapsed[-1]["explained"]
    assert [line["step"] for line in healthy if "probe_knn" in line] == [60, 120, 180, 200]
    assert healthy[-1]["probe_knn"] > healthy[-1]["probe_knn_initial"]
    made = (tmp_path / "both.html").read_text()
    for words in (
        "predictions are collapsing",
        "healthy runs of vision-tiny",
        "healthy: student",
        "healthy: random start",
    ):
        assert words in made, words
    assert len(made.encode()) < 5_000_000


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_every_input_has_its_curves(modality):
    picture = PAGE.with_name(f"healthy-{modality}.svg")
    assert picture.name in PAGE.read_text()
    text = picture.read_text()
    assert text.startswith("<svg")
    assert "<script" not in text
    assert text.count('class="band"') == 7  # six charts and the legend
    assert reference_of(f"{modality}-tiny") is not None


def test_every_field_that_it_names_is_one():
    named = {name for name in re.findall(r"`(\w+)`", PAGE.read_text()) if "_" in name or name in ("loss", "explained")}
    assert {"loss", "explained", "target_std", "target_rank"} <= named
    assert named <= {field for curve in KNOWN for field in curve.fields}
