from __future__ import annotations

import json

import pytest

from d2v_fast.data import SampleError
from d2v_fast.data.store import FileStore
from d2v_fast.modalities.text import documents as corpus
from d2v_fast.modalities.text.documents import _PIECE, Measure


def read_pieces(path):
    return corpus.read_pieces(FileStore(path.parent, [path.name]), 0)


def measure(path):
    return corpus.measure(FileStore(path.parent, [path.name]), 0)


def documents(path):
    found, current = [], ""
    for piece in read_pieces(path):
        assert 0 < len(piece.text) <= _PIECE
        current += piece.text
        if piece.last:
            found.append(current)
            current = ""
    assert current == ""
    return found


@pytest.mark.parametrize(
    "text",
    [
        "short",
        "two\r\nlines\n\n",
        "word " * 40_000,
        "x" * 200_000,
        "ä\n" * 100_000,
        "a" * _PIECE,
        "b" * (_PIECE + 1),
        ("y" * 70_000 + "\n") * 3,
    ],
)
def test_a_txt_file_is_one_document_unchanged(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    assert documents(tmp_path / "a.txt") == [text]
    assert measure(tmp_path / "a.txt") == Measure(1, len(text), 0, 0)


def test_long_documents_are_cut_behind_lines_or_before_spaces(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n" * 30_000)
    assert {piece.text[-1] for piece in read_pieces(tmp_path / "a.txt")} == {"\n"}
    (tmp_path / "a.txt").write_text("one two " * 30_000)
    assert {piece.text[0] for piece in list(read_pieces(tmp_path / "a.txt"))[1:]} == {" "}


def test_jsonl_is_a_document_per_line(tmp_path):
    texts = ["first", "zwei\nZeilen", "long " * 30_000, "last"]
    lines = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:2], "", *lines[2:]]))
    assert documents(tmp_path / "a.jsonl") == texts
    assert measure(tmp_path / "a.jsonl") == Measure(4, sum(map(len, texts)), 0, 0)


def test_bad_lines_are_counted_and_left_out(tmp_path):
    bad = ["{", '{"txt": "x"}', '["text"]', '{"text": 3}', '{"text": null}', '{"text": "\\ud800"}', "7"]
    (tmp_path / "a.jsonl").write_text("\n".join(['{"text": "good"}', *bad, '{"text": ""}', '{"text": "fine"}']))
    assert documents(tmp_path / "a.jsonl") == ["good", "fine"]
    assert measure(tmp_path / "a.jsonl") == Measure(2, 8, len(bad), 2)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert documents(tmp_path / "a.txt") == ["hello"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xef\xbb\xbf", "has no text"),
        ("a.txt", "grün".encode("latin-1"), "is not UTF-8"),
        ("a.jsonl", b'{"text": "gr\xfcn"}', "is not UTF-8"),
        ("a.txt", "all of it is text".encode("utf-16-le"), "is UTF-16, or no text"),
        ("a.txt", "all of it is text".encode("utf-16-be"), "is UTF-16, or no text"),
        ("a.jsonl", b"1\n2\n", "no object with a string .text. in 2 lines"),
        ("a.jsonl", b'{"text": ""}\n', "has no text$"),
    ],
)
def test_files_without_text_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SampleError, match=reason):
        measure(tmp_path / name)
