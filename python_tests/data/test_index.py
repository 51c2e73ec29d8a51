from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from d2v_fast.data import DataError, SampleError, columns
from d2v_fast.data.begun import check_fingerprint
from d2v_fast.data.collection import Collection
from d2v_fast.data.index import FILE, LINES, Index
from d2v_fast.data.listing import check_formats, list_files
from d2v_fast.data.opening import open_index
from d2v_fast.data.store import FileStore
from d2v_fast.errors import OwnFile


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    return root


def folder(root, listing=None):
    listing = listing or list_files(root, (".wav",))
    return Collection(str(root), None, lambda: listing, lambda known: FileStore(root, known.names))


def by_name(store, i):
    name = store.names[i]
    if "bad" in name:
        raise SampleError(name, "is bad")
    return (len(name), 7)


def test_files_are_found_below_sorted_and_by_extension(tmp_path):
    fill(
        tmp_path,
        "b.wav",
        "a/z.WAV",
        "a.wav",
        "a/b/c.wav",
        "é/ü.wav",
        "notes.txt",
        ".hidden.wav",
        ".git/x.wav",
        "README",
    )
    listing = list_files(tmp_path, (".wav",))
    assert listing.names == ["a.wav", "a/b/c.wav", "a/z.WAV", "b.wav", "é/ü.wav"]
    assert listing.file_bytes.tolist() == [len(name) for name in listing.names]
    assert dict(listing.ignored) == {".txt": 1, "": 1}


