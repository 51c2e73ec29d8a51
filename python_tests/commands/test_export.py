"""`d2v-fast export`: what it refuses; `python_tests/exporting` has what it writes."""

from __future__ import annotations

import pytest

from d2v_fast.commands import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "hf", "--out", "x"], "the run comes first"),
        (["nowhere", "--to", "hf", "--out", "x"], "nowhere is not a run"),
        (["nowhere", "--to", "tflite", "--out", "x"], "tflite"),
        (["nowhere", "--to", "hf"], "missing --out"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", *arguments])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_it_prints_the_folder(train, make_config, tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed (extra export)")
    run = train(make_config("speech", steps=1), tmp_path / "run")
    capsys.readouterr()
    cli.main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "model"), "--network", "teacher"])
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'model'}\n"
    assert printed.err == ""  # no bars of other libraries
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_dry_run_leaves_nothing(train, make_config, tmp_path, capsys):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    capsys.readouterr()
    command = ["export", str(run), "--to", "torch", "--out", str(tmp_path / "model")]
    before = sorted(tmp_path.rglob("*"))
    cli.main([*command, "--dry-run"])
    shown = capsys.readouterr().out
    assert shown.startswith("nothing was written\n")
    assert "README.md" in shown
    assert "on the disk" in shown
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "other").write_text("x")
    with pytest.raises(SystemExit):
        cli.main([*command, "--dry-run"])
    assert "exists and is no export" in capsys.readouterr().err
