from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile
import torch
from loading import make_loader, open_source
from manifests import jsonl, table

from d2v_fast.data import DataError, LoaderConfig, SampleError, TooManySkipped
from d2v_fast.data.index import FILE
from d2v_fast.modalities.series.config import SeriesInputs
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs

SPEECH = SpeechInputs(min_seconds=0.1)


def by_name(source):
    return {source.name(i): i for i in range(len(source))}


EVERY = [".jsonl", ".csv", ".tsv", ".parquet"]


@pytest.mark.parametrize("extension", EVERY)
def test_a_manifest_chooses_pictures_with_and_without_sizes(pictures, extension):
    folder = open_source(pictures, "vision", VisionInputs())
    chosen = [folder.name(i) for i in (7, 0, 4)]
    rows = [{"path": name} for name in chosen]
    plain = open_source(table(pictures / f"a{extension}", rows), "vision", VisionInputs())
    assert [plain.name(i) for i in range(3)] == chosen
    assert plain.sizes.tolist() == folder.sizes[[7, 0, 4]].tolist()
    sized = [{"path": name, "height": h, "width": w} for name, (h, w) in zip(chosen, plain.sizes.tolist(), strict=True)]
    known = open_source(table(pictures / f"b{extension}", sized), "vision", VisionInputs())
    assert known.sizes.tolist() == plain.sizes.tolist()
    assert all(torch.equal(known.read(i), plain.read(i)) for i in range(3))


def test_known_sizes_are_believed_until_a_file_is_read(pictures):
    manifest = table(pictures / "a.jsonl", [{"path": "class 0/0.png", "height": 5, "width": 6}, {"path": "gone.png"}])
    source = open_source(manifest, "vision", VisionInputs())
    assert source.sizes.tolist() == [[5, 6], [0, 0]]
    with pytest.raises(SampleError, match="is 40x70, but was 5x6"):
        source.read(0)
    with pytest.raises(SampleError, match="No such file"):
        source.read(1)


@pytest.mark.parametrize("root", [".", "", "../clips", "absolute"])
def test_a_tsv_as_wav2vec_writes_it(clips, root):
    lengths = {name: soundfile.info(clips / name).frames for name in ("00.wav", "04.flac", "02.ogg")}
    lines = [str(clips) if root == "absolute" else root, *(f"{name}\t{frames}" for name, frames in lengths.items())]
    (clips / "train.tsv").write_text("\n".join(lines) + "\n")
    source = open_source(clips / "train.tsv", "speech", SPEECH)
    assert [source.name(i) for i in range(3)] == list(lengths)
    assert source.sizes.tolist() == list(lengths.values())
    assert [len(source.read(i)) for i in range(3)] == list(lengths.values())
    assert (source.rates == 16000).all()


def test_lines_that_make_no_sense_are_samples_that_cannot_be_read(pictures):
    manifest = pictures / "a.jsonl"
    manifest.write_text('{"path": "class 0/0.png"}\nnonsense\n\n[1]\n{"file": "x"}\n{"path": 3}\n')
    source = open_source(manifest, "vision", VisionInputs())
    assert source.sizes.min(axis=1).tolist() == [40, 0, 0, 0, 0]
    reasons = ((2, "is not a JSON object"), (4, "is not a JSON object"), (5, "has no path"), (6, "has no path"))
    for i, (line, reason) in enumerate(reasons, 1):
        with pytest.raises(SampleError, match=f"{manifest}, line {line}: {reason}"):
            source.read(i)
    (pictures / "b.tsv").write_text(".\nclass 0/0.png\t1\t2\t3\n")
    with pytest.raises(DataError, match=r"none of .* can be read; b.tsv, line 2: should be a path and height, width"):
        open_source(pictures / "b.tsv", "vision", VisionInputs())


