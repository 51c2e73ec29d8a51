"""Text files: tokenised once, kept as one long memory-mapped row of tokens, read in blocks."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tokenizers import Tokenizer

from d2v_fast.data.index import Collection, Index, open_index
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError
from d2v_fast.files import write_whole
from d2v_fast.log import report
from d2v_fast.modalities.text import documents as corpus
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextInputs

TOKENS, TOKENIZER = "tokens.bin", "tokenizer.json"


def open_text(
    found: Collection, inputs: TextInputs, *, vocab_size: int | None, run: Path | None, threads: int
) -> TextBlocks:
    """Indexes and tokenises text files or rows of text; see `open_source`."""
    new: dict[str, Any] = {}  # filled where the corpus is not tokenised yet

    def tokenise(index: Index, store: Store) -> Index:
        def pieces() -> Iterator[corpus.Piece]:
            for i in range(len(index.names)):
                if i not in index.problems:
                    yield from corpus.read_pieces(store, i)

        new["tokenizer"] = tokenizer = _make_tokenizer(pieces, inputs, vocab_size)
        if run is None:
            new["file"] = tempfile.TemporaryFile(prefix="d2v-fast-")  # noqa: SIM115  (lives as long as its map)
            return replace(index, extra=index.extra | _write_tokens(new["file"], pieces(), tokenizer))
        with (run / (TOKENS + ".tmp")).open("wb") as file:
            extra = _write_tokens(file, pieces(), tokenizer)
            os.fsync(file.fileno())
        os.replace(run / (TOKENS + ".tmp"), run / TOKENS)
        write_whole(run / TOKENIZER, tokenizer.to_str())
        return replace(index, extra=index.extra | extra)

    index, store = open_index(found, "text", corpus.measure, run=run, threads=threads, complete=tokenise)
    _report(store, index)
    tokenizer = new["tokenizer"] if new else vocabulary.load(_kept(run, TOKENIZER))
    _check_vocabulary(tokenizer, vocab_size)
    count, dtype = index.extra["tokens"], np.dtype(index.extra["dtype"])
    stored = new["file"] if "file" in new else _kept(run, TOKENS)
    if isinstance(stored, Path) and stored.stat().st_size != count * dtype.itemsize:
        raise DataError(f"{stored} is damaged: delete {stored.parent / 'index.jsonl'}, and the text is tokenised again")
    if count < inputs.block_size - 1 and inputs.packed:
        raise DataError(
            f"data: {found.where} has {count} tokens, less than one block of {inputs.block_size}: "
            "add text or lower inputs.block_size"
        )
    tokens = np.memmap(stored, dtype=dtype, mode="r", shape=(count,))
    return TextBlocks(tokens, tokenizer, inputs.block_size, index.fingerprint, packed=inputs.packed)


def _make_tokenizer(
    pieces: Callable[[], Iterator[corpus.Piece]], inputs: TextInputs, vocab_size: int | None
) -> Tokenizer:
    if inputs.tokenizer is not None:
        tokenizer = vocabulary.load(Path(inputs.tokenizer).expanduser())
    elif vocab_size is None:
        raise DataError("inputs.tokenizer is not given, and no vocabulary size to train one")
    else:
        tokenizer = vocabulary.train((piece.text for piece in pieces()), vocab_size)
    _check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int | None) -> None:
    found = tokenizer.get_vocab_size()
    if vocab_size is not None and found > vocab_size:
        raise DataError(
            f"the tokenizer has {found} tokens, more than the model's {vocab_size}: set vocab_size to {found}"
        )


def _write_tokens(file: BinaryIO, pieces: Iterator[corpus.Piece], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the tokens of all documents, an end token behind each; returns what the index says about the file."""
    dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4")
    end = vocabulary.specials(tokenizer).end
    digest, count = hashlib.blake2b(digest_size=16), 0
    for ids, last in vocabulary.encode(tokenizer, pieces):
        data = np.array([*ids, end] if last else ids, dtype=dtype).tobytes()
        file.write(data)
        digest.update(data)
        count += len(data) // dtype.itemsize
    file.flush()
    return {"tokens": count, "dtype": dtype.str, "hash": digest.hexdigest()}


def _kept(run: Path | None, name: str) -> Path:
    assert run is not None, "an index was found, so there is a run"
    if not (run / name).exists():
        raise DataError(f"{run / name} is gone: delete {run / 'index.jsonl'}, and the text is tokenised again")
    return run / name


def _report(store: Store, index: Index) -> None:
    for i, reason in index.problems.items():
        report(store.label(i), reason)
    for i in np.flatnonzero(index.sizes[:, 2]).tolist():
        found = corpus.Measure(*index.sizes[i].tolist())
        where = f"the first is line {found.first_bad}"
        report(store.label(i), f'{found.bad_lines} lines without a string "text" ({where})')
