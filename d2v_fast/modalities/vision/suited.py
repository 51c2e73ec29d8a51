"""What a folder of pictures asks of a preset that was made for other ones: their size, their colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from d2v_fast.data import DataSource
from d2v_fast.errors import SampleError

LOOKED_AT = 64
"""Pictures that are read, at even distances."""

GREY = 2.0
"""Mean difference of the colours, of 255, below which pictures are called grey."""


def suited(source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """See `Modality.suited`: the size where they are smaller than the preset's, channels, and their mean and deviation.

    The number of patches in a row stays about the preset's, so that masks and costs stay what they are.
    """
    embedding, inputs = config.model.embedding, config.inputs
    sizes = np.asarray(source.sizes)
    known = sizes[(sizes > 0).all(axis=1)].min(axis=1)
    fields: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    side, row = embedding.image_size, embedding.image_size // embedding.patch_size
    if len(known) and (middle := int(np.median(known))) < side:
        patch = max(1, round(middle / row))
        size = max(1, middle // patch) * patch
        fields |= {"model.embedding.patch_size": patch, "model.embedding.image_size": size}
        reasons["model.embedding.image_size"] = (
            f"pictures: {size} pixels in patches of {patch}, as the median shorter side is {middle}, below the "
            f"preset's {side}; that is a grid of {size // patch} x {size // patch}, and the mask stays the preset's"
        )
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), LOOKED_AT)).astype(int)).tolist()
    seen = [picture for i in chosen if (picture := _channels(source, i)) is not None]
    if not seen:
        return fields, reasons
    pixels = np.concatenate(seen)
    grey = float(np.abs(pixels - pixels.mean(1, keepdims=True)).mean()) * 255 < GREY
    values = pixels.mean(1, keepdims=True) if grey else pixels
    fields["model.embedding.channels"] = values.shape[1]
    fields["inputs.mean"] = tuple(round(float(value), 3) for value in values.mean(0))
    fields["inputs.std"] = tuple(max(0.001, round(float(value), 3)) for value in values.std(0))
    reasons["inputs.mean"] = (
        f"colours: {'grey' if grey else 'red, green and blue'}, mean {fields['inputs.mean']} and deviation "
        f"{fields['inputs.std']} of {len(seen)} pictures"
    )
    if grey and len(inputs.mean) != 1 and inputs.jitter:
        fields["inputs.jitter"] = 0.0
    return fields, reasons


def _channels(source: DataSource, index: int) -> np.ndarray | None:
    """float64 [pixels, 1 or 3], from 0 to 1; None for what cannot be read, or has other channels."""
    try:
        found = source.read(index)
    except SampleError:  # told where all samples are read
        return None
    picture = np.moveaxis(found.numpy(), 0, -1) if isinstance(found, Tensor) and found.ndim == 3 else np.asarray(found)
    flat = picture.reshape(picture.shape[0] * picture.shape[1], -1) / 255
    return np.repeat(flat, 3, axis=1) if flat.shape[1] == 1 else flat if flat.shape[1] == 3 else None
