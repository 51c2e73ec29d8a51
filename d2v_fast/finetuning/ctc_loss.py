"""Connectionist temporal classification as a loss (Graves et al., 2006), and what to do where it cannot work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0


@dataclass(frozen=True)
class Targets:
    """Transcripts as numbers, one for each of N samples."""

    labels: Tensor
    """int64 [N, L], filled up with the blank."""

    lengths: Tensor
    """int64 [N]; -1 where there is no target: nothing is learned from that sample."""

    @staticmethod
    def of(tokens: list[list[int] | None]) -> Targets:
        """From lists of numbers; None is no target."""
        longest = max((len(each) for each in tokens if each is not None), default=0)
        labels = torch.zeros(len(tokens), max(1, longest), dtype=torch.int64)
        for row, each in zip(labels, tokens, strict=True):
            if each:
                row[: len(each)] = torch.tensor(each)
        return Targets(labels, torch.tensor([-1 if each is None else len(each) for each in tokens]))


def needed(labels: Tensor, lengths: Tensor) -> Tensor:
    """Frames that each target needs at least: one for each token, and a blank between equal neighbours.

    Args:
        labels: int64 [B, L].
        lengths: int64 [B].

    Returns:
        int64 [B]; as `finetuning.ctc.needed_frames` of each.
    """
    inside = torch.arange(1, labels.shape[1], device=labels.device) < lengths[:, None]
    return lengths + ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)


def learnable(labels: Tensor, label_lengths: Tensor, frames: Tensor, symbols: int) -> Tensor:
    """Which samples have a target of the known symbols that fits into their frames.

    Args:
        labels: int64 [B, L]; a number from `symbols` on stands for a character without a symbol.
        label_lengths: int64 [B], -1 where there is no target.
        frames: int64 [B].
        symbols: Of the vocabulary.

    Returns:
        bool [B], on the device that all arguments are on.
    """
    known = (labels < symbols).all(1)
    return known & (label_lengths >= 0) & (needed(labels, label_lengths) <= frames) & (frames > 0)


def ctc_loss(logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor, fits: Tensor) -> Tensor:
    """The sum of -ln p(target) over the samples whose targets fit, in float32. A mean over samples is the caller's.

    Summed over an utterance, not divided by its length, as all released recipes have it.

    Args:
        logits: [B, T, symbols], the blank first.
        frames: int64 [B] on the CPU, valid frames.
        labels: int64 [B, L], on the device of the logits.
        label_lengths: int64 [B] on the CPU.
        fits: bool [B] on the CPU, what `learnable` gave; the others get no gradient.

    Returns:
        float32 [].
    """
    rows = fits.nonzero()[:, 0]
    if len(rows) == 0:
        return logits.float().sum() * 0.0  # a part of the graph, so that every parameter has a gradient
    chosen = rows.to(logits.device)
    log_probs = F.log_softmax(logits.index_select(0, chosen).float(), dim=2).transpose(0, 1)
    # cuDNN's version needs other types and is not taken: its results differ between its algorithms
    with torch.backends.cudnn.flags(enabled=False):
        return F.ctc_loss(
            log_probs,
            labels.index_select(0, chosen),
            frames[rows],
            label_lengths[rows],
            blank=BLANK,
            reduction="sum",
        )
