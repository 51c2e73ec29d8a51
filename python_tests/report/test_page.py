"""The page about runs: what stands on it, and what cannot get into it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from d2v_fast.commands import cli
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.report import curves, page
from d2v_fast.report.health import findings
from d2v_fast.report.seen import read
from d2v_fast.run.reader import Run

NASTY = "<script>alert(1)</script>\"'&\u202e"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside of the style sheet."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data):
        if self._open != "style":
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(folder, train, make_config):
    """A run of eight steps; `write` makes others like it from its configuration and lines of one's own."""
    out = folder / "first"
    return out if out.exists() else train(make_config("vision"), out)


@pytest.fixture
def write(run, tmp_path):
    def make(name, lines, **overrides):
        out = tmp_path / name
        out.mkdir()
        content = json.loads((run / "config.json").read_text())
        for key, value in overrides.items():
            section, _, field = key.partition("__")
            content[section][field] = value
        (out / "config.json").write_text(json.dumps(content))
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return out

    return make


def test_it_shows_what_the_run_has(run):
    made = page.page(read([run]))
    seen = Tags(made)
    for title in ("Loss", "Explained variance", "Standard deviation", "Effective rank", "Teacher's decay"):
        assert title in seen.text
    assert "8 of 8" in seen.text
    assert "optim.lr" in seen.text
    assert "torch " in seen.text
    assert "16 samples, all of them" not in seen.text  # arrays have no index
    lines = Run(run).metrics()
    labels = [attributes["aria-label"] for tag, attributes in seen.tags if tag == "svg" and "role" in attributes]
    loss = next(label for label in labels if label.startswith("Loss: "))
    assert loss.endswith(f"ends at {float(format(lines[-1]['loss'], '.3g')):g}")


def test_it_needs_no_network_and_runs_nothing(run):
    made = page.page(read([run]))
    seen = Tags(made)
    assert not [tag for tag, _ in seen.tags if tag in ("script", "iframe", "object", "embed", "form", "base")]
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert "default-src 'none'" in made
    assert "url(" not in made
    assert "@import" not in made
    assert len(made.encode()) < page.LARGEST


def test_every_control_can_be_reached(run, write):
    made = Tags(page.page(read([run, write("other", [])])))
    anchors = {attributes["id"] for _, attributes in made.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in made.tags if tag == "a"]
    assert len(links) >= 5
    assert all(link[1:] in anchors for link in links)
    wide = [attributes for tag, attributes in made.tags if attributes.get("class") == "wide"]
    assert wide
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in wide)


def test_what_comes_from_files_is_text(write):
    lines = [{"step": 1, "loss": 1.0, NASTY: 2.0}, {"step": 2, "loss": "<b>", NASTY: 10**400}]
    out = write(NASTY.replace("/", ""), lines)
    (out / "probe.json").write_text(json.dumps({NASTY: NASTY, "accuracy": {"student": 0.912345}}))
    (out / "broken.json").write_text("{")
    (out / "list.json").write_text("[1]")
    made = page.page(read([out]))
    assert "<script" not in made
    assert "<b>" not in made
    assert "\u202e" not in made
    assert "accuracy.student" in made
    assert "0.9123" in made
    assert "broken.json" not in made
    assert "list.json" not in made


def test_runs_are_compared(run, write):
    other = write("other", [{"step": s, "loss": 1 / s, "lr": 0.1} for s in range(1, 9)], optim__lr=0.5)
    seen = Tags(page.page(read([run, other])))
    assert "What differs" in seen.text
    labels = [attributes["aria-label"] for tag, attributes in seen.tags if tag == "svg" and "role" in attributes]
    assert any("first ends at" in label and "other ends at 0.125" in label for label in labels)
    differing = seen.text.partition("What differs")[2].partition("All fields of")[0]
    assert "optim.lr" in differing
    assert "optim.clip_norm" not in differing


def test_runs_of_one_name_have_their_paths(run, write):
    twin = write("first", [])
    names = [seen.name for seen in read([run, twin])]
    assert names == [str(run), str(twin)]


def test_the_same_run_twice_is_refused(run):
    with pytest.raises(ConfigError, match="named twice"):
        read([run, run / ".." / run.name])


def test_a_run_without_lines_or_checkpoints_has_a_page(write):
    made = Tags(page.page(read([write("young", [])]))).text
    assert "There is no log line yet" in made
    assert "none yet" in made


def test_a_damaged_run_is_named(write):
    out = write("bad", [])
    (out / "metrics.jsonl").write_text("no json\n")
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1"):
        read([out])


