"""Pictures to be looked at: as they are stored with their crops, the crops, and the crops with masked patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import MOST_VIEWS, Drawing, Picture, Row, of_views
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PictureSampling
from d2v_fast.models import token_count

if TYPE_CHECKING:
    from d2v_fast.config import Config


def draw(source: DataSource, config: Config, batch: Batch) -> Drawing:
    """All pictures of a batch.

    Args:
        source: Where the batch is from.
        config: Its inputs and seed.
        batch: Of epoch 0, with masks.

    Raises:
        SampleError: A picture cannot be read again.
    """
    assert batch.mask is not None
    inputs = cast(VisionInputs, config.inputs)
    grid = cast(tuple[int, int], token_count(config.model, None))
    ids = batch.sample_ids.numpy()
    plan = PictureSampling(inputs, grid[0]).draw(np.asarray(source.sizes)[ids], ids, 0, config.seed, 0)
    crops = _as_seen(batch.inputs, inputs)
    masks = batch.mask.view(-1, batch.views, *grid).numpy()
    stored = []
    for i, sample in enumerate(ids.tolist()):
        whole = _as_stored(source.read(sample))
        mirrored = ", mirrored" if plan.flips[i] else ""
        title = f"{whole.shape[1]} x {whole.shape[0]}{mirrored}"
        top, left, height, width = plan.boxes[i].tolist()
        stored.append(Picture(pixels=whole, title=title, frame=(top, left, height, width)))
    views = min(batch.views, MOST_VIEWS)
    return Drawing(
        title=f"{masks.mean():.0%} of {grid[0]} x {grid[1]} patches masked{of_views(batch.views)}",
        rows=(
            Row(label="stored, with its crop", panels=tuple(stored)),
            Row(label="the teacher sees", panels=tuple(Picture(pixels=crop) for crop in crops)),
            *(
                Row(
                    label="the student sees" if view == 0 else f"in view {view + 1}",
                    panels=tuple(
                        Picture(pixels=crop, mask=seen[view]) for crop, seen in zip(crops, masks, strict=True)
                    ),
                )
                for view in range(views)
            ),
        ),
    )


def _as_seen(images: Tensor, inputs: VisionInputs) -> np.ndarray:
    """The standardisation taken back: float [B, S, S] or [B, S, S, 3], in [0, 1]."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None] for values in (inputs.mean, inputs.std)
    )
    seen = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return _three(seen)


def _as_stored(picture: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3], of what a source reads."""
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).numpy() if picture.ndim == 3 else picture.numpy()
    return _three(np.asarray(picture)) if picture.ndim == 3 else np.asarray(picture)


def _three(pictures: np.ndarray) -> np.ndarray:
    """[..., channels] with the first three channels, or the only one without its dimension."""
    return pictures[..., :3] if pictures.shape[-1] > 2 else pictures[..., 0]
