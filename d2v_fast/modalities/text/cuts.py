"""Where the sequences of a corpus of documents begin and how long they are: found once, and kept beside the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2v_fast.data.columns import Damaged, read_columns, write_columns
from d2v_fast.files import tell_once

FILE = "sequences.bin"
"""A file of columns in the folder of a run. What is in it can be made again."""

_PIECE = 1 << 24
"""Tokens that are looked at at once."""


class Cuts(NamedTuple):
    """Each document is a sequence; one that is longer is cut into several."""

    starts: np.ndarray
    """int64 [N], the first token of each."""

    sizes: np.ndarray
    """int64 [N], its tokens with the begin token; an end token that would be alone is left out."""


def cut(tokens: np.ndarray, end: int, most: int) -> Cuts:
    """Looks through all tokens.

    Args:
        tokens: The corpus, [count], with `end` behind each document.
        end: The end token.
        most: Tokens of a sequence, without the begin token.
    """
    pieces = range(0, len(tokens), _PIECE)
    found = [low + np.flatnonzero(tokens[low : low + _PIECE] == end) + 1 for low in pieces]
    ends = np.concatenate([np.zeros(0, dtype=np.int64), *found])
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])[: len(ends)]
    counts = -(-(ends - starts) // most)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.repeat(starts, counts) + number * most
    length = np.minimum(np.repeat(ends, counts) - begin, most)
    whole = length > 1
    return Cuts(begin[whole], length[whole] + 1)


def kept_cuts(folder: Path, tokens: np.ndarray, end: int, most: int, fingerprint: str) -> Cuts:
    """What an earlier start has found, memory-mapped; where there is nothing, or of other tokens, it is found and kept.

    Args:
        folder: Of the run.
        tokens: See `cut`, as for `end` and `most`.
        end: See `cut`.
        most: See `cut`.
        fingerprint: Of the corpus.
    """
    path, key = folder / FILE, json.dumps([fingerprint, len(tokens), end, most])
    try:
        head, columns = read_columns(path)
        if head["key"] == key:
            return Cuts(columns["starts"], columns["sizes"])
    except (OSError, Damaged, ValueError, KeyError, TypeError, RecursionError):  # it is made again
        pass
    made = cut(tokens, end, most)
    try:
        write_columns(path, {"key": key}, made._asdict())
    except OSError as error:
        tell_once("cuts", folder, f"{path} cannot be written ({error.strerror}): every start makes it again")
    return made
