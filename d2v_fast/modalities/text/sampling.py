"""How sequences of tokens become rows of a batch: nothing is random about text but its mask."""

from __future__ import annotations

import torch

from d2v_fast.data.arrays import as_tensor
from d2v_fast.data.config import LoaderConfig
from d2v_fast.errors import DataError
from d2v_fast.modalities.whole import WholeSampling


class TokenSampling(WholeSampling):
    """See `Sampling`.

    Args:
        pad_id: Fills rows up.
    """

    def __init__(self, pad_id: int) -> None:
        super().__init__(lambda block, name: as_tensor(block), dtype=torch.int64, fill=pad_id)

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """`loader.batch_tokens`."""
        if config.batch_tokens is not None and config.batch_tokens < longest:
            raise DataError(
                f"loader.batch_tokens is {config.batch_tokens}, less than one sequence of {longest}: "
                "raise it, or lower inputs.block_size"
            )
        return config.batch_tokens
