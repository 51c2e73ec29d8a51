"""Documents out of text files, in pieces that fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from d2v_fast.data.errors import SampleError

_PIECE = 1 << 16
"""Characters that are tokenised at a time; longer documents are cut behind a line or a space."""


class Piece(NamedTuple):
    """A stretch of a document."""

    text: str
    last: bool
    """Whether the document ends here."""


class Measure(NamedTuple):
    """What is in a file."""

    documents: int
    characters: int
    bad_lines: int
    """.jsonl: lines without a text, which are left out."""

    first_bad: int
    """The first of them, counted from 1."""


def read_pieces(path: Path) -> Iterator[Piece]:
    """The documents of a file: the whole of a .txt file, or "text" of each line of a .jsonl file.

    Raises:
        UnicodeDecodeError: The file is not UTF-8.
    """
    if path.suffix.lower() == ".jsonl":
        for text in _json_lines(path):
            if text:
                yield from _cut(text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _cut(iter(lambda: file.read(_PIECE), ""))


def measure(path: Path) -> Measure:
    """Reads a file through once.

    Raises:
        SampleError: It cannot be read, is not UTF-8, or has no text.
    """
    documents = characters = lines = 0
    bad: list[int] = []
    try:
        if path.suffix.lower() == ".jsonl":
            for lines, text in enumerate(_json_lines(path), 1):
                documents += bool(text)
                characters += len(text or "")
                if text is None:
                    bad.append(lines)
        else:
            documents, characters = 1, sum(len(piece.text) for piece in read_pieces(path))
    except OSError as error:
        raise SampleError(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise SampleError(str(path), f"is not UTF-8 ({error.reason}): convert it") from error
    if characters == 0:
        reason = f'has no text (no object with a string "text" in {lines} lines)' if bad else "has no text"
        raise SampleError(str(path), reason if path.stat().st_size else "is empty")
    return Measure(documents, characters, len(bad), bad[0] if bad else 0)


def _json_lines(path: Path) -> Iterator[str | None]:
    """The text of each line, "" for an empty line, None for one that is not an object with a text."""
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                yield ""
                continue
            try:
                text = json.loads(line)["text"]
                text.encode()  # a lone surrogate has no bytes
                yield text
            except (ValueError, KeyError, TypeError, AttributeError):
                yield None


def _cut(chunks: Iterator[str]) -> Iterator[Piece]:
    """One document, however it arrives, as pieces of about `_PIECE` characters."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        while len(rest) > _PIECE:
            line, space = rest.rfind("\n", 1, _PIECE), rest.rfind(" ", 1, _PIECE)
            # behind a line, else before a space, which byte-level tokens begin with
            at = line + 1 if line > 0 else space if space > 0 else _PIECE
            yield Piece(rest[:at], False)
            rest = rest[at:]
    if rest:
        yield Piece(rest, True)