def test_loops_of_links_end_and_links_to_nothing_are_kept(tmp_path):
    fill(tmp_path, "a/x.wav", "b/y.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "z.wav").symlink_to(tmp_path / "nowhere.wav")
    listing = list_files(tmp_path, (".wav",))
    assert sorted(os.path.basename(name) for name in listing.names) == ["x.wav", "y.wav", "z.wav"]
    assert listing.file_bytes.tolist()[listing.names.index("z.wav")] == -1


def test_the_folder_of_the_run_is_not_data(tmp_path):
    run = tmp_path / "runs" / "a"
    fill(tmp_path, "b.jsonl")
    fill(run, "metrics.jsonl")
    assert list_files(tmp_path, (".jsonl",), run).names == ["b.jsonl"]
    assert list_files(tmp_path, (".jsonl",), tmp_path / "later").names == ["b.jsonl", "runs/a/metrics.jsonl"]
    with pytest.raises(DataError, match="is also the folder of the run"):
        list_files(run, (".jsonl",), run)


def test_a_pipe_is_no_file(tmp_path):
    fill(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "b.wav")
    (tmp_path / "c.wav").symlink_to("b.wav")
    (tmp_path / "d.wav").symlink_to("/dev/zero")
    assert list_files(tmp_path, (".wav",)).names == ["a.wav"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, capsys, monkeypatch):
    fill(tmp_path, "a.wav", "closed/b.wav")
    scandir = os.scandir

    def closed(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # the tests may run as a user who may read everything
    assert list_files(tmp_path, (".wav",)).names == ["a.wav"]
    assert f"skipped {tmp_path}/closed: this folder cannot be listed: Permission denied" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        list_files(tmp_path / "closed", (".wav",))


def test_names_that_are_not_utf8_survive(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.wav", "wb") as file:
        file.write(b"x")
    listing = list_files(tmp_path, (".wav",))
    index, _ = open_index(folder(tmp_path, listing), "speech", by_name, run=tmp_path / "run", threads=1)
    again = Index.load(tmp_path / "run" / FILE, "speech")
    assert list(again.names) == index.names
    assert os.fsencode(again.names[0]) == b"caf\xe9.wav"


def test_index_keeps_sizes_and_problems(tmp_path):
    fill(tmp_path, "a.wav", "bad.wav", "ccc.wav")
    listing = list_files(tmp_path, (".wav",))
    run = tmp_path / "run"
    index, _ = open_index(folder(tmp_path, listing), "speech", by_name, run=run, threads=2)
    assert index.sizes.tolist() == [[5, 7], [0, 0], [7, 7]]
    assert index.problems == {1: "is bad"}

    def never(store, i):
        raise AssertionError("the headers are not read again")

    again, _ = open_index(folder(tmp_path, listing), "speech", never, run=run, threads=2)
    assert again.fingerprint == index.fingerprint
    assert np.array_equal(again.sizes, index.sizes)
    assert again.problems == index.problems


@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
def test_many_headers_keep_their_order(tmp_path, count):
    names = [f"{i:03}" for i in range(count)]
    listing = list_files(tmp_path, (".wav",))
    listing.names.extend(names)
    index, _ = open_index(
        folder(tmp_path, listing), "speech", lambda store, i: (int(store.names[i]) + 1,), run=None, threads=3
    )
    assert index.sizes[:, 0].tolist() == list(range(1, count + 1))


def test_a_changed_folder_is_named(tmp_path):
    fill(tmp_path, "a.wav", "b.wav", "c.wav")
    run = tmp_path / "run"
    open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    (tmp_path / "a.wav").unlink()
    (tmp_path / "b.wav").write_bytes(b"longer than before")
    fill(tmp_path, "d.wav")
    with pytest.raises(
        DataError, match=r"1 new \(d.wav\), 1 gone \(a.wav\), 1 of another size \(b.wav \(5 -> 18 bytes\)"
    ):
        open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)


def test_fingerprint_depends_on_names_bytes_and_sizes():
    base = {"modality": "speech", "names": ["a", "b"], "problems": {}}
    base |= {"file_bytes": np.array([1, 2]), "sizes": np.array([[3], [4]])}
    prints = {
        Index(**base).fingerprint,
        Index(**base | {"names": ["a", "c"]}).fingerprint,
        Index(**base | {"file_bytes": np.array([1, 3])}).fingerprint,
        Index(**base | {"sizes": np.array([[3], [5]])}).fingerprint,
        Index(**base | {"extra": {"hash": "x"}}).fingerprint,
        Index(**base | {"modality": "vision"}).fingerprint,
    }
    assert len(prints) == 6
    assert Index(**base | {"problems": {0: "x"}}).fingerprint in prints


def test_a_damaged_index_is_named(tmp_path):
    fill(tmp_path, "a.wav", "b.wav")
    run = tmp_path / "run"
    open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    whole = (run / FILE).read_bytes()
    for damage in (whole[:-15], whole.replace(b"b.wav", b"c.wav"), b"", whole.split(b"\n", 1)[0] + b"\n", whole + b"x"):
        (run / FILE).write_bytes(damage)
        with pytest.raises(DataError, match=r"damaged .* delete it, and the data is indexed again"):
            Index.load(run / FILE, "speech")
    (run / FILE).write_bytes(whole)
    with pytest.raises(DataError, match="describes speech, not vision"):
        Index.load(run / FILE, "vision")


def test_a_large_index_is_compared_with_its_hashes_when_that_is_asked_for(tmp_path, monkeypatch):
    fill(tmp_path, "a.wav", "b.wav")
    run = tmp_path / "run"
    open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    (run / FILE).write_bytes((run / FILE).read_bytes().replace(b"b.wav", b"c.wav"))
    monkeypatch.setattr(columns, "HASHED", 10)
    assert list(Index.load(run / FILE, "speech").names) == ["a.wav", "c.wav"]
    with pytest.raises(DataError, match="the hash of its column 'names'"):
        Index.load(run / FILE, "speech", all_of_it=True)


def test_nothing_readable_names_the_first_file(tmp_path):
    fill(tmp_path, "bad1.wav", "bad2.wav")
    with pytest.raises(DataError, match=r"none of the 2 files .* can be read; bad1.wav: is bad"):
        open_index(folder(tmp_path), "speech", by_name, run=None, threads=1)


def test_an_interrupted_index_is_begun_again(tmp_path):
    fill(tmp_path, "a.wav")
    run = tmp_path / "run"

    def fail(index, store):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(folder(tmp_path), "speech", by_name, run=run, threads=1, complete=fail)
    assert not (run / FILE).exists()


def test_formats_that_cannot_be_read(tmp_path, capsys):
    remedies = {".m4a": "Convert them."}

    def check(*names):
        root = tmp_path / str(len(names))
        root.mkdir(exist_ok=True)
        check_formats(root, list_files(fill(root, *names), (".wav",)), remedies, "WAV")

    with pytest.raises(DataError, match="is empty; put WAV files into it"):
        check()
    with pytest.raises(DataError, match=r"has 1 .m4a, which cannot be read. Convert them."):
        check("a.m4a")
    with pytest.raises(DataError, match=r"has no WAV files, only 2 .txt, 1 without extension"):
        check("a.txt", "b.txt", "c")
    check("a.wav", "b.m4a", "c.m4a", "d.txt")
    assert "left out: " in (error := capsys.readouterr().err)
    assert "2 .m4a, which cannot be read. Convert them." in error


def test_fingerprint_of_a_source_of_ones_own(tmp_path):
    check_fingerprint(tmp_path, "vision", 3, "abc")
    check_fingerprint(tmp_path, "vision", 3, "abc")
    with pytest.raises(DataError, match="fingerprint was 'abc', is 'abd'"):
        check_fingerprint(tmp_path, "vision", 3, "abd")
    assert json.loads((tmp_path / LINES).read_text())["samples"] == 3
    with pytest.raises(DataError, match="belongs to a DataSource"):
        Index.load(tmp_path / LINES, "vision")
    (tmp_path / LINES).unlink()
    fill(tmp_path, "a.wav")
    open_index(folder(tmp_path), "speech", by_name, run=tmp_path, threads=1)
    with pytest.raises(DataError, match=r"modality was 'speech', is 'vision', samples was None, is 3"):
        check_fingerprint(tmp_path, "vision", 3, "abc")


def test_a_file_that_disappears_is_a_broken_sample(tmp_path, caplog):
    fill(tmp_path, "a.wav", "b.wav", "c.wav", "bad.wav")
    run = tmp_path / "run"
    before, _ = open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    kept = (run / FILE).read_bytes()
    (tmp_path / "b.wav").unlink()
    index, _ = open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    assert list(index.names) == list(before.names)
    assert index.problems == {1: "is gone", 2: "is bad"}
    assert index.sizes.tolist() == before.sizes.tolist()  # nothing else shifts
    assert index.fingerprint == before.fingerprint
    assert (run / FILE).read_bytes() == kept
    assert "1 files of this run are gone (b.wav)" in caplog.text
    fill(tmp_path, "b.wav")
    assert open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)[0].problems == before.problems
    for name in ("a.wav", "b.wav", "c.wav", "bad.wav"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"4 gone .* Put it back as it was, .*--data-changed.* new run in another"):
        open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)


