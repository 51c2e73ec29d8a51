from __future__ import annotations

import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models

from d2v_fast.data import DataError
from d2v_fast.modalities.text.documents import Piece
from d2v_fast.modalities.text.tokenizer import encode, load, specials, train

TEXTS = [f"the cat number {i} sat on the mat and the dog {i % 7} ran" for i in range(300)]


def test_specials_have_their_places():
    tokenizer = train(TEXTS, 300)
    assert [tokenizer.id_to_token(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.token_to_id("<mask>") == 299
    found = specials(tokenizer)
    assert (found.begin, found.pad, found.end, found.mask) == (0, 1, 2, 299)
    assert found.all == (0, 1, 2, 3, 299)


@pytest.mark.parametrize(
    "text", ["the cat", "  two  spaces\t\r\n", "naïve 日本語 🙂 \x00\x7f", "say <mask> or </s>", " "]
)
def test_any_text_comes_back(text):
    tokenizer = train(TEXTS, 300)
    ((ids, last),) = encode(tokenizer, [Piece(text, True)])
    assert last
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not set(ids) & set(specials(tokenizer).all)


def test_pieces_are_encoded_in_order():
    tokenizer = train(TEXTS, 300)
    pieces = [Piece(text, i % 3 == 0) for i, text in enumerate(TEXTS)]
    found = list(encode(tokenizer, iter(pieces), batch=7))
    assert [last for _, last in found] == [piece.last for piece in pieces]
    assert [tokenizer.decode(ids) for ids, _ in found] == TEXTS


def test_training_gives_the_same_in_another_process():
    script = f"from d2v_fast.modalities.text.tokenizer import train; print(train({TEXTS!r}, 330).to_str())"
    environment = {"RAYON_NUM_THREADS": "3", "PYTHONHASHSEED": "3"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert run.stdout.decode().strip() == train(TEXTS, 330).to_str()


def test_a_small_corpus_gives_a_smaller_vocabulary():
    tokenizer = train(["ab"], 1000)
    assert tokenizer.get_vocab_size() < 300
    assert specials(tokenizer).mask == tokenizer.get_vocab_size() - 1


def test_no_room_for_the_bytes():
    with pytest.raises(DataError, match="needs at least 261 tokens, the model has 260"):
        train(TEXTS, 260)
    assert train(TEXTS, 261).get_vocab_size() == 261


def test_a_file_that_is_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="is not a file of the tokenizers library"):
        load(tmp_path / "a.json")


def test_a_tokenizer_of_berts_kind(tmp_path):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused]"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(names[:5])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "a.json"))
    found = specials(load(tmp_path / "a.json"))
    assert (found.begin, found.pad, found.end, found.mask) == (2, 0, 3, 4)
    assert found.all == (0, 1, 2, 3, 4)
    assert load(tmp_path / "a.json").truncation is None
    assert load(tmp_path / "a.json").padding is None


def test_a_missing_special_is_named():
    tokenizer = train(TEXTS, 300)
    without = Tokenizer.from_str(tokenizer.to_str().replace("<mask>", "<musk>"))
    with pytest.raises(DataError, match="has no mask token"):
        specials(without)


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"the": 0}, unk_token="[UNK]"),
        models.WordLevel({"the": 0}, unk_token="<unk>"),
        models.Unigram([("the", -1.0)]),
    ],
)
def test_a_tokenizer_without_a_token_for_the_unknown_is_named(model):
    tokenizer = Tokenizer(model)
    with pytest.raises(DataError, match=r"inputs.tokenizer cannot write the text \(.*: train it with an unknown token"):
        list(encode(tokenizer, [Piece("cat", True)]))
