"""How much text there is, and how long the documents are."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Histogram, histogram
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.tokenizer import specials


def describe(source: DataSource, inputs: TextInputs) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about a corpus; of one's own source, without documents, only its lengths."""
    sizes = np.asarray(source.sizes)
    if not isinstance(source, TextBlocks):
        return [("tokens", f"{sizes.sum():,}")], [histogram("length", sizes[sizes > 0], "tokens")]
    ends = np.flatnonzero(source.tokens == specials(source.tokenizer).end)
    lengths = np.diff(ends, prepend=-1)
    longest = f"of {sizes.max():,} tokens" if sizes.min() == sizes.max() else f"of up to {sizes.max():,} tokens"
    lines = [
        ("documents", f"{len(ends):,}, median {np.median(lengths):,.0f} tokens"),
        ("tokens", f"{len(source.tokens):,}"),
        ("blocks", f"{len(source):,} {longest}"),
        ("vocabulary", f"{source.vocab_size:,} tokens, {len(np.unique(source.tokens)):,} of them in use"),
    ]
    return lines, [histogram("length of documents", lengths, "tokens")]
