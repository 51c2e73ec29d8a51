"""Blocks of tokens to be looked at, those on grey to be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from d2v_fast.batch import Batch
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import MOST_VIEWS, Drawing, Row, Words, of_views

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
    views = min(batch.views, MOST_VIEWS)
    fitting = 2 * MOST // max(1, min(lengths)) // views
    count = min(len(batch.inputs), max(2 if views == 1 else 1, min(BLOCKS, fitting)))
    rows = []
    for i in range(count):
        shown = batch.inputs[i, : min(lengths[i], MOST)].tolist()
        name, words = source.name(int(batch.sample_ids[i])), _words(source, shown)
        for view in range(views):
            row = i * batch.views + view
            title = f"{name}: {_become(source, batch, i, row, lengths[i])}"
            mask = batch.mask[row, : len(shown)].numpy()
            rows.append(Row(panels=(Words(tokens=words, mask=mask, title=title),)))
    masked = float(batch.mask.sum()) / (sum(lengths) * batch.views)
    title = f"{masked:.0%} of the tokens to be predicted (grey)"
    return Drawing(title=title + of_views(batch.views), rows=tuple(rows))


def _words(source: Any, ids: list[int]) -> tuple[str, ...]:
    tokenizer = getattr(source, "tokenizer", None)
    if tokenizer is None:
        return tuple(f" {token}" for token in ids)
    return tuple(tokenizer.decode([token], skip_special_tokens=False) for token in ids)


def _become(source: Any, batch: Batch, i: int, row: int, length: int) -> str:
    """What the masked tokens of block `i` have become in its view `row`."""
    assert batch.mask is not None
    mask = batch.mask[row]
    if batch.masked_inputs is None:
        return f"{int(mask.sum())} of {length} tokens to be predicted, which the student does not see"
    before, after = batch.inputs[i][mask], batch.masked_inputs[row][mask]
    hidden, same = int((after == source.mask_id).sum()), int((after == before).sum())
    share = int(np.count_nonzero(mask.numpy())) / length
    return (
        f"{share:.0%} of {length} tokens to be predicted: {hidden} are <mask>, {same} as they were, "
        f"{len(after) - hidden - same} another token"
    )
