"""Labels come from wherever samples come from, in the order of the samples."""

from __future__ import annotations

import io
import json
import math
import tarfile

import numpy as np
import pytest
import torch
from torchvision.io import encode_jpeg, write_png

from d2v_fast.data import ArraySource, DataError, Loader, LoaderConfig, label_stage, open_source
from d2v_fast.data.labels import open_labelled
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.tokenizer import train
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.registry import get

INPUTS = VisionInputs()


def picture(i):
    return torch.randint(0, 255, (3, 20 + i, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))


@pytest.fixture
def folder(tmp_path):
    """Six pictures in the folders b and a, and one beside them."""
    for i in range(6):
        path = tmp_path / "data" / "ba"[i % 2] / "deeper" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture(i), str(path))
    return tmp_path / "data"


def names(found):
    return [found.source.name(i) for i in range(len(found))]


def by_name(found):
    return {
        found.source.name(i): None if label < 0 else found.classes[label]
        for i, label in enumerate(found.labels.tolist())
    }


def test_folders_are_classes(folder):
    found = open_labelled(folder, "vision", INPUTS, kind="class")
    assert found.classes == ("a", "b")
    assert by_name(found) == {f"{'ba'[i % 2]}/deeper/{i}.png": "ba"[i % 2] for i in range(6)}
    assert found.counts() == {"a": 3, "b": 3}
    plain = open_source(folder, "vision", INPUTS)
    assert names(found) == [plain.name(i) for i in range(6)]
    assert found.source.fingerprint == plain.fingerprint


def test_a_sample_outside_of_the_classes_is_named_and_counted(folder, caplog):
    write_png(picture(9), str(folder / "alone.png"))
    found = open_labelled(folder, "vision", INPUTS, kind="class")
    alone = names(found).index("alone.png")
    assert found.labels[alone] == -1
    assert found.problems == {alone: "has no label"}
    assert alone not in found.usable
    assert "skipped alone.png: has no label" in caplog.text
    assert "1 of 7 samples have no label that can be used" in caplog.text


def test_one_folder_is_no_class(folder):
    with pytest.raises(DataError, match=r"all samples have the class 'data'.*folder for each class"):
        open_labelled(folder.parent, "vision", INPUTS, kind="class")


def test_training_and_test_agree_on_classes(folder):
    found = open_labelled(folder, "vision", INPUTS, kind="class", classes=("c", "b"))
    assert set(found.labels.tolist()) == {1, -1}
    assert set(found.problems.values()) == {"has the class 'a', which training does not know"}
    with pytest.raises(DataError, match="classes names a class twice: 'x'"):
        open_labelled(folder, "vision", INPUTS, kind="class", classes=("x", "x"))


