from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from index_lines import as_lines
from loading import open_source
from tokenizers import Tokenizer, models, pre_tokenizers

from d2v_fast.data import DataError, TooManySkipped
from d2v_fast.data.build import build
from d2v_fast.data.index import Index
from d2v_fast.data.skipped import Known, Skipped
from d2v_fast.modalities.text import documents
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
    assert sorted(path.name for path in run.iterdir()) == ["index.bin", "tokenizer.json", "tokens.bin"]
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
    with pytest.raises(DataError, match=r"tokens.bin is damaged: delete .*index.bin"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    (run / "tokens.bin").unlink()
    with pytest.raises(DataError, match=r"tokens.bin is gone: delete .*index.bin"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    (run / "index.bin").unlink()
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


def word_level(path, *, hole=0):
    """A tokenizer whose last words stand `hole` ids behind the others."""
    words = ["cats", "and", "dogs", "tells", "of", "end"]
    vocabulary = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    vocabulary |= {word: 5 + i + (hole if i >= 3 else 0) for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.save(str(path))
    return path


def test_ids_with_gaps(folder, tmp_path):
    path = word_level(tmp_path / "gaps.json", hole=100)
    inputs = replace(INPUTS, tokenizer=str(path))
    with pytest.raises(DataError, match=r"set vocab_size to 111 \(it has 11, with gaps between their ids\)"):
        open_source(folder, "text", inputs, vocab_size=20)
    source = open_source(folder, "text", inputs, vocab_size=111)
    assert source.vocab_size == 111
    assert int(source.tokens.max()) == 110
    assert set(range(8, 108)) <= set(source.special_ids)  # never drawn in place of a masked token
    assert not set(range(108, 111)) & set(source.special_ids)
    far = replace(INPUTS, tokenizer=str(word_level(tmp_path / "far.json", hole=70_000)))
    source = open_source(folder, "text", far, vocab_size=70_011)
    assert source.tokens.dtype == np.uint32
    assert int(source.tokens.max()) == 70_010


def test_an_older_run_draws_replacements_as_it_did(folder, tmp_path):
    inputs = replace(INPUTS, tokenizer=str(word_level(tmp_path / "gaps.json", hole=100)))
    run = tmp_path / "run"
    open_source(folder, "text", inputs, vocab_size=111, run=run)
    as_lines(Index.load(run / "index.bin", "text"), run / "index.jsonl")
    (run / "index.bin").unlink()
    lines = (run / "index.jsonl").read_text().splitlines()
    head = json.loads(lines[0])
    del head["notes"]
    (run / "index.jsonl").write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    old = open_source(folder, "text", inputs, vocab_size=111, run=run)
    assert (old.vocab_size, old.special_ids) == (11, (0, 1, 2, 3, 4))


def test_a_run_keeps_to_its_tokenizer(folder, tmp_path):
    first, other = word_level(tmp_path / "a.json"), word_level(tmp_path / "b.json", hole=1)
    run = tmp_path / "run"
    given = replace(INPUTS, tokenizer=str(first))
    open_source(folder, "text", given, vocab_size=300, run=run)
    (tmp_path / "moved.json").write_bytes(first.read_bytes())
    open_source(folder, "text", replace(INPUTS, tokenizer=str(tmp_path / "moved.json")), vocab_size=300, run=run)
    with pytest.raises(DataError, match=r"b.json is not the tokenizer that this run began with: give .*tokenizer.json"):
        open_source(folder, "text", replace(INPUTS, tokenizer=str(other)), vocab_size=300, run=run)
    with pytest.raises(DataError, match=r"inputs.tokenizer is left out, but this run began with"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    open_source(folder, "text", replace(INPUTS, tokenizer=str(run / "tokenizer.json")), vocab_size=300, run=run)
    trained = tmp_path / "trained"
    open_source(folder, "text", INPUTS, vocab_size=300, run=trained)
    with pytest.raises(DataError, match=r"a.json is not the tokenizer that this run began with"):
        open_source(folder, "text", given, vocab_size=300, run=trained)
    (trained / "tokenizer.json").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match=r"tokenizer.json is not what this run was tokenised with"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=trained)


def test_tokens_are_compared_with_their_hash(folder, tmp_path):
    run = tmp_path / "run"
    open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    tokens = bytearray((run / "tokens.bin").read_bytes())
    tokens[100] ^= 1
    (run / "tokens.bin").write_bytes(tokens)
    with pytest.raises(DataError, match=r"tokens.bin is damaged: delete .*index.bin.* \(its hash is not that"):
        open_source(folder, "text", INPUTS, vocab_size=300, run=run)


def test_texts_that_disappear_do_not_matter_once_they_are_tokenised(folder, tmp_path, caplog):
    run = tmp_path / "run"
    before = open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    next(iter(sorted(folder.rglob("*.txt")))).unlink()
    after = open_source(folder, "text", INPUTS, vocab_size=300, run=run)
    assert np.array_equal(before.tokens, after.tokens)
    assert after.lost is None
    assert "1 files of this run are gone" in caplog.text


def test_lines_without_a_text_count_as_samples_that_cannot_be_read(tmp_path):
    deep = '{"text": "fine text", "tree": ' + "[" * 100_000 + "]" * 100_000 + "}"
    good = [json.dumps({"text": text}) for text in DOCUMENTS]
    bad = ["[1]", '{"text": null}', '{"body": "x"}', "nonsense", deep]
    (tmp_path / "a.jsonl").write_text("\n".join([*good[:6], *bad, "", *good[6:]]))
    source = open_source(tmp_path / "a.jsonl", "text", INPUTS, vocab_size=300)
    assert (source.lost.count, source.lost.total) == (5, 17)
    assert 'a.jsonl: 5 lines without a string "text" (the first is line 7)' in source.lost.first
    with pytest.raises(TooManySkipped, match=r"5 of 17 samples cannot be read.*5 lines without a string"):
        Skipped(source, Known.of(source.sizes, np.arange(len(source))), 0.01)
    Skipped(source, Known.of(source.sizes, np.arange(len(source))), 0.5)


def test_lists_that_the_program_wrote_are_no_texts(folder, tmp_path):
    before = open_source(folder, "text", INPUTS, vocab_size=300)
    build(folder, folder / "texts.jsonl", modality="text")
    (folder / "texts.jsonl.broken.jsonl").write_text('{"path": "a.txt", "reason": "is empty"}\n')
    pytest.importorskip("pyarrow", reason="no Parquet without it")
    build(folder, folder / "texts.parquet", modality="text")
    after = open_source(folder, "text", INPUTS, vocab_size=300)
    assert after.fingerprint == before.fingerprint


def test_a_file_that_breaks_while_it_is_tokenised(folder, tmp_path, monkeypatch):
    victim = next(name for name in sorted(path.name for path in folder.rglob("*.txt")))

    def breaks(store, i):
        if store.names[i].endswith(victim):
            yield documents.Piece("a beginning", False)
            raise MemoryError
        yield from whole(store, i)

    whole = documents.read_pieces
    index = open_source(folder, "text", INPUTS, vocab_size=300)
    count = int((index.tokens == 2).sum())
    monkeypatch.setattr(documents, "read_pieces", breaks)
    monkeypatch.setattr(documents, "measure", lambda store, i: documents.Measure(1, 9, 0, 0))
    source = open_source(folder, "text", INPUTS, vocab_size=300)
    assert int((source.tokens == 2).sum()) == count - 1  # it was met when the tokenizer was trained
    assert source.lost.count == 1
    assert "reading it failed: MemoryError" in source.lost.first
