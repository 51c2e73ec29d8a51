"""`data build --part`: what many processes find makes the manifest that one makes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from loading import records

from d2v_fast import registry
from d2v_fast.commands import cli
from d2v_fast.data import DataError, parts
from d2v_fast.data.build import Built, broken_list, build, build_part
from d2v_fast.data.parts import Part


def told(text):
    return sorted(line for line in text.splitlines() if line.startswith("d2v-fast: skipped"))


def written(out):
    return out.read_bytes(), broken_list(out).read_bytes() if broken_list(out).exists() else None


@pytest.fixture
def texts(tmp_path):
    """The manifest goes into the folder itself, where a later part meets it."""
    (tmp_path / "t").mkdir()
    for i in range(5):
        (tmp_path / "t" / f"{i}.txt").write_text("the cat sat on the mat. " * (i + 1))
    (tmp_path / "t" / "bad.txt").write_bytes(b"gr\xfcn")
    (tmp_path / "t" / "old.jsonl").write_text('{"d2v_fast": 1, "root": "."}\n')  # written by this program: no sample
    return tmp_path / "t"


@pytest.mark.parametrize("samples", [0, 1, 7, 10, 1001])
def test_each_sample_is_in_one_part(samples):
    for count in (1, 2, 3, 13):
        slices = [Part(number, count).of(samples) for number in range(1, count + 1)]
        assert [i for part in slices for i in part] == list(range(samples))
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize(("corpus", "count"), [("texts", 3), ("texts", 11), ("pictures", 4), ("shards", 5)])
def test_parts_make_the_same_manifest(corpus, count, texts, pictures, tar_zoo, tmp_path, capsys):
    (pictures / "class 0" / "1.png").write_bytes(b"x")
    root = {"texts": lambda: texts, "pictures": lambda: pictures, "shards": lambda: tar_zoo().root}[corpus]()
    out = root / "all.jsonl"
    build(root, out, deep=True)
    whole, named = written(out), told(capsys.readouterr().err)
    assert len(named) == len(broken_list(out).read_text().splitlines()) > 0
    out.unlink()
    broken_list(out).unlink()
    order = [*range(2, count + 1), 1]
    errors = ""
    for number in order:
        assert not out.exists()
        result = build_part(root, out, Part(number, count), deep=True)
        errors += capsys.readouterr().err
    assert isinstance(result, Built)
    assert told(errors) == named
    assert written(out) == whole
    again = build_part(root, out, Part(2, count), deep=True)  # beside the manifest, which is no sample
    assert "part 2/" in capsys.readouterr().err
    assert isinstance(again, Built)
    assert written(out) == whole
    assert not list(out.parent.glob("**/*.journal")) + list(out.parent.glob("**/*.tmp"))


def test_what_is_missing_is_said(pictures, tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    command = ["data", "build", str(pictures), "--out", str(out), "--part"]
    cli.main([*command, "2/8"])
    assert f"{out}: part 2/8 is complete; to come: 1/8, 3/8, 4/8, 5/8, 6/8 and 2 more" in capsys.readouterr().out
    for number in (1, 3, 4, 5, 6, 7, 8):
        cli.main([*command, f"{number}/8"])
    assert f"{out}: 10 samples" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "1", "1/0", "-1/4", "1.0/4", "1/4 ", "٣/4"])
def test_parts_that_there_are_not(text, pictures, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "build", str(pictures), "--out", str(tmp_path / "a.jsonl"), f"--part={text}"])
    assert stopped.value.code == 2
    assert "the i-th of n parts, from 1/n to n/n" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl.parts").exists()


def test_parts_of_another_task_are_refused(pictures, tmp_path):
    out = tmp_path / "a.jsonl"
    folder = tmp_path / "a.jsonl.parts"
    build_part(pictures, out, Part(1, 2))
    remedy = f"or delete {folder} and build every part again"
    with pytest.raises(DataError, match=f"is one of 2 parts, this command builds one of 3: use --part i/2, {remedy}"):
        build_part(pictures, out, Part(2, 3))
    with pytest.raises(DataError, match=f"deep False, this command has True: use the same options .*, {remedy}"):
        build_part(pictures, out, Part(2, 2), deep=True)
    first = pictures / "class 0" / "0.png"
    kept = first.read_bytes()
    first.write_bytes(kept + b"x")
    changed = f"the files have changed since .*1-of-2.part was built .*: put them back as they were, {remedy}"
    with pytest.raises(DataError, match=changed):
        build_part(pictures, out, Part(2, 2))
    first.rename(pictures / "other.png")
    with pytest.raises(DataError, match=changed):
        build_part(pictures, out, Part(2, 2))
    (pictures / "other.png").unlink()
    with pytest.raises(DataError, match="then 10 samples, now 9"):
        build_part(pictures, out, Part(2, 2))
    first.write_bytes(kept)
    part = folder / "1-of-2.part"
    whole = part.read_text()
    lines = whole.splitlines(keepends=True)
    for damaged in ("".join(lines[:-1]), whole + lines[-1], whole[:-4], lines[0] + "[1]\n" * 5, "[]\n", ""):
        part.write_text(damaged)
        with pytest.raises(DataError, match=r"1-of-2\.part is damaged: delete it, and build that part again"):
            build_part(pictures, out, Part(2, 2))
    assert not out.exists()
    part.unlink()
    assert build_part(pictures, out, Part(2, 2)) == [Part(1, 2)]
    assert isinstance(build_part(pictures, out, Part(1, 2)), Built)
    build(pictures, tmp_path / "b.jsonl")
    assert out.read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    manifest = tmp_path / "b.jsonl"
    with pytest.raises(DataError, match="choose another --out"):
        build_part(manifest, manifest, Part(1, 2))


def test_nothing_that_can_be_read_is_said_at_the_end(tmp_path):
    (tmp_path / "p").mkdir()
    for name in "ab":
        (tmp_path / "p" / f"{name}.png").write_bytes(b"x")
    assert build_part(tmp_path / "p", tmp_path / "a.jsonl", Part(1, 2)) == [Part(2, 2)]
    with pytest.raises(DataError, match=r"nothing in .* can be read; a.png"):
        build_part(tmp_path / "p", tmp_path / "a.jsonl", Part(2, 2))


def test_a_part_that_is_killed_continues(pictures, tmp_path, monkeypatch):
    """Killed at its last file, when a second start of the same part says that it waits for the first."""
    out = tmp_path / "a.jsonl"
    script = f"""