def test_manifests_that_mean_harm(pictures):
    """Numbers, names and lines that would overflow, recurse or fail in ways of their own."""
    good = "class 0/0.png"
    lines = [
        {"path": good, "height": 10**30, "width": 1},
        {"path": good, "height": float("inf"), "width": 1},
        {"path": good, "height": "x", "width": 1},
        {"path": good, "height": [1], "width": 1},
        {"path": good, "member": "a", "offset": -5, "bytes": 7},
        {"path": good, "height": -7, "width": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "[" * 100_000 + "\n"
    text += json.dumps({"path": "a\0b.png"}) + "\n" + json.dumps({"path": "\ud800.png"}) + "\n"
    names = ["x" * 5000 + ".png", "/dev/zero", "class 0"]
    text += "".join(json.dumps({"path": name}) + "\n" for name in names)
    text += json.dumps({"path": good, "height": 0, "width": 0}) + "\n"
    (pictures / "a.jsonl").write_text(text)
    source = open_source(pictures / "a.jsonl", "vision", VisionInputs())
    count = len(lines) + 3
    assert len(source) == count + len(names) + 1
    assert (source.sizes[:count] == 0).all()
    for i in range(count):
        with pytest.raises(SampleError, match=f"a.jsonl, line {i + 1}: (has|is)"):
            source.read(i)
    reasons = ["File name too long", "leads out of", "not a plain file"]
    for i, reason in enumerate(reasons, count):
        for read in (source.read, source.encoded):
            with pytest.raises(SampleError, match=reason):
                read(i)
    assert source.sizes[count + 3].tolist() == [40, 70]  # zeros are no sizes: the header was read
    (pictures / "b.tsv").write_text(f".\n{good}\t²\t3\n{good}\t{10**30}\t3\n{good}\n")
    assert open_source(pictures / "b.tsv", "vision", VisionInputs()).sizes[:, 0].tolist() == [0, 0, 40]
    (pictures / "c.csv").write_text("path\n" + "x" * 200_000 + "\n")
    with pytest.raises(DataError, match=r"c.csv, line 1: field larger"):
        open_source(pictures / "c.csv", "vision", VisionInputs())


def test_a_damaged_parquet_is_named(pictures, tmp_path):
    path = table(pictures / "a.parquet", [{"path": f"{i} {'x' * 50}.png"} for i in range(5000)])
    data = bytearray(path.read_bytes())
    data[200:4000] = bytes(3800)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.parquet is (damaged|not a Parquet file)"):
        open_source(path, "vision", VisionInputs())
    texts = table(tmp_path / "t.parquet", [{"text": f"{i} {'x' * 50}"} for i in range(5000)])
    data = bytearray(texts.read_bytes())
    data[200:4000] = bytes(3800)
    texts.write_bytes(data)
    with pytest.raises(DataError, match=r"none of the 1 files .*t.parquet is damaged"):
        open_source(texts, "text", TextInputs(block_size=16), vocab_size=300)


def test_entries_named_twice_count_once(pictures, capsys):
    manifest = jsonl(
        pictures / "a.jsonl", *[{"path": p} for p in ("class 0/0.png", "./class 0//0.png", "class 1/1.JPG")]
    )
    assert len(open_source(manifest, "vision", VisionInputs())) == 2
    assert "left out 1 entries" in capsys.readouterr().err


def test_roots_are_shown_and_must_be_below_or_allowed(pictures, tmp_path, capsys):
    inner, outer = tmp_path / "here" / "inner.jsonl", tmp_path / "here" / "outer.jsonl"
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(pictures)
    entry = {"path": "class 0/0.png"}
    head = {"d2v_fast": 1, "modality": "vision"}
    for root in (str(pictures), "../pictures", "link"):
        jsonl(outer, head | {"root": root}, entry)
        with pytest.raises(
            DataError, match=r"names the root .*not below its own folder.*--loader.allow-roots"
        ) as caught:
            open_source(outer, "vision", VisionInputs())
        assert root in str(caught.value)
        allowed = open_source(outer, "vision", VisionInputs(), allow_roots=[str(pictures)])
        assert allowed.read(0).shape == (3, 40, 70)
        assert "names files below" in capsys.readouterr().err
    jsonl(inner, head | {"root": "gone"}, entry)
    with pytest.raises(DataError, match="which is no folder"):
        open_source(inner, "vision", VisionInputs())
    manifest = jsonl(tmp_path / "a.jsonl", head | {"root": "pictures"}, entry)
    assert open_source(manifest, "vision", VisionInputs()).read(0).shape == (3, 40, 70)
    with pytest.raises(DataError, match="describes vision, the model is made for speech"):
        open_source(manifest, "speech", SPEECH)


def test_no_entry_escapes_its_root(pictures, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes((pictures / "class 0" / "0.png").read_bytes())
    (pictures / "out.png").symlink_to(secret)
    (pictures / "up").symlink_to(tmp_path)
    (pictures / "in.png").symlink_to("class 0/0.png")
    os.mkfifo(pictures / "pipe.png")
    wrong = {
        "../secret.png": "leads out of",
        "class 0/../../secret.png": "leads out of",
        str(secret): "leads out of",
        "out.png": "leads out of",
        "up/secret.png": "leads out of",
        "pipe.png": "is not a plain file",
    }
    right = ["class 0/0.png", "class 1/../class 0/3.JPG", str(pictures / "class 2" / "2.png"), "in.png"]
    manifest = jsonl(pictures / "a.jsonl", *[{"path": path} for path in [*wrong, *right]])
    source = open_source(manifest, "vision", VisionInputs())
    assert len(source) == len(wrong) + len(right)
    for i, reason in enumerate(wrong.values()):
        for read in (source.read, source.encoded):
            with pytest.raises(SampleError, match=reason):
                read(i)
    assert [source.name(i) for i in range(6, 10)] == ["class 0/0.png", "class 0/3.JPG", "class 2/2.png", "in.png"]
    assert all(source.read(i).shape[0] == 3 for i in range(6, 10))
    sized = jsonl(pictures / "b.jsonl", {"path": "out.png", "height": 40, "width": 70}, {"path": "in.png"})
    with pytest.raises(SampleError, match="leads out of"):  # also where no header was read
        open_source(sized, "vision", VisionInputs()).read(0)
    trusted = open_source(manifest, "vision", VisionInputs(), allow_roots=[str(tmp_path)])
    assert trusted.read(list(wrong).index("out.png")).shape == (3, 40, 70)


def test_names_that_are_not_utf8_survive(pictures):
    name = os.fsdecode(b"caf\xe9.png")
    (pictures / name).write_bytes((pictures / "class 0" / "0.png").read_bytes())
    jsonl(pictures / "a.jsonl", {"path": name})
    (pictures / "b.tsv").write_bytes(b".\ncaf\xe9.png\n")
    for manifest in ("a.jsonl", "b.tsv"):
        source = open_source(pictures / manifest, "vision", VisionInputs())
        assert source.name(0) == name
        assert source.read(0).shape == (3, 40, 70)


def test_a_run_keeps_to_its_manifest(pictures, tmp_path):
    run = tmp_path / "run"
    manifest = jsonl(pictures / "a.jsonl", {"path": "class 0/0.png"}, {"path": "class 0/3.JPG"})
    source = open_source(manifest, "vision", VisionInputs(), run=run)
    again = open_source(manifest, "vision", VisionInputs(), run=run)
    assert (run / FILE).exists()
    assert again.fingerprint == source.fingerprint
    jsonl(manifest, {"path": "class 0/3.JPG"}, {"path": "class 0/0.png"})
    with pytest.raises(DataError, match=r"is not what this run began with: 1 new \(a.jsonl"):
        open_source(manifest, "vision", VisionInputs(), run=run)


def test_a_manifest_of_texts_is_not_a_table_of_documents(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("the cat sat on the mat. " * 30)
    inputs = TextInputs(block_size=16)
    jsonl(tmp_path / "m.jsonl", {"path": "0.txt"}, {"path": "2.txt"})
    named = open_source(tmp_path / "m.jsonl", "text", inputs, vocab_size=300)
    jsonl(tmp_path / "d.jsonl", *[{"text": "the cat sat on the mat. " * 30, "path": "x"}] * 2)
    documents = open_source(tmp_path / "d.jsonl", "text", inputs, vocab_size=300)
    assert np.array_equal(named.tokens, documents.tokens)
    for name in ("d.parquet", "m.parquet"):
        rows = (
            [{"text": "the cat sat on the mat. " * 30}] * 2
            if name[0] == "d"
            else [{"path": "0.txt"}, {"path": "2.txt"}]
        )
        read = open_source(table(tmp_path / name, rows), "text", inputs, vocab_size=300)
        assert np.array_equal(read.tokens, named.tokens)


def test_a_file_that_is_no_manifest(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"a.json is a file; vision is read from a folder, a manifest \(.jsonl, .tsv"):
        open_source(tmp_path / "a.json", "vision", VisionInputs())
    (tmp_path / "a.m4a").write_text("")
    with pytest.raises(DataError, match=r"is a file; vision|no JPEG"):
        open_source(tmp_path / "a.m4a", "vision", VisionInputs())
    signals = table(tmp_path / "rows.parquet", [{"signal": [1.0, 2.0], "label": "a"}])
    with pytest.raises(DataError, match=r"has no column path or .*, only signal, label: .*as arrays, from Python"):
        open_source(signals, "series", SeriesInputs())


def test_archives_that_a_manifest_names_stay_in_its_root_too(tar_zoo, tmp_path):
    zoo = tar_zoo()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link.tar").symlink_to(zoo.root / "shard-000.tar")
    member = {"member": "a.jpg", "offset": 512, "bytes": 900, "height": 40, "width": 50}
    names = ["../tar zoo/shard-000.tar", str(zoo.root / "shard-000.tar"), "link.tar"]
    manifest = jsonl(tmp_path / "here" / "a.jsonl", *[{"path": name} | member for name in names])
    source = open_source(manifest, "vision", VisionInputs())
    for i in range(3):
        for read in (source.read, source.encoded):
            with pytest.raises(SampleError, match="leads out of"):
                read(i)
    allowed = open_source(manifest, "vision", VisionInputs(), allow_roots=[str(zoo.root)])
    assert allowed.encoded(2)[:2] == b"\xff\xd8"


def test_lines_that_make_no_sense_stop_a_run_that_lets_few_pass(pictures, picture_masks):
    lines = [{"path": "class 0/0.png"}, *[{"file": str(i)} for i in range(5)]]
    source = open_source(jsonl(pictures / "a.jsonl", *lines), "vision", VisionInputs())
    with pytest.raises(TooManySkipped, match=r"5 of 6 samples cannot be read.*a.jsonl, line 2: has no path"):
        make_loader(source, inputs=VisionInputs(), config=LoaderConfig(), seed=0, masks=picture_masks, image_size=16)


@pytest.mark.parametrize("root", [5, True, ["p"], {"a": 1}, "a\0b", "\ud800", "~no such user/p"])
def test_roots_that_are_no_paths(pictures, root):
    manifest = jsonl(pictures / "a.jsonl", {"d2v_fast": 1, "root": root}, {"path": "class 0/0.png"})
    with pytest.raises(DataError, match=r"a.jsonl, line 1"):
        open_source(manifest, "vision", VisionInputs())


@pytest.mark.parametrize("by", ["folder", "manifest"])
def test_a_pipe_is_no_file_to_wait_for(tmp_path, by):
    data = np.zeros(4000, np.int16)
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", data, 16000)
    entries = jsonl(tmp_path / "m.jsonl", *({"path": f"{name}.wav"} for name in "abc"))
    if by == "manifest":  # a pipe from the beginning
        (tmp_path / "b.wav").unlink()
        os.mkfifo(tmp_path / "b.wav")
        source = open_source(entries, "speech", SPEECH)
        assert source.sizes.tolist() == [4000, 0, 4000]
    else:  # a file that becomes one
        source = open_source(tmp_path, "speech", SPEECH)
        (tmp_path / "b.wav").unlink()
        os.mkfifo(tmp_path / "b.wav")
    with pytest.raises(SampleError, match="is not a plain file"):
        source.read(1)