def manifest(folder, extension, rows):
    path = folder / f"list{extension}"
    if extension == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif extension == ".csv":
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(keys), *(",".join(str(row.get(key, "")) for key in keys) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
        parquet.write_table(table, path)
    return path


PATHS = [f"{'ba'[i % 2]}/deeper/{i}.png" for i in (3, 0, 5, 1)]


@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".parquet"])
def test_columns_of_a_manifest(folder, extension):
    rows = [
        {"path": path, "label": i % 3 + 9, "target": i / 2, "speaker": "ab"[i // 2]} for i, path in enumerate(PATHS)
    ]
    path = manifest(folder, extension, rows)
    found = open_labelled(path, "vision", INPUTS, kind="class", group="speaker")
    assert names(found) == PATHS
    assert found.classes == ("9", "10", "11")  # numbers by their value
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.groups.tolist() == ["a", "a", "b", "b"]
    assert open_labelled(path, "vision", INPUTS, kind="value").labels.tolist() == [0, 0.5, 1, 1.5]
    assert open_labelled(path, "vision", INPUTS, kind="value", label="label").labels.tolist() == [9, 10, 11, 9]
    with pytest.raises(DataError, match="no sample has a 'kind'; there are label, path, speaker, target"):
        open_labelled(path, "vision", INPUTS, kind="class", label="kind")
    with pytest.raises(DataError, match="group: no sample has a 'patient'"):
        open_labelled(path, "vision", INPUTS, kind="class", group="patient")


def test_a_row_that_names_a_file_again_does_not_change_its_label(folder):
    rows = [{"path": PATHS[0], "label": "x"}, {"path": PATHS[1], "label": "y"}, {"path": PATHS[0], "label": "y"}]
    found = open_labelled(manifest(folder, ".jsonl", rows), "vision", INPUTS, kind="class")
    assert by_name(found) == {PATHS[0]: "x", PATHS[1]: "y"}


def test_values_that_are_none_are_named(folder, caplog):
    targets = ["1.5", "nan", "many", None]
    rows = [{"path": path, "target": target} for path, target in zip(PATHS, targets, strict=True)]
    found = open_labelled(manifest(folder, ".jsonl", rows), "vision", INPUTS, kind="value")
    assert found.labels[0] == 1.5
    assert [math.isnan(value) for value in found.labels.tolist()] == [False, True, True, True]
    assert found.problems == {
        1: "has the target nan",
        2: "has the target 'many', which is no number",
        3: "has no label",
    }
    assert "3 of 4 samples" in caplog.text
    rows = [{"path": path, "target": math.nan} for path in PATHS]
    with pytest.raises(DataError, match=r"none of the 4 samples has a label: .*3\.png has the target nan"):
        open_labelled(manifest(folder, ".jsonl", rows), "vision", INPUTS, kind="value")


@pytest.mark.parametrize("given", [[["x", "y"], ["y"], [], ["z"]], ["x;y", "y", "z;", None]])
def test_several_classes(folder, given, caplog):
    rows = [{"path": path, "labels": value} for path, value in zip(PATHS, given, strict=True)]
    path = manifest(folder, ".jsonl", rows)
    found = open_labelled(path, "vision", INPUTS, kind="multi")
    assert found.classes == ("x", "y", "z")
    assert found.labels[:2].tolist() == [[1, 1, 0], [0, 1, 0]]
    assert found.counts()["y"] == 2
    assert found.problems == ({} if given[3] else {3: "has no label"})
    known = open_labelled(path, "vision", INPUTS, kind="multi", classes=("y",))
    assert known.labels[:2].tolist() == [[1], [1]]
    assert "left out 2 labels of 2 classes that training does not know" in caplog.text


def test_transcripts(clips, caplog):
    texts = ["A CAT", "", None, "two dogs"]
    rows = [
        {"audio_filepath": name, "text": text}
        for name, text in zip(("00.wav", "01.flac", "02.ogg", "03.wav"), texts, strict=True)
    ]
    inputs = SpeechInputs(min_seconds=0.1, max_seconds=1.0)
    found = open_labelled(manifest(clips, ".jsonl", rows), "speech", inputs, kind="transcript", group="file")
    assert found.texts == ["A CAT", "", "", "two dogs"]
    assert found.problems == {1: "has an empty transcript", 2: "has no label"}
    assert found.groups.tolist() == ["00.wav", "01.flac", "02.ogg", "03.wav"]
    assert "skipped 01.flac: has an empty transcript" in caplog.text


def test_parts_of_one_file_are_one_group(clips):
    rows = [{"path": "11.ogg", "offset": start, "duration": 0.3, "text": "x"} for start in (0.0, 0.4)] + [
        {"path": "08.ogg", "text": "y"}
    ]
    inputs = SpeechInputs(min_seconds=0.1, max_seconds=1.0)
    found = open_labelled(manifest(clips, ".jsonl", rows), "speech", inputs, kind="transcript", group="file")
    assert found.groups.tolist() == ["11.ogg", "11.ogg", "08.ogg"]


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_members_beside_samples(tmp_path, caplog):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in range(3):
                add(tar, f"{i}.jpg", encode_jpeg(picture(i)).numpy().tobytes())
                if (shard, i) != (1, 2):
                    add(tar, f"{i}.cls", str(i + shard).encode())
                    add(tar, f"{i}.json", json.dumps({"target": i, "patient": f"p{i}"}).encode())
    found = open_labelled(tmp_path, "vision", INPUTS, kind="class", group="patient")
    assert names(found) == [f"{shard}.tar/{i}.jpg" for shard in range(2) for i in range(3)]
    assert found.labels.tolist() == [0, 1, 2, 1, 2, -1]
    assert found.groups.tolist()[:5] == ["p0", "p1", "p2", "p0", "p1"]
    assert "1 samples have no patient (the first is 1.tar/2.jpg)" in caplog.text
    assert found.problems == {5: "has no label"}
    assert open_labelled(tmp_path, "vision", INPUTS, kind="value").labels[:5].tolist() == [0, 1, 2, 0, 1]


def test_files_beside_samples(folder, caplog):
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"text {i}\n")
    (folder / "a/deeper/1.json").write_text("[")
    found = open_labelled(folder, "vision", INPUTS, kind="transcript")
    assert found.texts == [f"text {i}" for i in range(6)]
    assert "skipped a/deeper/1.json: cannot be understood" in caplog.text


def test_lists_of_transcripts_as_librispeech_has_them(clips, caplog):
    (clips / "1-2.trans.txt").write_text("00 A CAT\n01 \n04 TWO DOGS\n99 NOBODY\n")
    (clips / "bad.trans.txt").write_bytes(b"\xff\xfe\x00")
    found = open_labelled(clips, "speech", SpeechInputs(min_seconds=0.1), kind="transcript")
    said = {found.source.name(i): text for i, text in enumerate(found.texts) if text}
    assert said == {"00.wav": "A CAT", "04.flac": "TWO DOGS"}
    assert found.problems[1] == "has an empty transcript"
    assert found.problems[2] == "has no label"
    assert "bad.trans.txt: cannot be read" in caplog.text


def test_columns_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": encode_jpeg(picture(i)).numpy().tobytes(), "path": None} for i in range(4)],
        "label": [1, 0, -1, 1],
        "patient": ["x", "y", "y", "x"],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["dog", "cat"]), patient=datasets.Value("string")
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    found = open_labelled(table, "vision", INPUTS, kind="class", group="patient")
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 1, -1, 0]
    assert found.groups.tolist() == ["x", "y", "y", "x"]
    table.save_to_disk(str(tmp_path / "saved"))
    saved = open_labelled(tmp_path / "saved", "vision", INPUTS, kind="class")
    assert saved.labels.tolist() == [0, 1, -1, 0]


