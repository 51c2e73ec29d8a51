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

from d2v_fast.data.collection import Collection
from d2v_fast.data.index import Index, index_file
from d2v_fast.data.opening import open_index
from d2v_fast.data.paths import expanded
from d2v_fast.data.scan import Progress
from d2v_fast.data.source import Lost
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, failed
from d2v_fast.files import write_whole
from d2v_fast.log import report, tell
from d2v_fast.modalities.text import documents as corpus
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.cuts import kept_cuts

_HASHED = 1 << 30
"""Of larger files of tokens a start compares the length alone: hashing takes a second for each gigabyte."""

TOKENS, TOKENIZER = "tokens.bin", "tokenizer.json"


def open_text(
    found: Collection, inputs: TextInputs, *, vocab_size: int | None, run: Path | None, threads: int
) -> TextBlocks:
    """Indexes and tokenises text files or rows of text; see `open_source`."""
    new: dict[str, Any] = {}  # filled where the corpus is not tokenised yet

    def tokenise(index: Index, store: Store) -> Index:
        new["tokenizer"] = tokenizer = _make_tokenizer(lambda: _pieces(index, store), inputs, vocab_size)
        notes = {
            "tokenizer": "trained" if inputs.tokenizer is None else "given",
            "digest": vocabulary.digest(tokenizer),
        }
        if run is None:
            new["file"] = tempfile.TemporaryFile(prefix="d2v-fast-")  # noqa: SIM115  (lives as long as its map)
            extra = _write_tokens(new["file"], _pieces(index, store), tokenizer)
        else:
            with (run / (TOKENS + ".tmp")).open("wb") as file:
                extra = _write_tokens(file, _pieces(index, store), tokenizer)
                os.fsync(file.fileno())
            os.replace(run / (TOKENS + ".tmp"), run / TOKENS)
            write_whole(run / TOKENIZER, tokenizer.to_str())
        return replace(index, extra=index.extra | extra, notes=index.notes | notes)

    index, store = open_index(found, "text", corpus.measure, run=run, threads=threads, complete=tokenise)
    lost = _report(store, index)
    tokenizer = new["tokenizer"] if new else _kept_tokenizer(run, index, inputs)
    _check_vocabulary(tokenizer, vocab_size)
    count, dtype = index.extra["tokens"], np.dtype(index.extra["dtype"])
    stored = new["file"] if "file" in new else _kept(run, TOKENS)
    if isinstance(stored, Path) and not new:
        _check_tokens(stored, index, found.thorough)
    if count < inputs.block_size - 1 and inputs.packed:
        raise DataError(
            f"data: {found.where} has {count} tokens, less than one block of {inputs.block_size}: "
            "add text or lower inputs.block_size"
        )
    tokens = np.memmap(stored, dtype=dtype, mode="r", shape=(count,))
    cuts = None
    if run is not None and not inputs.packed:
        end = vocabulary.specials(tokenizer).end
        cuts = kept_cuts(run, tokens, end, inputs.block_size - 1, index.fingerprint)
    blocks = TextBlocks(
        tokens, tokenizer, inputs.block_size, index.fingerprint, packed=inputs.packed, cuts=cuts, lost=lost
    )
    blocks.folder = run
    if not index.notes:  # a run of a version that drew replacements from as many ids as there are tokens goes on so
        blocks.vocab_size, blocks.special_ids = tokenizer.get_vocab_size(), vocabulary.specials(tokenizer).all
    return blocks


def _pieces(index: Index, store: Store) -> Iterator[corpus.Piece]:
    """The documents of all files. One that cannot be read any more ends where that happens, and is a broken one."""
    for i in range(len(index.names)):
        if i in index.problems:
            continue
        last = True
        try:
            for piece in corpus.read_pieces(store, i):
                last = piece.last
                yield piece
        except Exception as error:
            index.problems[i] = failed(store.label(i), error).reason
            if not last:
                yield corpus.Piece("", True)


