"""The index of earlier versions, a line of JSON for each sample, says what the file of columns does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from index_lines import as_lines

from d2v_fast.data import DataError, columns
from d2v_fast.data import index as index_module
from d2v_fast.data.collection import Collection
from d2v_fast.data.index import FILE, LINES, Index, index_file
from d2v_fast.data.listing import list_files
from d2v_fast.data.opening import open_index
from d2v_fast.data.store import FileStore


def make(count, *, full):
    """An index with all that an index can have, or with as little as there can be."""
    draw = np.random.default_rng(0)
    base = {
        "modality": "speech",
        "names": [f"dé/{i}.wav [{i / 3!r} s + 2.5 s]" for i in range(count)],
        "file_bytes": draw.integers(-1, 1 << 40, count),
        "sizes": draw.integers(0, 1 << 40, (count, 2)),
        "problems": {1: "is bad", count - 1: "is ünlike"} if full else {},
    }
    if not full:
        return Index(**base)
    return Index(
        **base,
        extra={"containers": ["a.tar", "b.tar"], "files": {"a.tar": 7}, "tokens": 3},
        places=draw.integers(-1, 1 << 40, (count, 2)),
        notes={"endings": [".wav"]},
        spans=np.where(draw.random((count, 2)) < 0.3, np.nan, draw.random((count, 2))),
    )


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("piece", [7, 1 << 16])
def test_lines_and_columns_say_the_same(tmp_path, full, piece, monkeypatch):
    monkeypatch.setattr(index_module, "_PIECE", piece)
    monkeypatch.setattr(columns, "_PIECE", piece * 16)
    index = make(50, full=full)
    as_lines(index, tmp_path / LINES)
    index.save(tmp_path / FILE)
    for path in (tmp_path / LINES, tmp_path / FILE):
        found = Index.load(path, "speech")
        assert list(found.names) == index.names
        assert [found.names[i] for i in (0, 7, -1)] == [index.names[i] for i in (0, 7, -1)]
        assert found.names[3:40:9] == index.names[3:40:9]
        assert found.problems == index.problems
        assert (found.extra, found.notes) == (index.extra, index.notes)
        assert found.fingerprint == index.fingerprint
        assert found.ranges == index.ranges
        for name in ("file_bytes", "sizes", "places", "spans"):
            ours, theirs = getattr(found, name), getattr(index, name)
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs, equal_nan=name == "spans")
    with pytest.raises(IndexError):
        found.names[50]
    (tmp_path / FILE).unlink()
    assert index_file(tmp_path) == tmp_path / LINES


def test_a_run_of_an_earlier_version_keeps_its_file(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"x")
    run = tmp_path / "run"

    def opened():
        listing = list_files(tmp_path, (".wav",))
        found = Collection(str(tmp_path), None, lambda: listing, lambda known: FileStore(tmp_path, known.names))
        return open_index(found, "speech", lambda store, i: (5, 7), run=run, threads=1)[0]

    made = opened()
    as_lines(made, run / LINES)
    (run / FILE).unlink()
    index = opened()
    assert index.names == list(made.names)
    assert index.fingerprint == made.fingerprint
    assert not (run / FILE).exists()
    (tmp_path / "d.wav").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 new \(d.wav\)"):
        opened()


def test_damaged_lines_are_named(tmp_path):
    as_lines(make(9, full=False), tmp_path / LINES)
    whole = (tmp_path / LINES).read_text()
    for damage in (whole[:-15], whole.replace("/3.wav", "/4.wav"), "", whole.split("\n", 1)[0] + "\n"):
        (tmp_path / LINES).write_text(damage)
        with pytest.raises(DataError, match="damaged"):
            Index.load(tmp_path / LINES, "speech")
    head, rest = whole.split("\n", 1)
    for changed, says in (
        ({"notes": None}, r"is damaged \(TypeError: notes None"),
        ({"format": 7}, r"was written by another version of d2v_fast \(format 7, this one reads 1"),
        ({"modality": "vision"}, "describes vision, not speech"),
    ):
        (tmp_path / LINES).write_text(json.dumps(json.loads(head) | changed) + "\n" + rest)
        with pytest.raises(DataError, match=says):
            Index.load(tmp_path / LINES, "speech")
    rest = json.dumps(["x.wav", 1, [5, 9999999999999999999999]])
    (tmp_path / LINES).write_text(head + "\n" + rest)
    with pytest.raises(DataError, match=r"is damaged \(OverflowError"):
        Index.load(tmp_path / LINES, "speech")
