from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from loading import open_source, records

from d2v_fast import registry
from d2v_fast.data import DataError, SampleError
from d2v_fast.data.build import broken_list, build
from d2v_fast.data.formats import manifest
from d2v_fast.data.guess import guess
from d2v_fast.data.journal import Journal
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs

SPEECH = SpeechInputs(min_seconds=0.0)


def told(text):
    return dict(re.findall(r"^d2v-fast: skipped (.*?): (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_the_zoo_is_sorted_into_good_and_broken(modality, deep, picture_zoo, clip_zoo, tmp_path, capsys):
    zoo = picture_zoo() if modality == "vision" else clip_zoo()
    out = tmp_path / "zoo.jsonl"
    built = build(zoo.root, out, deep=deep, modality=modality)
    broken = zoo.bad | (zoo.late if deep else {})
    names = {str(zoo.root / name): reason for name, reason in broken.items()}
    errors = told(capsys.readouterr().err)
    assert set(errors) == set(names)
    for name, reason in names.items():
        assert re.search(reason, errors[name]), (name, errors[name])
    listed = {entry["path"]: entry["reason"] for entry in map(json.loads, broken_list(out).open())}
    assert {str(zoo.root / name): reason for name, reason in listed.items()} == errors
    inputs = VisionInputs() if modality == "vision" else SPEECH
    source = open_source(out, modality, inputs)
    good = set(zoo.good) | (set() if deep else set(zoo.late))
    assert {source.name(i) for i in range(len(source))} == good
    assert len(built.good) == len(good)
    folder = open_source(zoo.root, modality, inputs)
    where = {folder.name(i): i for i in range(len(folder))}
    for i in range(len(source)):
        assert source.sizes[i].tolist() == folder.sizes[where[source.name(i)]].tolist()


@pytest.mark.parametrize("extension", manifest.EXTENSIONS)
def test_every_format_gives_back_what_was_found(extension, pictures, clips, tmp_path):
    if extension == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    for root, modality, inputs in ((pictures, "vision", VisionInputs()), (clips, "speech", SPEECH)):
        for out in (root / f"inside{extension}", tmp_path / f"above {modality}{extension}"):
            build(root, out)
            source, folder = open_source(out, modality, inputs), open_source(root, modality, inputs)
            below = f"{root.name}/" if extension == ".csv" and out.parent == tmp_path else ""
            assert [source.name(i) for i in range(len(source))] == [below + folder.name(i) for i in range(len(folder))]
            assert (source.sizes == folder.sizes).all()
            assert not broken_list(out).exists()
            assert not out.with_name(out.name + ".part").exists()


def test_a_tsv_of_16_khz_is_as_wav2vec_has_it(tmp_path, clip_zoo):
    zoo = clip_zoo()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.wav").write_bytes(zoo.bytes("plain.wav"))
    build(tmp_path / "c", tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == "c\na.wav\t8000\n"
    (tmp_path / "c" / "b.wav").write_bytes(zoo.bytes("8000 Hz.wav"))
    build(tmp_path / "c", tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == "c\na.wav\t8000\t16000\nb.wav\t4000\t8000\n"


def test_a_jsonl_of_clips_has_bytes_frames_and_seconds(tmp_path, clip_zoo):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.wav").write_bytes(clip_zoo().bytes("8000 Hz.wav"))
    build(tmp_path / "c", tmp_path / "a.jsonl")
    head, entry = map(json.loads, (tmp_path / "a.jsonl").open())
    assert head == {"d2v_fast": 1, "modality": "speech", "root": "c", "samples": 1}
    assert entry == {"path": "a.wav", "bytes": 8044, "frames": 4000, "rate": 8000, "seconds": 0.5}


@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".parquet"])
def test_members_of_shards(extension, tar_zoo, tmp_path):
    zoo = tar_zoo()
    out = zoo.root / f"all{extension}"
    built = build(zoo.root, out, deep=True)
    assert {built.listing.names[i] for i in built.good} == set(zoo.good)
    assert {built.listing.names[i] for i in built.problems} == set(zoo.bad)
    source, shards = open_source(out, "vision", VisionInputs()), open_source(zoo.root, "vision", VisionInputs())
    where = {shards.name(i): i for i in range(len(shards))}
    for i in range(len(source)):
        assert torch.equal(source.read(i), shards.read(where[source.name(i)]))
    with pytest.raises(DataError, match="TSV has no place for members of archives"):
        build(zoo.root, zoo.root / "all.tsv")
    parts = build(f"{zoo.root}/shard-{{000..001}}.tar", zoo.root / "parts.jsonl")
    assert len(parts.good) == 12


def test_links_out_of_the_folder_are_left_out_unless_allowed(pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (pictures / "class 0" / "0.png").rename(other / "0.png")
    (pictures / "class 0" / "0.png").symlink_to(other / "0.png")
    built = build(pictures, tmp_path / "a.jsonl")
    (reason,) = built.problems.values()
    assert reason.startswith(
        f"leads out of {pictures}, to {other / '0.png'}: allow that folder by --loader.allow-roots"
    )
    assert len(build(pictures, tmp_path / "a.jsonl", allow_roots=[str(other)]).good) == 10
    with pytest.raises(SampleError, match="leads out of"):
        open_source(tmp_path / "a.jsonl", "vision", VisionInputs()).read(0)
    allowed = open_source(tmp_path / "a.jsonl", "vision", VisionInputs(), allow_roots=[str(other)])
    assert allowed.read(0).shape == (3, 40, 70)


def test_a_manifest_elsewhere_names_the_flag(pictures, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "a.jsonl"
    build(pictures, out)
    assert f"--loader.allow-roots {pictures}" in capsys.readouterr().err
    assert len(open_source(out, "vision", VisionInputs(), allow_roots=[str(pictures)])) == 10
    with pytest.raises(DataError, match=r"CSV names no root; put it beside or above"):
        build(pictures, tmp_path / "elsewhere" / "a.csv")


def test_names_with_tabs_and_line_ends(pictures, tmp_path):
    (pictures / "class 0" / "0.png").rename(pictures / "a\tb\nc.png")
    with pytest.raises(DataError, match=r"TSV has no room for names with tabs or line ends \('a\\tb\\nc.png'\)"):
        build(pictures, tmp_path / "a.tsv")
    assert not (tmp_path / "a.tsv").exists()
    for extension in (".jsonl", ".csv"):
        build(pictures, tmp_path / f"a{extension}")
        source = open_source(tmp_path / f"a{extension}", "vision", VisionInputs())
        (i,) = [i for i in range(10) if source.name(i).endswith("a\tb\nc.png")]
        assert source.read(i).shape == (3, 40, 70)


def test_texts_and_documents(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_text("the cat sat on the mat. " * 30)
    (tmp_path / "t" / "b.jsonl").write_text('{"text": "dogs bark"}\nnonsense\n')
    (tmp_path / "t" / "c.txt").write_bytes(b"gr\xfcn")
    built = build(tmp_path / "t", tmp_path / "t.jsonl")
    assert built.sizes.tolist() == [[1, 720, 0, 0], [1, 9, 1, 2], [0, 0, 0, 0]]
    assert list(built.problems) == [2]
    source = open_source(tmp_path / "t.jsonl", "text", TextInputs(block_size=16), vocab_size=300)
    assert "dogs bark" in source.tokenizer.decode(source.tokens.tolist())


def test_the_modality_is_guessed(pictures, clips, tar_zoo, tmp_path):
    assert guess(pictures) == "vision"
    assert guess(clips) == "speech"
    assert guess(tar_zoo().root) == "vision"
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "m.jsonl").write_text('{"path": "a.flac"}\n')
    assert guess(tmp_path / "d.jsonl") == "text"
    assert guess(tmp_path / "m.jsonl") == "speech"
    (clips / "a.txt").write_text("what is said in the clips")
    assert guess(clips) == "speech"
    with pytest.raises(DataError, match="has 12 files of speech and 13 files of vision: choose by --modality"):
        guess(tmp_path)
    (tmp_path / "none").mkdir()
    assert guess(f"{tmp_path}/tar zoo/shard-{{000..001}}.tar") == "vision"
    with pytest.raises(DataError, match="has no files that are known by their names"):
        guess(tmp_path / "none")
    with pytest.raises(DataError, match="cannot look at s3://bucket to see what it holds: say --modality"):
        guess("s3://bucket")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.json", "should end in one of .jsonl, .tsv, .csv, .parquet"),
        ("nowhere/a.jsonl", "there is no folder"),
        (".tsv", "should end in one of"),
    ],
)
def test_manifests_that_cannot_be_written(pictures, tmp_path, out, message):
    with pytest.raises(DataError, match=message):
        build(pictures, tmp_path / out)
    assert not list(tmp_path.glob("*.part"))


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"nothing in .* can be read; a.png: is neither JPEG nor PNG"):
        build(tmp_path / "p", tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_an_interrupted_scan_continues(pictures, tmp_path, monkeypatch, capsys):
    out, looked = tmp_path / "a.jsonl", []

    vision = registry.get("vision")
    kind = vision.kind()

    def look(store, i):
        looked.append(store.names[i])
        if len(looked) == 6:
            raise KeyboardInterrupt
        return kind.header(store, i)

    monkeypatch.setattr(type(vision), "kind", lambda self, inputs=None: replace(kind, header=look))
    with pytest.raises(KeyboardInterrupt):
        build(pictures, out, threads=1)
    assert not out.exists()
    part = tmp_path / "a.jsonl.part"
    kept = records(part)
    assert 3 <= kept <= 5
    with part.open("ab") as file:
        file.write(bytes(17))  # half a record, as a power cut leaves it
    before = len(looked)
    built = build(pictures, out, threads=1)
    assert built.continued == kept
    assert len(looked) - before == 10 - built.continued
    assert f"continued: {built.continued} samples were looked at before" in capsys.readouterr().err
    whole = out.read_bytes()
    assert not part.exists()
    build(pictures, out)
    assert out.read_bytes() == whole


def test_another_scan_does_not_continue_this_one(pictures, tmp_path):
    task = {"path": os.path.abspath(pictures), "modality": "vision", "deep": False}
    size = (pictures / "class 0" / "0.png").stat().st_size

    def note(bytes_of_it):
        (tmp_path / "a.jsonl.part").unlink(missing_ok=True)
        with Journal(tmp_path / "a.jsonl.part", task) as journal:
            journal.note("class 0/0.png", bytes_of_it, (1, 2))

    note(size)
    assert build(pictures, tmp_path / "a.jsonl", deep=True).continued == 0
    note(size)
    assert build(pictures, tmp_path / "a.jsonl").sizes[0].tolist() == [1, 2]  # believed, as the file has the same size
    note(5)
    assert build(pictures, tmp_path / "a.jsonl").sizes[0].tolist() == [40, 70]
    (tmp_path / "a.jsonl.part").write_text(json.dumps(task) + "\n" + '["class 0/0.png", 5, 1, 2]\n')
    assert build(pictures, tmp_path / "a.jsonl").continued == 0  # of a version that wrote lines


def test_a_process_that_is_killed_continues(pictures, tmp_path):
    """The scan is slowed down so that it is still at work when it is stopped."""
    out = tmp_path / "a.jsonl"
    script = f"""
import time
from d2v_fast.data import build
from dataclasses import replace
from d2v_fast import registry
vision = registry.get("vision")
kind = vision.kind()
def look(store, i):
    time.sleep(0.2)
    return kind.header(store, i)
slow = replace(kind, header=look)
type(vision).kind = lambda self, inputs=None: slow
build.build({str(pictures)!r}, __import__("pathlib").Path({str(out)!r}), threads=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    part = tmp_path / "a.jsonl.part"
    while records(part) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode != 0
    assert not out.exists()
    built = build(pictures, out)
    assert built.continued >= 3
    assert len(built.good) == 10
