"""docs/finetuning.md runs as it stands, and the fields that it names are fields."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from d2v_fast import presets
from d2v_fast.commands import cli
from d2v_fast.commands.pretrain import fields_of
from d2v_fast.finetuning.config import FinetuneConfig

PAGE = Path(__file__).parents[2] / "docs" / "finetuning.md"


def write(folder, count, seed, classes):
    """Pictures of two kinds, dark and bright, in folders of their class or all in one."""
    random = np.random.default_rng(seed)
    for i in range(count):
        place = folder / ("dark", "bright")[i % 2] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.random((8, 8)) * 80 + 120 * (i % 2)).astype(np.uint8)).save(place / f"{i}.png")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "photos", 40, 0, classes=False)
    write(tmp_path / "labelled", 60, 1, classes=True)
    write(tmp_path / "test", 20, 2, classes=True)
    write(tmp_path / "new", 4, 3, classes=False)
    blocks = re.findall(
        r"test_finetuning_page.py does -->\n```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    for language, code in blocks:
        if language == "sh":
            for line in code.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "d2v-fast", line
                cli.main(arguments)
        else:
            exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    assert json.loads((tmp_path / "numbers.json").read_text())["metrics"]["accuracy"] > 0.9
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {answer["name"]: answer["label"] for answer in answers} == {
        "0.png": "dark",
        "1.png": "bright",
        "2.png": "dark",
        "3.png": "bright",
    }


def test_fields_that_the_page_names_are_fields():
    recipes = (presets.vision_tiny(), presets.spectrogram_tiny())
    configs = [FinetuneConfig(model=recipe.model, inputs=recipe.inputs) for recipe in recipes]
    known = {name for config in configs for name, _ in fields_of(config)}
    named = set(re.findall(r"`((?:task|encoder|head|model|loader|log)\.[a-z_.]+)", PAGE.read_text()))
    assert len(named) > 10
    assert named <= known
