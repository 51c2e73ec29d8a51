"""Sequences of different lengths through blocks of width 768, forward and backward: for a CPU and a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig


def packed_encoder(device: torch.device, quick: bool) -> tuple[str, Callable[[str], Callable[..., None]]]:
    """A name for the table, and (kernel) to a function that runs once forward and backward.

    The lengths are spread evenly from 30 to 100 % of the longest: 35 % of the rows is padding.
    """
    width, heads, samples, length = (48, 2, 3, 20) if quick else (768, 12, 8, 400)
    embedding = TextEmbedding(vocab_size=100, max_length=length)
    network = TransformerConfig(dim=width, depth=2, heads=heads, ffn_dim=4 * width, dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    model = ModelConfig(embedding=embedding, transformer=network, target=TargetConfig(top_k=2))
    encoder = build_encoder(model).to(device)
    tokens = torch.randint(4, 100, (samples, length)).to(device)
    lengths = torch.linspace(0.3 * length, length, samples).long()
    rows = torch.arange(samples, device=device) * length  # a masked position in each

    def run(kernel: str) -> Callable[..., None]:
        def once(turn: int = 0) -> None:
            encoder.attention = kernel
            encoder.zero_grad()
            encoder.forward_layers(encoder.embed(tokens), lengths, rows=rows).output.float().sum().backward()

        return once

    waste = 1 - lengths.sum().item() / (samples * length)
    return f"{network.depth} blocks, {[samples, length, width]}, {waste:.0%} padding, packed", run
