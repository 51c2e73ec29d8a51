"""docs/features.md runs as it stands, and says what it shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import d2v_fast
from d2v_fast.commands.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.chdir(tmp_path)
    pictures = datasets.load_digits()  # the folder that the commands read, half of it
    for i in range(0, 1797, 2):
        (tmp_path / "digits" / str(pictures.target[i])).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.round(pictures.images[i] * (255 / 16)).astype(np.uint8))
        picture.save(tmp_path / "digits" / str(pictures.target[i]) / f"{i:04}.png")
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, code in re.findall(r"```(python|bash)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
        else:
            for line in code.splitlines():
                main(shlex.split(line)[1:])
    assert names["found"].features.shape == (1797, len(names["encoder"].blocks) + 1, 64)
    probing = json.loads((tmp_path / "probe.json").read_text())
    linear = [c for c in probing["comparisons"] if c["what"] == "linear" and c["second"] == "initial"]
    assert len(linear) == 2
    assert all(c["interval"][0] > 0 for c in linear)  # both networks have learned something
    assert "62% of 4 x 4 patches masked" in (tmp_path / "report.html").read_text()
    watched = [line for line in d2v_fast.Run(tmp_path / "runs" / "watched").metrics() if "probe_knn" in line]
    assert [line["step"] for line in watched] == [30, 60, 90]
    assert watched[-1]["probe_linear"] > watched[-1]["probe_linear_initial"] + 0.05
    printed = capsys.readouterr().out
    accuracy = {
        (kind.strip(), scaled): float(value)
        for kind, value, scaled in re.findall(r"^(.+?)  (\S+) \+- \S+  standardize=(\w+)$", printed, re.MULTILINE)
    }
    assert len(accuracy) == 6
    assert accuracy["pretrained", "True"] > accuracy["random start", "True"] + 0.1
    assert accuracy["pixels", "False"] > accuracy["pixels", "True"]


def test_every_number_of_a_log_line_is_explained():
    from d2v_fast.run.metrics import RATES
    from d2v_fast.run.progress import _GROUPS

    text = PAGE.read_text()
    for name in (*(name for names in _GROUPS.values() for name in names), "explained", *RATES):
        assert f"`{name}`" in text, name
