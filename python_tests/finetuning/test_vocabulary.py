"""Texts become numbers and come back."""

from __future__ import annotations

import json

import pytest

from d2v_fast.data import DataError
from d2v_fast.finetuning.vocabulary import Vocabulary

TEXTS = ["a cat", "two  dogs", "don't"]


def test_the_characters_of_a_corpus():
    found = Vocabulary.of_texts(TEXTS)
    assert found.symbols == ("<pad>", "|", *sorted(set("acattwodogsdon't")))
    for text in TEXTS:
        tokens, unknown = found.encode(text)
        assert not unknown
        assert 0 not in tokens
        assert found.decode(tokens) == " ".join(text.split())


def test_one_case_and_one_form():
    found = Vocabulary.of_texts(["Cafe\u0301", "CAFÉ"], case="upper")
    assert found.symbols == ("<pad>", *"ACFÉ")
    assert found.encode("café")[0] == found.encode("cafe\u0301")[0]
    assert found.delimiter is None
    assert found.decode(found.encode("café")[0]) == "CAFÉ"


def test_characters_without_a_symbol_are_named():
    found = Vocabulary.of_texts(["abc de"])
    assert found.encode("a7b|a7") == ([2, 7, 3, 7, 2, 7], "7|")
    assert found.decode([2, 7, 1, 3]) == "a\N{REPLACEMENT CHARACTER} b"
    assert "lacks '7', '|': add them, or take them out" in found.explain("7|")
    upper = Vocabulary.of_texts(["ABC"])
    assert "set ctc.case to 'upper'" in upper.explain("ab")
    assert "set ctc.case to 'lower'" in Vocabulary.of_texts(["abc"]).explain("AB")


def test_files(tmp_path):
    hugging = tmp_path / "vocab.json"
    hugging.write_text(json.dumps({"E": 3, "<pad>": 0, "|": 2, "<unk>": 1, "T": 4}))
    found = Vocabulary.load(hugging)
    assert found.symbols == ("<pad>", "<unk>", "|", "E", "T")
    assert found.encode("TE E") == ([4, 3, 2, 3], "")
    assert found.decode([4, 1, 2, 2, 3]) == "T E"
    fairseq = tmp_path / "dict.ltr.txt"
    fairseq.write_text("| 94802\nE 51860\nT 38431\n")
    assert Vocabulary.load(fairseq).symbols == ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    lines = tmp_path / "letters.txt"
    lines.write_text("|\nE\nT\n")
    assert Vocabulary.load(str(lines), case="upper").encode("e t") == ([2, 1, 3], "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.json", "{", "is damaged"),
        ("v.json", '{"a": 0, "b": 1}', "symbol 0 of .* is 'a', but 0 is the blank"),
        ("v.json", '{"<pad>": 0, "b": 2}', "without gaps"),
        ("v.json", '{"<pad>": 0, "b": true}', "without gaps"),
        ("v.json", '{"<pad>": 0, "ab": 1}', "has the symbol 'ab'"),
        ("v.txt", "a\na\n", "has 'a' twice"),
        ("v.txt", "|\n", "has no characters"),
        ("v.txt", "", "has no characters"),
        (".", None, "cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.load(tmp_path / name)
