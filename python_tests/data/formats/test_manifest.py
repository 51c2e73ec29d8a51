from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import soundfile
import torch
from loading import make_loader, open_source

from d2v_fast.data import DataError, LoaderConfig, SampleError, TooManySkipped
from d2v_fast.data.build import build
from d2v_fast.data.index import FILE
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs

SPEECH = SpeechInputs(min_seconds=0.1)


def by_name(source):
    return {source.name(i): i for i in range(len(source))}


def jsonl(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def table(path, rows):
    """The rows in the format of the extension."""
    if path.suffix == ".jsonl":
        jsonl(path, *rows)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".tsv":
        path.write_text("\n".join([".", *("\t".join(map(str, row.values())) for row in rows)]) + "\n")
    else:
        arrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


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


def test_rates_in_a_tsv(clips):
    (clips / "a.tsv").write_text(f".\n03.wav\t{soundfile.info(clips / '03.wav').frames}\t8000\n00.wav\tmany\n")
    source = open_source(clips / "a.tsv", "speech", SPEECH)
    assert source.rates.tolist() == [8000, 0]
    with pytest.raises(SampleError, match=r"a.tsv, line 3: should be a path and frames, rate"):
        source.read(1)
    assert len(source.read(0)) == source.sizes[0]


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


def test_other_peoples_columns(clips):
    nemo = jsonl(clips / "nemo.json", {"audio_filepath": str(clips / "00.wav"), "duration": 0.4, "text": "hello"})
    nemo.rename(clips / "nemo.jsonl")
    assert len(open_source(clips / "nemo.jsonl", "speech", SPEECH).read(0)) == 6400
    (clips / "metadata.csv").write_text("file_name,label\n00.wav,1\n01.flac,2\n")
    assert len(open_source(clips / "metadata.csv", "speech", SPEECH)) == 2
    (clips / "bad.csv").write_text("name,label\n00.wav,1\n")
    with pytest.raises(DataError, match=r"bad.csv has no column path or audio_filepath or file_name, only name, label"):
        open_source(clips / "bad.csv", "speech", SPEECH)
    (clips / "bad.tsv").write_text("00.wav\t6400\n")
    with pytest.raises(DataError, match=r"the first line of .*bad.tsv has a tab"):
        open_source(clips / "bad.tsv", "speech", SPEECH)
    (clips / "bad.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"bad.parquet is not a Parquet file|needs pyarrow"):
        open_source(clips / "bad.parquet", "speech", SPEECH)


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


NOTHING = [None, "", float("nan"), "nan", "None", "<NA>"]


@pytest.mark.parametrize("nothing", NOTHING, ids=map(repr, NOTHING))
@pytest.mark.parametrize("extension", [".jsonl", ".csv"])
def test_numbers_as_pandas_writes_them(pictures, extension, nothing):
    """A missing value makes a column of whole numbers one of floats."""
    rows = [{"path": "class 0/0.png", "height": 40.0, "width": "70.0", "bytes": nothing}]
    rows += [{"path": "class 1/4.png", "height": nothing, "width": nothing, "bytes": 8.0}]
    manifest = pictures / f"a{extension}"
    if extension == ".csv":
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        jsonl(manifest, *rows)
    source = open_source(manifest, "vision", VisionInputs())
    assert source.sizes.tolist() == [[40, 70], [52, 62]]


@pytest.mark.parametrize("number", [8.5, "8.5", True, [8], "eight", float("inf"), -2, 1 << 50])
def test_numbers_that_cannot_be_are_that_lines_failure(pictures, number):
    good = {"path": "class 0/0.png"}
    source = open_source(
        jsonl(pictures / "a.jsonl", good, {"path": "class 1/4.png", "height": number}), "vision", VisionInputs()
    )
    assert source.sizes.tolist() == [[40, 70], [0, 0]]
    with pytest.raises(SampleError, match=r"a.jsonl, line 2: has a size that cannot be"):
        source.read(1)


def test_lines_that_make_no_sense_stop_a_run_that_lets_few_pass(pictures, picture_masks):
    lines = [{"path": "class 0/0.png"}, *[{"file": str(i)} for i in range(5)]]
    source = open_source(jsonl(pictures / "a.jsonl", *lines), "vision", VisionInputs())
    with pytest.raises(TooManySkipped, match=r"5 of 6 samples cannot be read.*a.jsonl, line 2: has no path"):
        make_loader(source, inputs=VisionInputs(), config=LoaderConfig(), seed=0, masks=picture_masks, image_size=16)


@pytest.mark.parametrize("extension", [".tsv", ".csv", ".jsonl"])
def test_another_encoding_is_named(pictures, extension):
    (pictures / f"a{extension}").write_text("path\nclass 0/0.png\n", encoding="utf-16")
    with pytest.raises(DataError, match=rf"a{extension} is written in UTF-16: save it as UTF-8"):
        open_source(pictures / f"a{extension}", "vision", VisionInputs())


@pytest.mark.parametrize("root", [5, True, ["p"], {"a": 1}, "a\0b", "\ud800", "~no such user/p"])
def test_roots_that_are_no_paths(pictures, root):
    manifest = jsonl(pictures / "a.jsonl", {"d2v_fast": 1, "root": root}, {"path": "class 0/0.png"})
    with pytest.raises(DataError, match=r"a.jsonl, line 1"):
        open_source(manifest, "vision", VisionInputs())


def test_heads_and_entries_of_wrong_types(pictures):
    manifest = jsonl(pictures / "a.jsonl", {"d2v_fast": 1, "modality": ["vision"]}, {"path": "class 0/0.png"})
    with pytest.raises(DataError, match=r"describes \['vision'\]"):
        open_source(manifest, "vision", VisionInputs())
    entries = [{"path": "x.tar", "member": 7, "offset": 0, "bytes": 3}, {"path": "class 0/0.png"}]
    source = open_source(jsonl(pictures / "a.jsonl", *entries), "vision", VisionInputs())
    with pytest.raises(SampleError, match="line 1: has a member that is no name: 7"):
        source.read(0)
    (pictures / "b.csv").write_text('path,label\n"class 0/0.png,x\nclass 1/4.png,y\n')
    with pytest.raises(DataError, match=r"b.csv, line \d: unexpected end of data"):  # not one name of two lines
        open_source(pictures / "b.csv", "vision", VisionInputs())


def test_parts_of_a_recording_are_samples_of_their_own(tmp_path, clips):
    """As NeMo names them: `offset` and `duration` in seconds."""
    wave = (np.arange(48_000) % 30_000).astype(np.int16)
    for name in ("talk.wav", "talk.flac"):
        soundfile.write(clips / name, wave, 16_000)
    spans = [(0.0, 0.5), (0.5, 0.25), (1.0, None), (2.9, 7.0), (0, 1), (5.0, 1.0)]
    lines = [{"audio_filepath": "talk.wav", "offset": start, "duration": length} for start, length in spans]
    lines += [{"audio_filepath": "talk.wav", "duration": 3.0}, {"audio_filepath": "talk.flac", "offset": 1.5}]
    inputs = SpeechInputs(min_seconds=0.01, sample_rate=16_000)
    run = tmp_path / "run"
    source = open_source(jsonl(clips / "nemo.jsonl", *lines), "speech", inputs, run=run)
    assert source.sizes.tolist() == [8000, 4000, 32_000, 1600, 16_000, 0, 48_000, 24_000]
    assert len({source.name(i) for i in range(len(source))}) == len(lines)
    assert source.name(1) == "talk.wav [0.5 s + 0.25 s]"
    parts = [(0, 8000), (8000, 12_000), (16_000, 48_000), (46_400, 48_000), (0, 16_000), None, (0, 48_000)]
    again = open_source(clips / "nemo.jsonl", "speech", inputs, run=run)
    assert again.fingerprint == source.fingerprint
    for opened in (source, again):
        for i, part in enumerate([*parts, (24_000, 48_000)]):
            if part is None:
                with pytest.raises(SampleError, match="begins at 5 s, but the file ends at 3 s"):
                    opened.read(i)
            else:
                assert np.array_equal(opened.read(i), wave[slice(*part)])
    assert source.encoded(1) == b""  # DALI would decode the whole file
    out = clips / "built.jsonl"
    built = build(clips / "nemo.jsonl", out, modality="speech", deep=True)
    assert list(built.problems) == [5]
    rebuilt = open_source(out, "speech", inputs)
    assert [rebuilt.name(i) for i in range(7)] == [source.name(i) for i in (0, 1, 2, 3, 4, 6, 7)]
    assert np.array_equal(rebuilt.read(3), wave[46_400:])
    with pytest.raises(DataError, match="TSV has no place for parts of files"):
        build(clips / "nemo.jsonl", clips / "built.tsv", modality="speech")


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "opus.ogg", "gsm.wav", "a.caf"])
def test_parts_begin_where_they_should_in_every_format(tmp_path, name):
    """Some formats are only sought to about the place, some cannot seek."""
    kind = {"a.mp3": "MPEG_LAYER_III", "opus.ogg": "OPUS", "gsm.wav": "GSM610"}.get(name)
    if name == "a.mp3" and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile reads no MP3")
    time = np.arange(16_000 * 12) / 16_000
    sweep = 0.3 * np.sin(2 * np.pi * np.cumsum(200 + 50 * np.sin(3 * time)) / 16_000)
    soundfile.write(tmp_path / name, sweep, 16_000, subtype=kind)
    source = open_source(
        jsonl(tmp_path / "m.jsonl", {"path": name}, {"path": name, "offset": 7.3, "duration": 2}), "speech", SPEECH
    )
    assert np.abs(source.read(0)[116_800:148_800].astype(float) - source.read(1)).max() == 0


def test_other_kinds_may_have_an_offset_of_their_own(pictures):
    source = open_source(
        jsonl(pictures / "a.jsonl", {"path": "class 0/0.png", "offset": "far", "duration": 3}), "vision", VisionInputs()
    )
    assert source.sizes.tolist() == [[40, 70]]


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


def test_each_row_says_its_path_in_the_column_it_has(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(4000, np.int16), 16000)
    entries = jsonl(tmp_path / "m.jsonl", {"path": None, "audio_filepath": "a.wav"}, {"path": "b.wav"})
    assert open_source(entries, "speech", SPEECH).sizes.tolist() == [4000, 4000]
