"""Language models from ARPA files."""

from __future__ import annotations

import gzip
import math

import pytest

from d2v_fast.errors import DataError
from d2v_fast.finetuning.ngram import read_arpa

SMALL = (
    "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-0.5\ta\t-0.2\n-1\tb\n-2\t<unk>\n\n"
    "\\2-grams:\n-0.1\ta b\n\n\\end\\\n"
)


def write(tmp_path, text, name="a.arpa"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_backoff(tmp_path):
    model = read_arpa(write(tmp_path, SMALL))
    scores = model.score(["a", "b", "a", "a", "strange"])
    expected = [-0.5, -0.1, -0.5, -0.2 - 0.5, -0.2 - 2]
    assert scores == pytest.approx([math.log(10) * value for value in expected], abs=1e-5)


def test_compressed_files_are_read(tmp_path):
    path = tmp_path / "a.arpa.gz"
    path.write_bytes(gzip.compress(SMALL.encode()))
    assert read_arpa(path).score(["a", "b"]) == read_arpa(write(tmp_path, SMALL)).score(["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no ARPA file, or is cut off"),
        (SMALL.replace("\\end\\", ""), "is cut off"),
        (SMALL.replace("ngram 1=3", "ngram 1=4"), "announces 4 1-grams and has 3"),
        (SMALL.replace("ngram 1=3", "ngram 1=many"), "line 2: 'ngram 1=many' should be like"),
        (SMALL.replace("a b", "a c"), "line 11: 'c' is not among the 1-grams"),
        (SMALL.replace("-0.1\ta b", "-0.1\ta"), "line 11: .* should be a logarithm, 2 words"),
        (SMALL.replace("-1\tb", "nan\tb"), "line 7: .* should be a logarithm, 1 words"),
        (SMALL.replace("-1\tb", "0.5\tb"), "line 7: .* should be a logarithm"),
        (SMALL.replace("\\2-grams", "\\3-grams"), "comes where"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_arpa(write(tmp_path, text))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_arpa(tmp_path / "none.arpa")
    path = tmp_path / "b.arpa"
    path.write_bytes(b"\\data\\\nngram 1=1\n\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_arpa(path)
    (tmp_path / "c.arpa.gz").write_bytes(b"not compressed")
    with pytest.raises(DataError, match="cannot be read"):
        read_arpa(tmp_path / "c.arpa.gz")
