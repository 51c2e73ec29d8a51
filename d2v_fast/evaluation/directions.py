"""How many directions the features of a run use, beside those of its random start: a hint that needs no labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from d2v_fast.data import Openable
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.models import Encoder
from d2v_fast.run.monitors import effective_rank
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import load

SAMPLES = 256
"""Samples that the rank is taken of, at least, as far as the first steps of the run have so many."""

MOST_STEPS = 32
"""Steps whose samples are looked at, at most."""

_MORE = 1.2
"""Times the directions of the random start that are more than it; a collapsed run had 1.04 times as many."""


@torch.no_grad()
def directions(run: str | Path, data: Openable) -> tuple[float, float]:
    """RankMe of the student's features and of the random start's, of the samples of the first steps.

    The features are means over the tokens of the last layer, of what the run's batches hold; nothing is masked.

    Args:
        run: The folder of a pretraining.
        data: What it was trained on.

    Returns:
        Both from 1 to the width; nan where no sample can be read.
    """
    config = Run(run).config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders = [load(run, network).to(device) for network in ("student", "initial")]
    found: list[list[Tensor]] = [[], []]
    with open_loader(config, open_data(data, config, Path(run)), device=device) as loader:
        for step in range(MOST_STEPS):
            for batch in loader.step(step):
                if len(batch.sample_ids):
                    for rows, encoder in zip(found, encoders, strict=True):
                        rows.append(_pooled(encoder, batch.inputs.to(device), batch.lengths))
            if sum(map(len, found[0])) >= SAMPLES:
                break
    width = config.model.transformer.dim
    after, before = (effective_rank(torch.cat(rows or [torch.zeros(0, width)])) for rows in found)
    return float(after), float(before)


def sentence(after: float, before: float) -> str:
    """What the two numbers say, and how often that was wrong (docs/healthy.md)."""
    numbers = f"features use {after:.3g} directions (RankMe), those of the random start {before:.3g}"
    if after > _MORE * before:
        return f"{numbers}: more than it, as in 4 of 5 runs that had learned something and in none of 9 that had not"
    return (
        f"{numbers}: no more than it, as in all of 9 runs that were worth no more than their random start, and in 1 of "
        "5 that were. Compare it with `d2v-fast probe` before you use it"
    )


def _pooled(encoder: Encoder, inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """float32 [B, C], the mean over the tokens that are no padding."""
    tokens = encoder(inputs, lengths).float()
    counts = encoder.token_lengths(lengths)
    if counts is None:
        return tokens.mean(1)
    valid = (torch.arange(tokens.shape[1]) < counts.cpu()[:, None]).to(tokens)[:, :, None]
    return (tokens * valid).nan_to_num().sum(1) / valid.sum(1).clamp_min(1)
