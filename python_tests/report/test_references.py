"""Reference curves that come with the package."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from d2v_fast import presets
from d2v_fast.report import references
from d2v_fast.report.charts import charts
from d2v_fast.report.seen import Seen, read

SHIPPED = sorted(path.name for path in resources.files("d2v_fast.report").joinpath("references").iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reference_is_one_of_a_preset_as_it_is(name):
    reference = references.reference_of(name.removesuffix(".json"))
    assert reference.preset == name.removesuffix(".json")
    assert reference.steps == presets.preset(reference.preset).steps
    assert reference.shares[-1] == 1
    assert list(reference.shares) == sorted(reference.shares)
    assert {"loss", "explained", "target_std", "target_rank"} <= set(reference.low) == set(reference.high)
    for field, low in reference.low.items():
        assert len(low) == len(reference.shares) == len(reference.high[field])
        assert all(a <= b for a, b in zip(low, reference.high[field], strict=True))
    assert reference.low["explained"][-1] > 0.3  # healthy ones
    assert reference.low["target_rank"][-1] > 3


def test_the_tiny_presets_have_one():
    assert "vision-tiny.json" in SHIPPED


@pytest.mark.parametrize("name", [None, "no-such", "../page", "vision-tiny.json"])
def test_others_have_none(name):
    assert references.reference_of(name) is None


def test_the_range_of_some_runs():
    runs = [[{"step": s, "loss": s * k, "rank": 1.0, "explained": None} for s in range(10, 101, 10)] for k in (1, 3, 2)]
    content = references.summarise(runs, preset="p", about="a", command="c", steps=100)
    assert content["low"].keys() == content["high"].keys() == {"loss"}
    assert content["low"]["loss"][-1] == 100
    assert content["high"]["loss"][-1] == 300
    half = content["shares"].index(0.5)
    assert (content["low"]["loss"][half], content["high"]["loss"][half]) == (50, 150)
    assert content["low"]["loss"][0] == 10  # before the first line: that line
    assert content["low"]["loss"][half + 1] == pytest.approx(52.5)  # between two lines
    with pytest.raises(ValueError, match="all of their 200 steps"):
        references.summarise(runs, preset="p", about="a", command="c", steps=200)


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.2, "lower than there"), (0.85, "normal"), (1.5, "higher than there")]
)
def test_a_sentence(value, verdict):
    reference = references.Reference(
        preset="p", about="a", command="c", steps=10, shares=(0.5, 1.0), low={"explained": (0.1, 0.8)},
        high={"explained": (0.2, 0.9)},
    )  # fmt: skip
    words = reference.sentence("explained", 99, 100, value)
    assert words == f"is {value:g} at 99% of the steps, where healthy runs had 0.8 to 0.9: {verdict}."


@pytest.fixture
def seen(make_config, train, tmp_path):
    """A run of a preset that has a reference, from lines of one's own."""
    out = train(make_config("vision", steps=1), tmp_path / "run")

    def make(preset, lines=({"step": 1, "loss": 0.2, "explained": 0.9, "target_std": 1.0},)):
        content = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(content | {"preset": preset}))
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read([out])[0]

    return make


def test_the_band_stands_behind_the_curves(seen):
    made = charts([seen("vision-tiny")])
    assert made.count("healthy runs of vision-tiny") >= 4
    assert 'class="band"' in made
    assert "The explained share" in made
    assert "is 0.9 at 100% of the steps, where healthy runs had" in made
    assert made.index('class="band"', made.index("<svg viewBox")) < made.index('class="line s0"', made.index("</svg>"))


def test_without_a_reference_it_is_said(seen):
    made = charts([seen("vision-base")])
    assert "there is none for vision-base" in made
    assert 'class="band"' not in made


def test_runs_of_several_presets_have_none(seen):
    one = seen("vision-tiny")
    assert one.run.notes.preset == "vision-tiny"
    other = Seen(name="other", run=seen("text-tiny").run, lines=one.lines)
    if references.reference_of("text-tiny") is not None:
        assert "several presets share these charts" in charts([one, other])
