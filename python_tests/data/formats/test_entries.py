"""The rows of a manifest: numbers, parts of files, columns of other people."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile
from loading import open_source
from manifests import jsonl

from d2v_fast.data import DataError, SampleError
from d2v_fast.data.build import build
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

SPEECH = SpeechInputs(min_seconds=0.1)


def test_rates_in_a_tsv(clips):
    (clips / "a.tsv").write_text(f".\n03.wav\t{soundfile.info(clips / '03.wav').frames}\t8000\n00.wav\tmany\n")
    source = open_source(clips / "a.tsv", "speech", SPEECH)
    assert source.rates.tolist() == [8000, 0]
    with pytest.raises(SampleError, match=r"a.tsv, line 3: should be a path and frames, rate"):
        source.read(1)
    assert len(source.read(0)) == source.sizes[0]


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


@pytest.mark.parametrize("extension", [".tsv", ".csv", ".jsonl"])
def test_another_encoding_is_named(pictures, extension):
    (pictures / f"a{extension}").write_text("path\nclass 0/0.png\n", encoding="utf-16")
    with pytest.raises(DataError, match=rf"a{extension} is written in UTF-16: save it as UTF-8"):
        open_source(pictures / f"a{extension}", "vision", VisionInputs())


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


def test_each_row_says_its_path_in_the_column_it_has(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(4000, np.int16), 16000)
    entries = jsonl(tmp_path / "m.jsonl", {"path": None, "audio_filepath": "a.wav"}, {"path": "b.wav"})
    assert open_source(entries, "speech", SPEECH).sizes.tolist() == [4000, 4000]
