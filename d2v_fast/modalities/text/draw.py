"""Blocks of tokens to be looked at, those on grey to be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from d2v_fast.batch import Batch
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Drawing, Row, Words

if TYPE_CHECKING:
    from d2v_fast.config import Config

MOST = 400
"""Tokens of a block that are shown; a picture holds about twice as many."""

BLOCKS = 6
"""Blocks that are drawn, if they are short."""


def draw(source: DataSource, config: Config, batch: Batch) -> Drawing:
    """The first blocks of a batch, as far as they fit.

    Args:
        source: Where the batch is from; its `tokenizer` tells the words, without one the ids are shown.
        config: Not used.
        batch: With masks.
    """
    assert batch.mask is not None
    lengths = [batch.inputs.shape[1]] * len(batch.inputs) if batch.lengths is None else batch.lengths.tolist()
    count = min(len(batch.inputs), max(2, min(BLOCKS, 2 * MOST // max(1, min(lengths)))))
    rows = []
    for i in range(count):
        shown = batch.inputs[i, : min(lengths[i], MOST)].tolist()
        mask = batch.mask[i * batch.views, : len(shown)].numpy()
        name = source.name(int(batch.sample_ids[i]))
        title = f"{name}: {_become(source, batch, i, lengths[i])}"
        rows.append(Row(panels=(Words(tokens=_words(source, shown), mask=mask, title=title),)))
    masked = float(batch.mask.sum()) / (sum(lengths) * batch.views)
    return Drawing(title=f"{masked:.0%} of the tokens to be predicted (grey)", rows=tuple(rows))


def _words(source: Any, ids: list[int]) -> tuple[str, ...]:
    tokenizer = getattr(source, "tokenizer", None)
    if tokenizer is None:
        return tuple(f" {token}" for token in ids)
    return tuple(tokenizer.decode([token], skip_special_tokens=False) for token in ids)


def _become(source: Any, batch: Batch, i: int, length: int) -> str:
    """What the masked tokens of a block have become."""
    assert batch.mask is not None
    assert batch.masked_inputs is not None
    row = i * batch.views
    mask = batch.mask[row]
    before, after = batch.inputs[i][mask], batch.masked_inputs[row][mask]
    hidden, same = int((after == source.mask_id).sum()), int((after == before).sum())
    share = int(np.count_nonzero(mask.numpy())) / length
    return (
        f"{share:.0%} of {length} tokens to be predicted: {hidden} are <mask>, {same} as they were, "
        f"{len(after) - hidden - same} another token"
    )
