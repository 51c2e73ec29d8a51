from __future__ import annotations

import errno
import json
import os
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_fast.commands import cli
from d2v_fast.commands import data as data_cli
from d2v_fast.data import ArraySource, open_source
from d2v_fast.data import build as building
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.report.data import bars, describe


def run(*arguments):
    cli.main(["data", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    noise = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(noise.integers(0, 255, (60 + i, 90, 3), dtype=np.uint8)).save(root / f"{i}.png")
    (root / "bad.png").write_bytes(b"x")
    return root


def test_build_then_show(photos, tmp_path, capsys):
    manifest, picture = tmp_path / "photos.jsonl", tmp_path / "seen.png"
    run("build", photos, "--out", manifest, "--deep")
    said = capsys.readouterr()
    assert f"{manifest}: 9 samples, 0.1 million pixels" in said.out
    assert f"{manifest}.broken.jsonl: 1 left out" in said.out
    assert "skipped" in said.err
    assert "bad.png: is neither JPEG nor PNG" in said.err
    run("show", manifest, "--picture", picture)
    said = capsys.readouterr()
    assert "names files below" in said.err
    assert "90 x 64 (width x height)" in said.out
    assert "shorter side" in said.out
    assert f"as vision-base sees them: {picture}" in said.out
    with Image.open(picture) as image:
        seen = np.asarray(image.convert("RGB"))
    assert min(seen.shape[:2]) > 400
    lower = seen[len(seen) * 2 // 3 :]
    grey = (np.abs(lower.astype(int) - 0xB0).max(axis=2) <= 1).mean()
    assert 0.3 < grey < 0.8  # most of the students' row is masked


def test_a_manifest_elsewhere_is_shown_with_its_root_allowed(photos, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    manifest = tmp_path / "elsewhere" / "m.jsonl"
    run("build", photos, "--out", manifest)
    assert f"next: d2v-fast data show {manifest} --allow-roots {photos}\n" in capsys.readouterr().out
    run("show", manifest, "--allow-roots", photos, "--picture", "none")
    assert "median size" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("show", manifest, "--picture", "none")
    assert "(d2v-fast data: --allow-roots)" in capsys.readouterr().err


def test_show_of_clips_and_texts(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    noise = np.random.default_rng(0)
    for i in range(6):
        rate = (16000, 8000)[i % 2]
        soundfile.write(tmp_path / "clips" / f"{i}.wav", 0.1 * noise.standard_normal(rate * (1 + i)), rate)
    run("show", tmp_path / "clips", "--preset", "speech-tiny", "--picture", tmp_path / "a.png")
    said = capsys.readouterr().out
    assert "1.00 to 6.00 s, median 3.50 s" in said
    assert "3 at 8,000 Hz, 3 at 16,000 Hz" in said
    assert (tmp_path / "a.png").stat().st_size > 20_000
    lines = [json.dumps({"text": "the cat sat on the mat and looked at the dog. " * n}) for n in (2, 20, 30)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    run("show", tmp_path / "t.jsonl", "--picture", tmp_path / "b.png")
    said = capsys.readouterr().out
    assert "documents" in said
    assert "length of documents" in said
    assert (tmp_path / "b.png").stat().st_size > 5_000


def test_no_picture_if_none_is_wanted(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("show", photos, "--picture", "none")
    assert "unreadable" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shew"], 2, "there is no command data 'shew'; choose build, show or check"),
        (["build"], 2, "--out"),
        (["show", "nowhere"], 2, "cannot look at nowhere"),
        (["build", "nowhere", "--out", "a.jsonl", "--modality", "vision"], 2, "there is nothing at nowhere"),
        (["build", ".", "--out", "a.doc", "--modality", "vision"], 2, "has no JPEG or PNG files|is empty"),
        (["show", ".", "--modality", "smell"], 2, "modality"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(part in error for part in message.split("|")), error


def test_an_interrupt_is_a_line_too(photos, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write", stop)
    with pytest.raises(SystemExit) as stopped:
        run("build", photos, "--out", tmp_path / "a.jsonl")
    assert stopped.value.code == 130
    assert "the same command" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl.part").exists()


def test_without_matplotlib(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        run("show", photos, "--picture", tmp_path / "a.png")
    said = capsys.readouterr()
    assert "median size" in said.out
    assert "pip install 'd2v_fast[demo]'; or leave the picture out: --picture none" in said.err


def test_a_name_that_is_no_utf8_does_not_fit_into_parquet(photos, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    os.rename(photos / "3.png", photos / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(SystemExit) as stopped:
        run("build", photos, "--out", tmp_path / "a.parquet")
    assert stopped.value.code == 2
    assert r"Parquet has no room for names that are not UTF-8 (caf\udce9.png); use .jsonl" in capsys.readouterr().err
    run("build", photos, "--out", tmp_path / "a.jsonl")


def test_a_full_disk_names_the_file(photos, tmp_path, capsys, monkeypatch):
    """The system's error about it has no name."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    from d2v_fast.report import samples

    monkeypatch.setattr(samples, "draw", full)
    with pytest.raises(SystemExit):
        run("show", photos, "--picture", tmp_path / "a.png")
    assert f"No space left on device: '{tmp_path / 'a.png'}'" in capsys.readouterr().err
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        run("build", photos, "--out", tmp_path / "a.jsonl")
    assert f"No space left on device: '{tmp_path / 'a.jsonl'}" in capsys.readouterr().err


def test_many_broken_files(photos, tmp_path, capsys):
    for i in range(5, 9):
        (photos / f"{i}.png").write_bytes(b"x")
    run("show", photos, "--picture", tmp_path / "a.png")
    assert "5 (each is skipped and counted)" in capsys.readouterr().out
    assert (tmp_path / "a.png").exists()
    for i in range(5):
        whole = (photos / f"{i}.png").read_bytes()
        (photos / f"{i}.png").write_bytes(whole[: len(whole) // 2])  # the header is fine
    with pytest.raises(SystemExit) as stopped:
        run("show", photos, "--picture", tmp_path / "b.png")
    assert stopped.value.code == 2
    assert "can be read" in capsys.readouterr().err


def test_help(capsys):
    for arguments in ([], ["--help"]):
        run(*arguments)
        assert capsys.readouterr().out == data_cli.HELP


def test_histograms_count_everything():
    rng = np.random.default_rng(0)
    lengths = np.rint(16000 * rng.lognormal(2, 1, 500)).astype(int)
    source = ArraySource("speech", [np.zeros(1, np.int16)] * 500)
    source.sizes = lengths
    lines, (histogram,) = describe(source, SpeechInputs(min_seconds=2.0))
    assert dict(lines)["sound"] == f"{lengths.sum() / 16000 / 3600:,.2f} h"
    assert dict(lines)["left out"].startswith(f"{(lengths < 32000).sum()} shorter")
    assert histogram.counts.sum() == 500
    assert (np.diff(np.log(histogram.edges)) > 0).all()
    longest = max(len(bar) for _, bar, _ in bars(histogram))
    assert longest == 40
    one, (flat,) = describe(ArraySource("speech", [np.zeros(160, np.int16)] * 3), SpeechInputs())
    assert flat.counts.tolist() == [3]
    assert dict(one)["samples"] == "3"


def test_broken_samples_are_shown(photos):
    lines, _ = describe(open_source(photos, "vision", VisionInputs()), VisionInputs())
    assert dict(lines)["unreadable"].startswith("1 ")


def test_what_is_written_beside_the_data_is_not_data(photos, tmp_path):
    before = open_source(photos, "vision", VisionInputs(), run=tmp_path / "run")
    run("build", photos, "--out", photos / "photos.jsonl")
    run("show", photos, "--preset", "vision-tiny", "--picture", photos / "seen.png")
    run("show", photos, "--preset", "vision-tiny", "--picture", photos / "data-show.png")
    assert open_source(photos, "vision", VisionInputs(), run=tmp_path / "run").fingerprint == before.fingerprint
    assert open_source(photos, "vision", VisionInputs()).fingerprint == before.fingerprint
