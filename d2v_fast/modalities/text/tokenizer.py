"""Tokenizers: one from a file, or a byte-level BPE trained on the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from d2v_fast.errors import DataError
from d2v_fast.modalities.text.documents import Piece

_NAMES = {
    "begin": ("<s>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "end": ("</s>", "[SEP]", "<|end_of_text|>", "<|endoftext|>"),
    "unknown": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}


@dataclass(frozen=True)
class Specials:
    """Ids of the tokens with a meaning of their own."""

    begin: int
    pad: int
    end: int
    mask: int
    all: tuple[int, ...]
    """Every special token of the tokenizer, ascending: never drawn as a random replacement."""


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE: any text can be written in it and comes back unchanged.

    Args:
        texts: The corpus, in pieces.
        vocab_size: Tokens at most, specials included: <s> 0, <pad> 1, </s> 2, <unk> 3 and <mask>, the last one.

    Raises:
        DataError: The vocabulary has no room for 256 bytes and the specials.
    """
    smallest = 256 + len(_NAMES)
    if vocab_size < smallest:
        raise DataError(f"a byte-level vocabulary needs at least {smallest} tokens, the model has {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[_NAMES[key][0] for key in ("begin", "pad", "end", "unknown")],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([_NAMES["mask"][0]])
    return prepare(tokenizer)


def load(path: Path) -> Tokenizer:
    """Reads a `tokenizers` JSON file.

    Raises:
        DataError: No such file, or not a tokenizer.
    """
    if not path.is_file():
        kept = (path.parent / "config.json").is_file()  # asked for by a run that was given tokens, not texts
        remedy = ": copy the tokenizer.json that its tokens were made with there" if kept else ""
        raise DataError(f"inputs.tokenizer: there is no file {path}{remedy}")
    try:
        return prepare(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"inputs.tokenizer: {path} is not a file of the tokenizers library: {error}") from error


def prepare(tokenizer: Tokenizer) -> Tokenizer:
    """Whole texts, nothing cut or padded; `<mask>` written in a text is text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: rows that an embedding needs. Ids may have gaps, so it is not their number."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def unused(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids below `size` that no token has, ascending."""
    used = set(tokenizer.get_vocab(with_added_tokens=True).values())
    return tuple(i for i in range(size(tokenizer)) if i not in used)


def digest(tokenizer: Tokenizer) -> str:
    """Hash of all that a tokenizer does."""
    return hashlib.blake2b(tokenizer.to_str().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def specials(tokenizer: Tokenizer) -> Specials:
    """Finds the special tokens by their usual names.

    Raises:
        DataError: One is missing.
    """
    ids: dict[str, int] = {}
    for key, names in _NAMES.items():
        found = [i for name in names if (i := tokenizer.token_to_id(name)) is not None]
        if found:
            ids[key] = found[0]
        elif key != "unknown":
            raise DataError(
                f"inputs.tokenizer has no {key} token (none of {', '.join(names)}): add one with "
                "tokenizer.add_special_tokens, or leave inputs.tokenizer out to train one"
            )
    marked = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    every = tuple(sorted(marked | set(ids.values())))
    return Specials(ids["begin"], ids["pad"], ids["end"], ids["mask"], every)


def encode(tokenizer: Tokenizer, pieces: Iterable[Piece], batch: int = 64) -> Iterator[tuple[list[int], bool]]:
    """Token ids of each piece, without special tokens, and whether its document ends there; `batch` in parallel.

    Raises:
        DataError: The tokenizer knows no token for something in the text, and has none for the unknown.
    """
    stream = iter(pieces)
    while waiting := list(islice(stream, batch)):
        try:
            encodings = tokenizer.encode_batch([piece.text for piece in waiting], add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"inputs.tokenizer cannot write the text ({error}): train it with an unknown token, or on this text"
            ) from error
        yield from ((encoding.ids, piece.last) for encoding, piece in zip(encodings, waiting, strict=True))