def test_files_that_the_first_start_did_not_look_for_are_no_change(tmp_path):
    """A later version, or a decoder that was installed since, knows more endings."""
    fill(tmp_path, "a.wav", "b.wav")
    run = tmp_path / "run"
    open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    fill(tmp_path, "c.mp3")
    more = list_files(tmp_path, (".wav", ".mp3"))
    open_index(folder(tmp_path, more), "speech", by_name, run=run, threads=1)
    fill(tmp_path, "d.wav")
    with pytest.raises(DataError, match=r"1 new \(d.wav\)"):
        open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)


@pytest.mark.parametrize(
    "error", [MemoryError, AssertionError("oh"), RecursionError("deep"), KeyError("k"), OverflowError]
)
def test_any_exception_is_that_samples_failure(tmp_path, error):
    def header(store, i):
        if i == 1:
            raise error
        return by_name(store, i)

    fill(tmp_path, "a.wav", "b.wav", "c.wav")
    index, _ = open_index(folder(tmp_path), "speech", header, run=None, threads=1)
    (reason,) = index.problems.values()
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    assert reason.startswith(f"reading it failed: {name}")
    assert index.sizes.tolist() == [[5, 7], [0, 0], [5, 7]]


def test_what_the_program_wrote_is_neither_a_sample_nor_a_change(tmp_path):
    def header(store, i):
        if "own" in store.names[i]:
            raise OwnFile(store.names[i], "was written here")
        return by_name(store, i)

    fill(tmp_path, "a.wav", "bad.wav", "own.wav", "z.wav")
    run = tmp_path / "run"
    index, store = open_index(folder(tmp_path), "speech", header, run=run, threads=1)
    assert index.names == list(store.names) == ["a.wav", "bad.wav", "z.wav"]
    assert index.sizes.tolist() == [[5, 7], [0, 0], [5, 7]]
    assert index.problems == {1: "is bad"}
    fill(tmp_path, "another own.wav")
    again, _ = open_index(folder(tmp_path), "speech", header, run=run, threads=1)
    assert list(again.names) == list(index.names)
    fill(tmp_path / "only", "own.wav")
    with pytest.raises(DataError, match="nothing but what this program wrote itself"):
        open_index(folder(tmp_path / "only"), "speech", header, run=None, threads=1)


def test_an_index_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    fill(tmp_path, "a.wav")
    run = tmp_path / "run"
    open_index(folder(tmp_path), "speech", by_name, run=run, threads=1)
    path, kept = run / FILE, (run / FILE).read_bytes()

    def fails(*arguments, **options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", fails)
        with pytest.raises(DataError, match=r"cannot be read just now \(Input/output error\)"):
            Index.load(path, "speech")
    line, _, rest = kept.split(b"\n", 2)
    line = line.replace(b'"format": 2', b'"format": 3')
    path.write_bytes(b"%s\n%s\n%s" % (line, hashlib.blake2b(line, digest_size=16).hexdigest().encode(), rest))
    with pytest.raises(DataError, match=r"was written by another version of d2v_fast \(format 3"):
        Index.load(path, "speech")


def test_folders_of_other_runs_are_not_data(tmp_path):
    fill(tmp_path, "a.wav", "runs/b/old.wav", "runs/b/metrics.jsonl", "own/c.wav", "own/metrics.jsonl", "d/e.wav")
    (tmp_path / "runs" / "b" / "config.json").write_text('{"model": {}, "mask": {}, "loader": {}}')
    (tmp_path / "own" / "config.json").write_text('{"somebody": "else"}')
    assert list_files(tmp_path, (".wav",)).names == ["a.wav", "d/e.wav", "own/c.wav"]
