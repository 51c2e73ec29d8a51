"""Texts as token ids, and token ids as the encoder wants them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from d2v_fast.data.paths import expanded
from d2v_fast.errors import SampleError, reading
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs


def prepare(tokens: np.ndarray | Tensor, inputs: TextInputs, embedding: TextEmbedding, name: str) -> Tensor:
    """Checks the ids of a sequence.

    Args:
        tokens: Integers [T], the begin token first, as a run's blocks have them.
        inputs: Not used.
        embedding: Says which ids there are, and how many of them a sequence may have.
        name: For messages.

    Returns:
        int64 [T].

    Raises:
        SampleError: They are no ids of this vocabulary, or more than the model has positions for.
    """
    if isinstance(tokens, str):
        raise SampleError(name, "is a string; give token ids, the begin token first, or see `read`")
    ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) == 0:
        raise SampleError(name, f"is {ids.dtype} {list(ids.shape)}; token ids are integers [T]")
    if len(ids) > embedding.max_length:
        raise SampleError(name, f"has {len(ids)} tokens, the model has positions for {embedding.max_length}: cut it")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= embedding.vocab_size:
        raise SampleError(
            name, f"has ids from {low} to {high}; the model's vocabulary has 0 to {embedding.vocab_size - 1}"
        )
    return torch.from_numpy(ids.astype(np.int64))


def read(text: str | Path, inputs: TextInputs, embedding: TextEmbedding, name: str) -> np.ndarray:
    """Tokenises a text as a document of a run is: begin token, tokens, end token.

    Args:
        text: The text, or the path of a file of it in UTF-8.
        inputs: Name the tokenizer, and how long a sequence may be.
        embedding: Says how many tokens the model has positions for.
        name: For messages.

    Returns:
        int64 [T]; of a text that is longer than the model takes the end is cut off.

    Raises:
        SampleError: The file cannot be read, or nothing names a tokenizer.
    """
    if isinstance(text, Path):
        try:
            name, text = str(text), text.expanduser().read_bytes().decode("utf-8-sig")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise SampleError(name, f"cannot be read as text: {error}") from error
    path = None if inputs.tokenizer is None else expanded(inputs.tokenizer, "inputs.tokenizer")
    if path is None or not path.is_file():
        raise SampleError(
            name,
            f"is a text, but the run's tokenizer is not there ({path}): put it there, or give token ids, the begin "
            "token first",
        )
    tokenizer = _tokenizer(path, path.stat().st_mtime_ns)
    special = vocabulary.specials(tokenizer)
    with reading(name):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    most = min(inputs.block_size, embedding.max_length) - 2
    return np.array([special.begin, *ids[:most], special.end], dtype=np.int64)


@lru_cache(maxsize=8)
def _tokenizer(path: Path, changed: int) -> Tokenizer:
    """The tokenizer of a file as it was at that time."""
    return vocabulary.load(path)
