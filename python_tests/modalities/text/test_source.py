from __future__ import annotations

import json

import numpy as np
import pytest
from loading import open_source

from d2v_fast.data import DataError
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.tokenizer import train

INPUTS = TextInputs(block_size=32)
DOCUMENTS = [f"Document {i} tells of {'cats and ' * (i + 3)}dogs.\n\nThe end\r\n" for i in range(12)]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    root.mkdir()
    for i, text in enumerate(DOCUMENTS):
        (root / f"{i:02}.txt").write_text(text, newline="")
    return root


def restored(source):
    """The documents, from the blocks alone."""
    blocks = np.stack([source.read(i) for i in range(len(source))])
    assert blocks.dtype == np.int64
    assert (blocks[:, 0] == 0).all()
    stream = blocks[:, 1:].reshape(-1)
    parts = np.split(stream, np.flatnonzero(stream == 2))
    return [source.tokenizer.decode(part[part != 2], skip_special_tokens=False) for part in parts]


@pytest.mark.parametrize("in_memory", [False, True])
def test_blocks_hold_all_documents_in_order(folder, tmp_path, in_memory):
    source = open_source(folder, "text", INPUTS, vocab_size=300, run=None if in_memory else tmp_path / "run")
    assert source.sizes.tolist() == [32] * len(source)
    *whole, cut = restored(source)
    assert whole == DOCUMENTS[: len(whole)]
    assert "".join(DOCUMENTS)[len("".join(whole)) :].startswith(cut)
    left = len(source.tokens) - 31 * len(source)
    assert 0 <= left < 31
    assert int((source.tokens == 2).sum()) == len(DOCUMENTS)
    assert (source.mask_id, source.pad_id, source.vocab_size, source.special_ids) == (299, 1, 300, (0, 1, 2, 3, 299))


def test_jsonl_and_txt_give_the_same_tokens(folder, tmp_path):
    lines = "\n".join(json.dumps({"text": text}) for text in DOCUMENTS)
    (tmp_path / "all.jsonl").write_text(lines)
    one = open_source(tmp_path / "all.jsonl", "text", INPUTS, vocab_size=300)
    many = open_source(folder, "text", INPUTS, vocab_size=300)
    assert np.array_equal(one.tokens, many.tokens)
    (tmp_path / "all.txt").write_text("".join(DOCUMENTS), newline="")
    single = open_source(tmp_path / "all.txt", "text", INPUTS, vocab_size=300)
    assert int((single.tokens == 2).sum()) == 1


def test_the_run_keeps_tokenizer_and_tokens(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    first = open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    assert sorted(path.name for path in run.iterdir()) == ["index.jsonl", "tokenizer.json", "tokens.bin"]
    assert (run / "tokens.bin").stat().st_size == 2 * len(first.tokens)
    monkeypatch.setattr("d2v_fast.modalities.text.documents.read_pieces", None)
    again = open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.tokens, first.tokens)
    assert again.tokenizer.to_str() == first.tokenizer.to_str()


def test_large_vocabularies_take_four_bytes(folder, monkeypatch):
    monkeypatch.setattr("d2v_fast.modalities.text.tokenizer.size", lambda tokenizer: 70_000)
    wide = open_source(folder, "text", INPUTS, vocab_size=70_000)
    monkeypatch.undo()
    assert wide.tokens.dtype == np.uint32
    narrow = open_source(folder, "text", INPUTS, vocab_size=wide.tokenizer.get_vocab_size())
    assert narrow.tokens.dtype == np.uint16
    assert np.array_equal(wide.tokens, narrow.tokens)


def test_a_tokenizer_of_ones_own_goes_into_the_run(folder, tmp_path):
    train(["other words entirely"] * 5, 280).save(str(tmp_path / "own.json"))
    own = TextInputs(block_size=32, tokenizer=str(tmp_path / "own.json"))
    source = open_source(folder, "text", own, vocab_size=300, run=tmp_path / "run")
    assert source.vocab_size <= 280
    (tmp_path / "own.json").unlink()
    again = open_source(folder, "text", own, vocab_size=300, run=tmp_path / "run")
    assert restored(again)[0] == DOCUMENTS[0]
    with pytest.raises(DataError, match="there is no file"):
        open_source(folder, "text", own, vocab_size=300)


def test_broken_files_are_named_and_left_out(folder, tmp_path, capsys):
    (folder / "05.txt").write_bytes(b"")
    (folder / "06.txt").write_bytes("schön".encode("utf-16"))
    (folder / "07.jsonl").write_text('{"text": "good line"}\n{"no": 1}\n')
    source = open_source(folder, "text", INPUTS, vocab_size=300, run=tmp_path / "run")
    error = capsys.readouterr().err
    assert f"skipped {folder / '05.txt'}: is empty" in error
    assert f"skipped {folder / '06.txt'}: is not UTF-8" in error
    assert f'skipped {folder / "07.jsonl"}: 1 lines without a string "text" (the first is line 2)' in error
    found = restored(source)
    assert found[4:7] == [DOCUMENTS[4], "good line", DOCUMENTS[7]]


def test_a_changed_folder_is_an_error(folder, tmp_path):
    open_source(folder, "text", INPUTS, vocab_size=300, run=tmp_path / "run")
    (folder / "03.txt").write_text("other")
    with pytest.raises(DataError, match=r"1 of another size \(03.txt"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=tmp_path / "run")


def test_damaged_or_missing_tokens_are_named(folder, tmp_path):
    run = tmp_path / "run"
    open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    (run / "tokens.bin").write_bytes((run / "tokens.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"tokens.bin is damaged: delete .*index.jsonl"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    (run / "tokens.bin").unlink()
    with pytest.raises(DataError, match=r"tokens.bin is gone: delete .*index.jsonl"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    (run / "index.jsonl").unlink()
    assert restored(open_source(folder, "text", INPUTS, vocab_size=300, run=run))[0] == DOCUMENTS[0]


def test_too_little_text(tmp_path):
    (tmp_path / "a.txt").write_text("only this")
    with pytest.raises(DataError, match=r"has \d+ tokens, less than one block of 512: add text or lower"):
        open_source(tmp_path, "text", TextInputs(), vocab_size=300)


def test_vocabularies_that_do_not_fit(folder, tmp_path):
    with pytest.raises(DataError, match="no vocabulary size to train one"):
        open_source(folder, "text", INPUTS)
    train(DOCUMENTS, 300).save(str(tmp_path / "own.json"))
    with pytest.raises(DataError, match="the tokenizer has 300 tokens, more than the model's 299"):
        open_source(folder, "text", TextInputs(tokenizer=str(tmp_path / "own.json")), vocab_size=299)


@pytest.mark.parametrize("name", ["a.csv", "a.pdf", "a.json"])
def test_other_formats_are_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"Write them to \.txt files"):
        open_source(tmp_path, "text", INPUTS, vocab_size=300)
    with pytest.raises(DataError, match=r"Write them to \.txt files"):
        open_source(tmp_path / name, "text", INPUTS, vocab_size=300)