import sys, time
from dataclasses import replace
from pathlib import Path
from d2v_fast import registry
from d2v_fast.data.build import build_part
from d2v_fast.data.parts import Part
vision = registry.get("vision")
kind = vision.kind()
def look(store, i):
    if i == 4:
        time.sleep(1000)
    return kind.header(store, i)
type(vision).kind = lambda self, inputs=None: replace(kind, header=look)
build_part({str(pictures)!r}, Path({str(out)!r}), Part(1, 2), threads=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    journal = tmp_path / "a.jsonl.parts" / "1-of-2.journal"
    looked, said = [], []
    vision = registry.get("vision")
    kind = vision.kind()

    def look(store, i):
        looked.append(i)
        return kind.header(store, i)

    def tell(message):
        said.append(message)
        assert not (tmp_path / "a.jsonl.parts" / "1-of-2.part").exists()
        process.kill()

    monkeypatch.setattr(type(vision), "kind", lambda self, inputs=None: replace(kind, header=look))
    monkeypatch.setattr(parts, "tell", tell)
    try:
        while records(journal) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        assert build_part(pictures, out, Part(1, 2)) == [Part(2, 2)]
    finally:
        process.kill()
        process.wait()
    assert len(said) == 1
    assert "waiting for another process" in said[0]
    assert 4 in looked
    assert 1 <= len(looked) <= 3  # the journal had two at least
    looked.clear()
    assert isinstance(build_part(pictures, out, Part(2, 2)), Built)
    assert sorted(looked) == [5, 6, 7, 8, 9]
    head, *rows = map(json.loads, out.open())
    assert head["samples"] == len(rows) == 10
    build(pictures, tmp_path / "b.jsonl")
    assert out.read_bytes() == (tmp_path / "b.jsonl").read_bytes()
