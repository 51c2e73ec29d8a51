from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from loading import open_source

from d2v_fast import registry
from d2v_fast.data import DataError, SampleError
from d2v_fast.data.formats import tables
from d2v_fast.data.paths import Fence
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs

datasets = pytest.importorskip("datasets", reason="Hugging Face datasets (the extra `hf`) is not installed")

TEXTS = ["the cat sat on the mat. " * 30, "", None, "dogs bark. " * 20]


@pytest.fixture
def picture_table(pictures):
    """Four pictures: three with their bytes, one that is broken; and a column beside them."""
    files = sorted(pictures.rglob("*.*"))[:3]
    rows = [{"bytes": file.read_bytes(), "path": None} for file in files] + [{"bytes": b"broken", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return files, datasets.Dataset.from_dict({"image": rows, "label": [0, 1, 2, 3]}, features=features)


def test_pictures_of_a_table_are_those_of_the_files(picture_table, pictures, tmp_path):
    files, table = picture_table
    folder = open_source(pictures, "vision", VisionInputs())
    where = {folder.name(i): i for i in range(len(folder))}
    table.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "splits"))
    for data in (table, tmp_path / "saved", tmp_path / "splits"):
        source = open_source(data, "vision", VisionInputs())
        assert len(source) == 4
        for i, file in enumerate(files):
            expected = where[file.relative_to(pictures).as_posix()]
            assert torch.equal(source.read(i), folder.read(expected))
            assert source.encoded(i) == file.read_bytes()
        with pytest.raises(SampleError, match="is neither JPEG nor PNG"):
            source.read(3)
        assert source.name(2) == "row 2"


def test_a_run_keeps_to_its_table(picture_table, tmp_path):
    _, table = picture_table
    table.save_to_disk(str(tmp_path / "saved"))
    first = open_source(tmp_path / "saved", "vision", VisionInputs(), run=tmp_path / "run")
    again = open_source(tmp_path / "saved", "vision", VisionInputs(), run=tmp_path / "run")
    assert again.fingerprint == first.fingerprint
    with pytest.raises(DataError, match="is not what this run began with"):
        open_source(table.select([0, 1]), "vision", VisionInputs(), run=tmp_path / "run")


def test_clips_of_a_table_and_the_files_it_names(clips, tmp_path):
    files = sorted(clips.iterdir())[:4]
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files[:3]]
    rows.append({"bytes": None, "path": str(files[3])})
    table = datasets.Dataset.from_dict({"sound": rows}).cast_column("sound", datasets.Audio(decode=False))
    folder = open_source(clips, "speech", SpeechInputs(min_seconds=0.1))
    source = open_source(table, "speech", SpeechInputs(min_seconds=0.1))
    for i in range(4):
        assert np.array_equal(source.read(i), folder.read(i))
    store = tables.rows(table, registry.get("speech").kind(), fence=Fence(tmp_path / "elsewhere")).store(None)
    with pytest.raises(SampleError, match="leads out of"):
        store.read(3)
    allowed = Fence(tmp_path / "elsewhere", [clips])
    store = tables.rows(table, registry.get("speech").kind(), fence=allowed).store(None)
    assert store.read(3).tobytes() == files[3].read_bytes()


def test_texts_of_a_table_are_those_of_a_file(tmp_path):
    inputs = TextInputs(block_size=16)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    expected = open_source(tmp_path / "a.jsonl", "text", inputs, vocab_size=300)
    for column in ("text", "body"):
        table = datasets.Dataset.from_dict({column: TEXTS, "id": [1, 2, 3, 4]})
        assert np.array_equal(open_source(table, "text", inputs, vocab_size=300).tokens, expected.tokens)
    run = tmp_path / "run"
    open_source(table, "text", inputs, vocab_size=300, run=run)
    again = datasets.Dataset.from_dict({column: TEXTS, "id": [1, 2, 3, 4]})
    assert np.array_equal(open_source(again, "text", inputs, vocab_size=300, run=run).tokens, expected.tokens)


def test_tables_that_do_not_fit(picture_table, tmp_path, monkeypatch):
    _, table = picture_table
    with pytest.raises(DataError, match=r"has no Audio column; there are image \(.*\), label \(int64\)"):
        open_source(table, "speech", SpeechInputs())
    two = datasets.Features({**table.features, "other": datasets.Image()})
    with pytest.raises(DataError, match="more than one Image column"):
        open_source(
            datasets.Dataset.from_dict({"image": [], "label": [], "other": []}, features=two), "vision", VisionInputs()
        )
    with pytest.raises(DataError, match="IterableDataset, which cannot be read at random: load it without streaming"):
        open_source(table.to_iterable_dataset(), "vision", VisionInputs())
    with pytest.raises(DataError, match="has the splits a, b; pass one of them"):
        open_source(datasets.DatasetDict({"a": table, "b": table}), "vision", VisionInputs())
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read by Hugging Face datasets"):
        open_source(tmp_path / "saved", "vision", VisionInputs())
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'd2v_fast\[hf\]'"):
        tables.saved(tmp_path / "saved", registry.get("vision").kind(), ())


def test_a_module_of_ones_own_called_datasets_is_no_table(monkeypatch, picture_table):
    own = types.ModuleType("datasets")

    class Dataset:
        modality, fingerprint = "vision", "mine"
        sizes = np.full((3, 2), 8)

        def __len__(self):
            return 3

        def name(self, index):
            return str(index)

        def read(self, index):
            return np.zeros((8, 8), np.uint8)

    Dataset.__module__ = "datasets"
    own.Dataset = Dataset
    assert tables.is_table(picture_table[1])
    monkeypatch.setitem(sys.modules, "datasets", own)
    source = Dataset()
    assert not tables.is_table(source)
    assert open_source(source, "vision", VisionInputs()) is source


@pytest.mark.parametrize("row", [[1], 7, "x", {"bytes": 3}, {"path": 3}, MemoryError()])
def test_any_row_that_cannot_be_read_is_that_samples_failure(picture_table, row):
    class Odd:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            if isinstance(row, Exception):
                raise row
            return {"image": row}

    with pytest.raises(SampleError):
        tables.TableStore(Odd(), "image", "the table", None).read(0)
