"""Corpora of very many files: a start looks at some of them, a file is compared when it is read, all on request."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from d2v_fast.commands import cli
from d2v_fast.data import DataError, SampleError, changes, listing, open_source
from d2v_fast.data.formats import archives, manifest
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.run.directory import RunDirectory

COUNT = 200


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "COMPARED", 100)
    root = tmp_path / "photos"
    for i in range(COUNT):
        (root / str(i % 7)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(root / str(i % 7) / f"{i:03}.png")
    return root


@pytest.fixture
def begun(photos, tmp_path):
    open_source(photos, "vision", VisionInputs(), run=tmp_path / "run")
    return tmp_path / "run"


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def test_a_start_neither_lists_the_folder_nor_looks_at_every_file(photos, begun, monkeypatch):
    looked, stat = [], os.stat

    def counted(path, **options):
        looked.append(str(path))
        return stat(path, **options)

    def never(*_):
        raise AssertionError("the folder is listed")

    monkeypatch.setattr(os, "stat", counted)
    monkeypatch.setattr(listing.os, "scandir", never)
    source = open_source(photos, "vision", VisionInputs(), run=begun)
    assert len(source) == COUNT
    assert sum(path.endswith(".png") for path in looked) == changes.SPOTS
    assert source.read(7).shape[-2:] == (8, 9)


def test_another_folder_is_refused_at_once(photos, begun, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes((photos / "0" / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"1 new \(a.png\), 200 gone \(0/000.png, 0/007.png"):
        open_source(tmp_path / "other", "vision", VisionInputs(), run=begun)


def test_what_changed_is_found_when_it_is_read_or_on_request(photos, begun, capsys, caplog, make_config):
    """Files that the start does not happen to look at: the first and the last are, of any corpus."""
    with RunDirectory(begun) as run:
        run.write_config(make_config("vision"))
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    seen = set(np.linspace(0, COUNT - 1, changes.SPOTS).astype(int).tolist())
    first, second = [i for i in range(COUNT) if i not in seen][:2]
    cli.main(["data", "check", str(photos), "--run", str(begun)])
    assert "200 samples compared with" in capsys.readouterr().out
    size = (photos / names[first]).stat().st_size
    longer(photos / names[first])
    source = open_source(photos, "vision", VisionInputs(), run=begun)
    with pytest.raises(SampleError, match=rf"has {size + 1} bytes, but had {size} when the data was indexed"):
        source.read(first)
    with pytest.raises(SystemExit):
        cli.main(["data", "check", str(photos), "--run", str(begun)])
    assert f"1 of another size ({names[first]} ({size} -> {size + 1} bytes))" in capsys.readouterr().err
    (photos / names[first]).write_bytes((photos / names[first]).read_bytes()[:-1])
    (photos / names[second]).unlink()
    cli.main(["data", "check", str(photos), "--run", str(begun)])
    assert f"1 files of this run are gone ({names[second]})" in caplog.text
    source = open_source(photos, "vision", VisionInputs(), run=begun)
    assert source.read(first).shape[-2:] == (8, 9)
    with pytest.raises(SampleError, match="No such file"):
        source.read(second)
    (photos / "new.png").write_bytes((photos / names[first]).read_bytes())
    with pytest.raises(SystemExit):
        cli.main(["data", "check", str(photos), "--run", str(begun)])
    assert "1 new (new.png)" in capsys.readouterr().err


def test_a_file_that_is_looked_at_and_changed_leads_to_the_full_comparison(photos, begun):
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    for i in (0, 1, COUNT - 1):
        longer(photos / names[i])
    with pytest.raises(DataError, match=r"3 of another size \(0/000.png .*0/007.png"):
        open_source(photos, "vision", VisionInputs(), run=begun)


def test_a_folder_of_very_many_shards_is_not_listed(photos, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.png"))[:120]):
        with tarfile.open(shards / f"{i:03}.tar", "w") as tar:
            tar.add(path, path.name)
    run = tmp_path / "run"
    before = open_source(shards, "vision", VisionInputs(), run=run)
    looked, size = [], archives._size

    def counted(root, name):
        looked.append(name)
        return size(root, name)

    monkeypatch.setattr(archives, "_size", counted)
    monkeypatch.setattr(listing.os, "scandir", None)
    source = open_source(shards, "vision", VisionInputs(), run=run)
    assert len(looked) == changes.SPOTS
    assert (len(source), source.fingerprint) == (120, before.fingerprint)
    assert np.array_equal(source.read(5), before.read(5))


def test_a_large_manifest_that_was_not_written_since_is_not_read(photos, tmp_path, monkeypatch):
    table = photos / "all.csv"
    table.write_text("path\n" + "".join(f"{path.relative_to(photos)}\n" for path in sorted(photos.rglob("*.png"))))
    monkeypatch.setattr(manifest, "_HASHED", 10)
    run = tmp_path / "run"
    before = open_source(table, "vision", VisionInputs(), run=run)
    digests, digest = [], manifest._digest
    monkeypatch.setattr(manifest, "_digest", lambda file: digests.append(file) or digest(file))
    assert open_source(table, "vision", VisionInputs(), run=run).fingerprint == before.fingerprint
    assert digests == []
    os.utime(table, ns=(1, 1))
    open_source(table, "vision", VisionInputs(), run=run)  # written again, with the same content
    assert digests == [table]
    table.write_text(table.read_text().rsplit("\n", 2)[0] + "\n")
    with pytest.raises(DataError, match=r"1 new \(all.csv .*1 gone \(all.csv"):
        open_source(table, "vision", VisionInputs(), run=run)