def test_many_long_runs_fit(write):
    lines = [{"step": s, **{f"number_{k}": float((s * k) % 17) for k in range(1, 16)}} for s in range(1, 1001)]
    runs = read([write(f"run{i}", lines) for i in range(12)])
    assert len(page.page(runs).encode()) < page.LARGEST


def test_too_large_a_page_is_refused(run, monkeypatch):
    monkeypatch.setattr(page, "LARGEST", 10_000)
    with pytest.raises(ConfigError, match="name fewer runs"):
        page.page(read([run]))


def test_another_file_is_not_replaced(run, tmp_path):
    other = tmp_path / "thesis.html"
    other.write_text("<p>mine</p>")
    with pytest.raises(ConfigError, match="no page of this command"):
        page.write("x", other)
    assert other.read_text() == "<p>mine</p>"
    made = page.page(read([run]))
    page.write(made, tmp_path / "report.html")
    page.write(made, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == made


def test_every_number_of_a_run_has_a_chart(run):
    lines = read([run])[0].lines
    drawn = {name for curve in curves.present([lines]) for name in curve.fields}
    zero = {"skipped_samples", "skipped_steps"}  # of a run that has left nothing out
    assert {name for line in lines for name in line} - {"step", "epoch"} - zero <= drawn


def test_what_stands_out(make_config):
    config = make_config("vision")
    good = {"step": 10, "loss": 1.0, "explained": 0.8, "target_std": 0.9, "data_wait": 0.0, "skipped_samples": 0}
    assert findings(config, [good]) == []
    config = with_overrides(config, {"monitor": {"warmup_steps": 0, "abort_std": 0.0}})
    bad = {**good, "explained": -0.5, "target_std": 1e-9, "data_wait": 0.5, "skipped_samples": 1234, "skipped_steps": 3}
    found = " ".join(findings(config, [bad]))
    for words in ("targets are collapsing", "explain nothing", "1,234 samples", "3 steps", "waits for data 50%"):
        assert words in found, found
    stopped = replace(config, monitor=replace(config.monitor, abort_std=1e-3, min_std=1e-3))
    assert "have collapsed" in " ".join(findings(stopped, [bad]))


def test_masks_of_the_run_on_its_data(run, make_data):
    pytest.importorskip("matplotlib")
    from d2v_fast.report.masks import pictures

    before = sorted(path.name for path in run.iterdir())
    drawn = Tags(pictures(read([run]), make_data("vision")))
    (picture,) = [attributes for tag, attributes in drawn.tags if tag == "img"]
    assert picture["src"].startswith("data:image/png;base64,iVBOR")
    assert "masked" in picture["alt"]
    assert sorted(path.name for path in run.iterdir()) == before


def test_texts_are_cut_by_the_tokenizer_of_the_run(train, make_config, make_data, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from d2v_fast.report.masks import pictures

    out = train(make_config("text", steps=1), tmp_path / "text")
    monkeypatch.setattr("d2v_fast.modalities.text.tokenizer.train", None)  # whoever trains another one fails
    assert "<img" in pictures(read([out]), make_data("text"))


def test_the_command(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["report", str(run)])
    assert capsys.readouterr().out == "report.html\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "refresh" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run"),
        (["nowhere"], "nowhere is not a run"),
        (["x", "--watch", "0"], "expected 1 to 86400 seconds, got 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", *arguments])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_watching_ends_with_the_run(write, tmp_path, monkeypatch):
    out = write("growing", [{"step": 4, "loss": 2.0}])
    target, seen = tmp_path / "report.html", []

    def sleep(seconds):
        seen.append((seconds, target.read_text()))
        with open(out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 8, "loss": 1.0}) + "\n")

    monkeypatch.setattr("d2v_fast.commands.report.time.sleep", sleep)
    cli.main(["report", str(out), "--out", str(target), "--watch", "30"])
    ((seconds, young),) = seen
    assert seconds == 30
    assert '<meta http-equiv="refresh" content="30">' in young
    assert "4 of 8" in young
    assert "refresh" not in target.read_text()
    assert "8 of 8" in target.read_text()


def test_a_finetuning_has_a_page_beside_its_pretraining(make_finetuning, pretrained, tmp_path):
    make_finetuning(tmp_path / "tuned").fit()
    runs = read([pretrained("vision"), tmp_path / "tuned"])
    seen = Tags(page.page(runs))
    for words in ("tuned, validation", "Validation accuracy", "(no such field)"):
        assert words in seen.text, words
    pytest.importorskip("matplotlib")
    from d2v_fast.report.masks import pictures

    with pytest.raises(DataError, match="none of these runs has any"):
        pictures(runs[1:], tmp_path)