def _make_tokenizer(
    pieces: Callable[[], Iterator[corpus.Piece]], inputs: TextInputs, vocab_size: int | None
) -> Tokenizer:
    if inputs.tokenizer is not None:
        tokenizer = vocabulary.load(expanded(inputs.tokenizer, "inputs.tokenizer"))
    elif vocab_size is None:
        raise DataError("inputs.tokenizer is not given, and no vocabulary size to train one")
    else:
        tokenizer = vocabulary.train((piece.text for piece in pieces()), vocab_size)
    _check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def _kept_tokenizer(run: Path | None, index: Index, inputs: TextInputs) -> Tokenizer:
    """The tokenizer of a run that continues, which has to be that of its first start.

    Raises:
        DataError: The file in the run was changed, or `inputs.tokenizer` is another one, or left out.
    """
    path = _kept(run, TOKENIZER)
    kept = vocabulary.load(path)
    known = vocabulary.digest(kept)
    if index.notes.get("digest", known) != known:
        raise DataError(f"{path} is not what this run was tokenised with: put it back, or start a new run")
    if inputs.tokenizer is not None:
        given = expanded(inputs.tokenizer, "inputs.tokenizer")
        if not given.exists():
            tell(f"inputs.tokenizer: {given} is gone; the run goes on with its copy, {path}")
        elif vocabulary.digest(vocabulary.load(given)) != known:
            raise DataError(
                f"inputs.tokenizer: {given} is not the tokenizer that this run began with: give {path} to continue "
                "it, or start a new run in another folder"
            )
    elif index.notes.get("tokenizer") == "given":
        raise DataError(
            f"inputs.tokenizer is left out, but this run began with a tokenizer of its own: give {path} to continue "
            "it, or start a new run in another folder"
        )
    return kept


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int | None) -> None:
    found = vocabulary.size(tokenizer)
    if vocab_size is not None and found > vocab_size:
        count = tokenizer.get_vocab_size()
        gaps = "" if count == found else f" (it has {count}, with gaps between their ids)"
        raise DataError(
            f"the tokenizer has {found} tokens, more than the model's {vocab_size}: set vocab_size to {found}{gaps}"
        )


def _write_tokens(file: BinaryIO, pieces: Iterator[corpus.Piece], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the tokens of all documents, an end token behind each; returns what the index says about the file."""
    dtype = np.dtype("<u2" if vocabulary.size(tokenizer) <= 1 << 16 else "<u4")
    end = vocabulary.specials(tokenizer).end
    digest, count = hashlib.blake2b(digest_size=16), 0
    for ids, last in vocabulary.encode(tokenizer, pieces):
        data = np.array([*ids, end] if last else ids, dtype=dtype).tobytes()
        file.write(data)
        digest.update(data)
        count += len(data) // dtype.itemsize
    file.flush()
    return {"tokens": count, "dtype": dtype.str, "hash": digest.hexdigest()}


def _check_tokens(path: Path, index: Index, thorough: bool) -> None:
    """Compares the tokens with what was written at the first start: a second, or all of them if that is wanted.

    Raises:
        DataError: They are damaged, or cannot be read just now.
    """
    digest = hashlib.blake2b(digest_size=16)
    size = index.extra["tokens"] * np.dtype(index.extra["dtype"]).itemsize
    try:
        whole = path.stat().st_size
        if whole == size > _HASHED and not thorough:
            return
        with path.open("rb") as file, Progress("checking tokens", whole >> 20) as progress:
            while piece := file.read(1 << 24):
                digest.update(piece)
                progress.advance(len(piece) >> 20)
    except OSError as error:
        raise DataError(f"{path} cannot be read just now ({error.strerror or error}): start again") from error
    if whole != size or digest.hexdigest() != index.extra["hash"]:
        what = (
            f"it has {whole} bytes instead of {size}" if whole != size else "its hash is not that of what was written"
        )
        raise DataError(
            f"{path} is damaged: delete {index_file(path.parent)}, and the text is tokenised again ({what})"
        )


def _kept(run: Path | None, name: str) -> Path:
    assert run is not None, "an index was found, so there is a run"
    if not (run / name).exists():
        raise DataError(f"{run / name} is gone: delete {index_file(run)}, and the text is tokenised again")
    return run / name


def _report(store: Store, index: Index) -> Lost | None:
    """Names what could not be read, and counts it: a file as one document, and each line or row."""
    first, count = [], 0
    for i, reason in index.problems.items():
        report(store.label(i), reason)
        first.append(f"{store.label(i)}: {reason}")
        count += 1
    for i in np.flatnonzero(index.sizes[:, 2]).tolist():
        found = corpus.Measure(*index.sizes[i].tolist())
        reason = f'{found.bad_lines} lines without a string "text" (the first is line {found.first_bad})'
        report(store.label(i), reason)
        first.append(f"{store.label(i)}: {reason}")
        count += found.bad_lines
    return Lost(count, int(index.sizes[:, 0].sum()) + count, "; ".join(first[:3])) if count else None
