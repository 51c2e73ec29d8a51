"""Documents out of text files, in pieces that fit into memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from d2v_fast.data.formats import parquet
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.formats.tables import TextStore
from d2v_fast.data.own import HEAD, is_own_list
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, OwnFile, SampleError, failed

FORMATS = ".txt, .jsonl or .parquet"
_REMEDY = 'Write them to .txt files, or to a .jsonl file with one object {"text": ...} in each line'
_OTHERS = (".json", ".csv", ".tsv", ".pdf", ".html", ".md", ".rst", ".xml", ".gz", ".zip")
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


def extensions() -> tuple[str, ...]:
    """Those of the files that can be read."""
    return (".txt", ".jsonl", ".parquet")


def remedies() -> dict[str, str]:
    """What to do about known files that cannot be read, by extension."""
    return dict.fromkeys(_OTHERS, _REMEDY)


def kind() -> Kind:
    """Texts as the formats see them."""
    return Kind(
        "text",
        extensions(),
        remedies(),
        FORMATS,
        Measure._fields,
        header=measure,  # a text has no header: it is read as a whole
        amount=lambda sizes: f"{sizes[:, 0].sum():,} documents, {sizes[:, 1].sum():,} characters",
        documents=True,
    )


def read_pieces(store: Store, index: int) -> Iterator[Piece]:
    """The documents of a file: the whole of a .txt file, or "text" of each line of a .jsonl file or row of Parquet.

    Raises:
        UnicodeDecodeError: The file is not UTF-8.
        OSError: It cannot be read.
        SampleError: It may not be read.
    """
    texts = _texts(store, index)
    if texts is not None:
        for text in texts:
            if text:
                yield from _cut(text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return
    with _lines(store.open(index), newline="") as file:
        yield from _cut(iter(lambda: file.read(_PIECE), ""))


def measure(store: Store, index: int) -> Measure:
    """Reads a file through once.

    Raises:
        SampleError: It cannot be read, is not UTF-8, or has no text.
        OwnFile: This program wrote it: a manifest, or another list of its own.
    """
    documents = characters = lines = 0
    bad: list[int] = []
    label = store.label(index)
    try:
        if store.extension(index) == ".jsonl" and is_own_list(label, _first_line(store.open(index))):
            raise OwnFile(label, "was written by d2v-fast")
        texts = _texts(store, index)
        if texts is None:
            documents, nuls = 1, 0
            for piece in read_pieces(store, index):
                characters += len(piece.text)
                nuls += piece.text.count("\0")
            if nuls * 4 > characters:  # ASCII in UTF-16 without its mark is valid UTF-8, every second character a NUL
                raise SampleError(label, "is UTF-16, or no text (it is full of NULs): convert it to UTF-8")
        else:
            for lines, text in enumerate(texts, 1):
                documents += bool(text)
                characters += len(text or "")
                if text is None:
                    bad.append(lines)
        empty = characters == 0 and not isinstance(store, TextStore) and _is_empty(store.open(index))
    except OSError as error:
        raise SampleError(label, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise SampleError(label, f"is not UTF-8 ({error.reason}): convert it") from error
    except Exception as error:
        raise failed(label, error) from error
    if characters == 0:
        reason = f'has no text (no object with a string "text" in {lines} lines)' if bad else "has no text"
        raise SampleError(label, "is empty" if empty else reason)
    return Measure(documents, characters, len(bad), bad[0] if bad else 0)


def _is_empty(file: BinaryIO) -> bool:
    with file:
        return not file.read(1)


def _first_line(file: BinaryIO) -> str:
    """Empty if it is longer than the first line of any list."""
    with file:
        line = file.readline(_PIECE)
    return line.decode("utf-8-sig", "replace") if line.endswith(b"\n") else ""


def _lines(file: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def _texts(store: Store, index: int) -> Iterator[str | None] | None:
    """Documents that come one by one: "" for an empty line, None for what has no text. None: it is all one document."""
    if isinstance(store, TextStore):
        return store.texts()
    extension = store.extension(index)
    if extension == ".jsonl":
        return _json_lines(store.open(index))
    if extension == ".parquet":
        return _table_rows(store, index)
    return None


def _table_rows(store: Store, index: int) -> Iterator[str | None]:
    label = store.label(index)
    try:
        with store.open(index) as file:
            table = parquet.table(file)
            if "text" not in table.schema_arrow.names:
                if HEAD.encode() in (table.schema_arrow.metadata or {}):
                    raise OwnFile(label, "was written by d2v-fast")
                have = ", ".join(table.schema_arrow.names)
                raise SampleError(label, f'has no column "text", only {have}')
            for row in parquet.rows(table, label, ["text"]):
                yield row["text"] if isinstance(row["text"], str) else None
    except DataError as error:
        raise SampleError(label, str(error)) from error


def _json_lines(raw: BinaryIO) -> Iterator[str | None]:
    """The text of each line, "" for an empty line, None for one that is not an object with a text."""
    with _lines(raw) as file:
        for line in file:
            if not line.strip():
                yield ""
                continue
            try:
                text = json.loads(line)["text"]
                text.encode()  # a lone surrogate has no bytes
                yield text
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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
