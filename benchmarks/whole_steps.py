"""What the benchmarks of whole steps share: batches, counted FLOPs, CPU time in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from d2v_fast import masking
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.run.metrics import peak_memory
from d2v_fast.training.flops import counter


def make_batch(config: Config, shape: tuple[int, ...], views: int = 1) -> Batch:
    """Random samples of a shape with the masks of the configuration."""
    generator = torch.Generator().manual_seed(0)
    samples, ids = shape[0], np.arange(shape[0])
    key: dict[str, Any] = {"seed": 0, "epoch": 0, "sample_ids": ids, "views": views}
    mask, embedding = config.mask, config.model.embedding
    words = getattr(embedding, "vocab_size", 0)
    inputs = torch.randint(4, words, shape, generator=generator) if words else torch.randn(shape, generator=generator)
    if isinstance(mask, masking.RandomMask):
        masks = masking.random_masks(mask, [shape[1]] * samples, width=shape[1], **key)
    elif isinstance(mask, masking.TokenMask):
        masks = masking.token_masks(mask, inputs, None, mask_id=3, vocab_size=words, special_ids=(0, 1, 2), **key)
    elif len(shape) == 4:
        side = shape[2] // 16
        if isinstance(mask, masking.InverseBlockMask):
            masks = masking.inverse_block_masks(mask, (side, side), **key)
        else:
            masks = masking.block_masks(mask, (side, side), **key)
    else:
        width = embedding.frames(shape[1])
        make = masking.fixed_span_masks if isinstance(mask, masking.FixedSpanMask) else masking.span_masks
        masks = make(mask, [width] * samples, width=width, **key)
    kept = masks.kept if config.model.encodes_kept else None
    return Batch(
        inputs=inputs, masked_inputs=masks.inputs, sample_ids=torch.from_numpy(ids), mask=masks.mask, rows=masks.rows,
        views=views, kept=kept,
    )  # fmt: skip


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return peak_memory(torch.device("cpu"))


def flops(step: Callable[[], object]) -> float:
    """Of the matrix products of a step."""
    with counter() as counted:
        step()
    return float(counted.get_total_flops())


def in_turn(arms: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            if turn > 0:
                seconds[name].append(time.process_time() - start)
    return seconds
