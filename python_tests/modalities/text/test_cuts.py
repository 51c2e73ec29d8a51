"""Sequences of documents are found once; a start does not look through the tokens again."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.data import open_source
from d2v_fast.modalities.text import cuts
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs

END = 2


def corpus(count):
    tokens = np.random.default_rng(0).integers(0, 9, count).astype(np.uint16)
    tokens[-1] = END
    return tokens


def test_pieces_of_any_size_give_the_same(monkeypatch):
    tokens = corpus(5000)
    whole = cuts.cut(tokens, END, 7)
    taken = np.zeros(len(tokens), dtype=int)
    for start, size in zip(whole.starts, whole.sizes, strict=True):
        assert 2 <= size - 1 <= 7
        assert END not in tokens[start : start + size - 2]
        taken[start : start + size - 1] += 1
    assert taken.max() == 1
    assert (tokens[taken == 0] == END).all()
    monkeypatch.setattr(cuts, "_PIECE", 17)
    for found, known in zip(cuts.cut(tokens, END, 7), whole, strict=True):
        np.testing.assert_array_equal(found, known)
    assert len(cuts.cut(tokens[:0], END, 7).starts) == 0


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    lines = [" ".join(["word"] * (1 + i % 37)) for i in range(300)]
    (tmp_path / "texts" / "a.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return tmp_path / "texts"


def test_a_later_start_looks_through_no_tokens(texts, tmp_path, monkeypatch):
    inputs, embedding = TextInputs(block_size=16, packed=False), TextEmbedding(vocab_size=300, max_length=64)

    def opened(run, **others):
        return open_source(texts, "text", inputs, embedding=embedding, run=run, **others)

    def content(source):
        return [source.read(i).tolist() for i in range(len(source))]

    in_memory, first = content(opened(None)), opened(tmp_path / "run")
    assert content(first) == in_memory
    made = (tmp_path / "run" / cuts.FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(cuts, "cut", None)
        again = opened(tmp_path / "run")
        assert content(again) == in_memory
    np.testing.assert_array_equal(again.sizes, first.sizes)
    for spoiled in (b"", made[:-1], made.replace(b"starts", b"begins")):  # damaged: it is made again
        (tmp_path / "run" / cuts.FILE).write_bytes(spoiled)
        assert content(opened(tmp_path / "run")) == in_memory
        assert (tmp_path / "run" / cuts.FILE).read_bytes() == made
    inputs = TextInputs(block_size=32, packed=False)  # other sequences
    assert content(opened(tmp_path / "run")) == content(opened(None)) != in_memory


def test_a_full_disk_is_told_and_no_reason_to_stop(texts, tmp_path, monkeypatch, caplog):
    inputs, embedding = TextInputs(block_size=16, packed=False), TextEmbedding(vocab_size=300, max_length=64)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cuts, "write_columns", full)
    source = open_source(texts, "text", inputs, embedding=embedding, run=tmp_path / "run")
    assert len(source) > 300
    assert "every start makes it again" in caplog.text


def test_packed_blocks_take_no_memory_for_each(texts, tmp_path):
    embedding = TextEmbedding(vocab_size=300, max_length=64)
    source = open_source(texts, "text", TextInputs(block_size=16), embedding=embedding, run=tmp_path / "run")
    assert source.sizes.strides == (0,)
    assert not (tmp_path / "run" / cuts.FILE).exists()
