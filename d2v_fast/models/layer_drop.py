"""Layer drop: which blocks a training step skips (Fan et al., 2019, "Reducing Transformer Depth on Demand")."""

from __future__ import annotations

import numpy as np

from d2v_fast import rng
from d2v_fast.models.config import TransformerConfig


def skipped_blocks(config: TransformerConfig, seed: int, step: int) -> tuple[bool, ...] | None:
    """The blocks that optimizer step `step` skips: a pure function of (seed, step, block).

    All micro-batches of a step and all processes skip the same blocks.

    Args:
        config: of the network; a block is skipped with probability `layer_drop`.
        seed: of the run.
        step: number of the optimizer step, from 0.

    Returns:
        True for each block that is skipped, `depth` values; None where there is no layer drop.
    """
    if config.layer_drop == 0:
        return None
    draws = rng.uniform(seed, "layer drop", step, np.arange(config.depth), 1)
    return tuple((draws[:, 0] < config.layer_drop).tolist())