def test_arrays_with_labels_given():
    arrays = [picture(i) for i in range(4)]
    found = open_labelled(arrays, "vision", INPUTS, kind="class", labels=[2, 0, 2, 0], groups=np.array([1, 1, 2, 2]))
    assert found.classes == ("0", "2")
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.groups.tolist() == ["1", "1", "2", "2"]
    with pytest.raises(DataError, match="labels is not given"):
        open_labelled(arrays, "vision", INPUTS, kind="class")
    with pytest.raises(DataError, match="labels has 3 entries for 4 samples"):
        open_labelled(arrays, "vision", INPUTS, kind="class", labels=[2, 0, 2])


def test_values_that_are_taken_for_classes_are_told(caplog):
    arrays = [picture(i) for i in range(20)]
    for labels, told in ([i % 3 for i in range(20)], 0), ([i / 10 for i in range(20)], 1):
        open_labelled(arrays, "vision", INPUTS, kind="class", labels=labels)
        assert caplog.text.count("20 samples have 20 classes: if the labels are values, the task is regress") == told


@pytest.fixture
def text_inputs(tmp_path):
    tokenizer = train(["some words to be trained on, again and again"], 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TextInputs(block_size=16, tokenizer=str(tmp_path / "tokenizer.json"))


def decoded(found, i):
    return found.source.tokenizer.decode(found.source.read(i).tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".parquet", ".tsv"])
def test_each_text_is_a_sample(tmp_path, text_inputs, extension):
    rows = [
        {"text": "words", "text_pair": "more words", "label": "yes"},
        {"text": "again", "text_pair": "and", "label": "no"},
    ]
    if extension == ".tsv":
        path = tmp_path / "list.tsv"
        path.write_text("text\ttext_pair\tlabel\nwords\tmore words\tyes\nagain\tand\tno\n")
    else:
        path = manifest(tmp_path, extension, rows)
    found = open_labelled(path, "text", text_inputs, kind="class")
    assert found.classes == ("no", "yes")
    assert found.labels.tolist() == [1, 0]
    assert decoded(found, 0) == "<s>words</s></s>more words</s>"
    single = open_labelled(path, "text", text_inputs, kind="class", text_pair="none")
    assert decoded(single, 1) == "<s>again</s>"
    assert single.source.sizes.tolist() == [len(single.source.read(i)) for i in range(2)]
    assert single.source.fingerprint != found.source.fingerprint


