"""`d2v-fast embed`: the same as d2v_fast.embed, with its errors on one line."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import d2v_fast
from d2v_fast.commands.cli import main
from d2v_fast.evaluation import read_embedded


def test_it_writes_what_the_function_does(make_config, train, tmp_path, capsys):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    (tmp_path / "data").mkdir()
    for i in range(5):
        picture = np.random.default_rng(i).integers(0, 256, (18, 18, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "data" / f"{i}.png")
    capsys.readouterr()
    options = ["--network", "teacher", "--layers", "0,2", "--batch-size", "2", "--device", "cpu"]
    main(["embed", str(run), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "a.safetensors"), *options])
    assert capsys.readouterr().out == f"{tmp_path / 'a.safetensors'}\n"
    d2v_fast.embed(run, tmp_path / "data", out=tmp_path / "b.npy", network="teacher", layers=[0, 2], batch_size=2)
    one, other = read_embedded(tmp_path / "a.safetensors"), read_embedded(tmp_path / "b.npy")
    np.testing.assert_array_equal(one.features, other.features)
    assert one.names == other.names == [f"{i}.png" for i in range(5)]


def test_names_that_are_no_utf8(make_config, train, tmp_path):
    """Parquet has no room for them: there they have escapes."""
    pytest.importorskip("pyarrow")
    run = train(make_config("vision", steps=1), tmp_path / "run")
    (tmp_path / "data").mkdir()
    odd = os.fsdecode(b"caf\xe9.png")
    with (tmp_path / "data" / odd).open("wb") as file:
        Image.fromarray(np.full((18, 18, 3), 7, np.uint8)).save(file, "PNG")
    for ending, name in ((".safetensors", odd), (".npy", odd), (".parquet", r"caf\udce9.png")):
        d2v_fast.embed(run, tmp_path / "data", out=tmp_path / f"a{ending}", batch_size=1)
        assert read_embedded(tmp_path / f"a{ending}").names == [name]


def test_a_dry_run_writes_nothing(make_config, train, tmp_path, capsys):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    (tmp_path / "data").mkdir()
    for i in range(70):
        Image.fromarray(np.full((18, 18, 3), i, np.uint8)).save(tmp_path / "data" / f"{i:02}.png")
    (tmp_path / "data" / "00.png").write_bytes(b"no picture")
    capsys.readouterr()
    options = ["--layers", "all", "--pool", "none", "--dry-run"]
    main(["embed", str(run), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "new" / "a.npy"), *options])
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    lines = {what: value.strip() for what, value in lines.items()}
    assert lines["samples"] == "70"
    assert lines["features"] == "3 layers of 32 channels"
    assert lines["rows of a sample"] == "16"
    assert lines["cannot be read"] == "1 of 64 that were tried"
    assert lines["on the disk"].startswith("about 423 kB, ")  # 70 * 63 / 64 samples, 16 patches, 3 layers, 32 channels
    assert lines["time"].startswith("about 0:00:0")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--data", "x", "--out", "a.npy"], "nowhere is not a run"),
        (["nowhere", "--data", "x", "--out", "a.txt"], "ends in one of .safetensors, .npy, .parquet"),
        (["nowhere", "--out", "a.npy"], "missing --data"),
        (["nowhere", "--data", "x", "--out", "a.npy", "--network", "both"], "invalid choice"),
    ],
)
def test_errors_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["embed", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
