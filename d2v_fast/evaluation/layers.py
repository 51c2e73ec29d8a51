"""Features of the layers of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d2v_fast.errors import ConfigError
from d2v_fast.models import Encoder

Layers = str | int | Sequence[int]
"""Which layers: "last", "all", a number or some numbers. 0 is what the embedding makes of the input, without positions;
k the end of block k; the last one is the encoder's output, with its norm.
"""


def chosen(layers: Layers, depth: int) -> tuple[int, ...]:
    """The numbers of the layers, in the order in which they were asked for.

    Args:
        layers: See `Layers`; a string of numbers between commas is one, too.
        depth: Blocks of the encoder.

    Raises:
        ConfigError: There is no such layer.
    """
    if isinstance(layers, str):
        if layers in ("last", "all"):
            return (depth,) if layers == "last" else tuple(range(depth + 1))
        parts = [part.strip() for part in layers.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(f'layers is {layers!r}; give "last", "all", or numbers from 0 to {depth}')
        layers = [int(part) for part in parts]
    numbers = (int(layers),) if isinstance(layers, int) else tuple(int(k) for k in layers)
    if not numbers or min(numbers) < 0 or max(numbers) > depth or len(set(numbers)) < len(numbers):
        raise ConfigError(f"layers is {numbers}; this encoder has layers 0 to {depth}, each can be asked for once")
    return numbers


def token_features(
    encoder: Encoder,
    inputs: Tensor,
    layers: Sequence[int],
    *,
    mask: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Features of each token, of some layers.

    Args:
        encoder: In eval mode.
        inputs: [B, ...] on its device, of one length: nothing is padded.
        layers: Numbers, see `Layers`.
        mask: bool [B, T], tokens whose local features the mask token replaces behind layer 0.
        kept: int64 on the CPU, see `Encoder.keep`; what is not kept is zero behind layer 0.

    Returns:
        float32 [B, T, layers, C].
    """
    depth = len(encoder.blocks)
    local = encoder.embed(inputs)
    between = [k for k in layers if 0 < k < depth]
    first = min(between, default=depth + 1)
    found = encoder.forward_layers(local, mask=mask, kept=kept, last=depth - first + 1)
    known = {0: local, depth: found.output} | {k: found.features[k - first] for k in between}
    return torch.stack([known[k].float() for k in layers], dim=2)