def test_folders_of_texts_lists_and_tables(tmp_path, text_inputs):
    for name, text in {"neg/1": "bad words", "neg/2": "so bad", "pos/1": "good words"}.items():
        path = tmp_path / "data" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = open_labelled(tmp_path / "data", "text", text_inputs, kind="class")
    assert found.labels.tolist() == [0, 0, 1]
    assert decoded(found, 2) == "<s>good words</s>"
    given = open_labelled(["a", ("b", "c")][:1] * 2, "text", text_inputs, kind="value", labels=[1, 2.5])
    assert given.labels.tolist() == [1, 2.5]
    pairs = open_labelled([("a", "b"), ("c", "d")], "text", text_inputs, kind="value", labels=[1, 2])
    assert decoded(pairs, 1) == "<s>c</s></s>d</s>"
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"sentence": ["a", "b", None], "label": [1, 0, 1]})
    found = open_labelled(table, "text", text_inputs, kind="class", text="sentence")
    assert found.problems == {2: "has no text (column 'sentence')"}
    with pytest.raises(DataError, match="no row has a text in a column 'text'; there are label, sentence"):
        open_labelled(table, "text", text_inputs, kind="class")


def test_long_texts_are_cut_the_longer_one_first(text_inputs, caplog):
    long = "words " * 20
    found = open_labelled(["again", long], "text", text_inputs, kind="value", labels=[1, 2])
    assert found.source.sizes.tolist()[1] == 16
    assert found.source.read(1)[-1] == found.source.tokenizer.token_to_id("</s>")
    assert "1 of 2 texts are longer than 16 tokens" in caplog.text
    pair = open_labelled([("and", long), (long, long)], "text", text_inputs, kind="value", labels=[1, 2])
    assert decoded(pair, 0).startswith("<s>and</s></s>words")
    assert pair.source.sizes.tolist() == [16, 16]


def test_labelled_texts_need_the_tokenizer_of_the_run():
    with pytest.raises(DataError, match=r"inputs\.tokenizer is not given, and labelled texts train none"):
        open_labelled(["a", "b"], "text", TextInputs(), kind="value", labels=[1, 2])


def test_some_of_the_samples(folder):
    whole = open_labelled(folder, "vision", INPUTS, kind="class", group="folder")
    some = whole.take([4, 1])
    assert names(some) == [names(whole)[4], names(whole)[1]]
    assert some.labels.tolist() == whole.labels[[4, 1]].tolist()
    assert some.groups.tolist() == ["b/deeper", "a/deeper"]
    assert torch.equal(torch.as_tensor(some.source.read(0)), torch.as_tensor(whole.source.read(4)))
    assert some.source.encoded(1) == whole.source.encoded(1)
    assert some.source.fingerprint != whole.take([1, 4]).source.fingerprint


def test_labels_arrive_with_their_samples(folder):
    whole = open_labelled(folder, "vision", INPUTS, kind="class")
    some = whole.take([5, 0, 3])
    sampling = get("vision").sampling(INPUTS, VisionEmbedding(image_size=16, patch_size=8), LoaderConfig())
    config = LoaderConfig(batch_size=3, threads=1)
    with Loader(some.source, sampling, config=config, seed=0, stages=[label_stage(some.labels)]) as loader:
        (batch,) = loader.step(0)
    assert batch.labels.tolist() == [some.labels[i] for i in batch.sample_ids.tolist()]


def test_a_source_without_labels_of_its_own():
    source = ArraySource("speech", [np.zeros(100, np.float32), np.ones(50, np.float32)])
    found = open_labelled(source, "speech", SpeechInputs(), kind="class", labels=["x", "y"])
    assert found.source is source
