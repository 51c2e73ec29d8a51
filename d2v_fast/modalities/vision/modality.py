"""The modality "vision" as one object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from d2v_fast import masking
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource, LoaderConfig, MaskMaker
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.protocol import DaliGraph
from d2v_fast.masking import Masks
from d2v_fast.masking.config import BlockMask, InverseBlockMask
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.drawing import Drawing, Histogram
from d2v_fast.modalities.patches import initialise_head
from d2v_fast.modalities.vision import pictures
from d2v_fast.modalities.vision.check import check
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.modalities.vision.describe import describe
from d2v_fast.modalities.vision.draw import draw
from d2v_fast.modalities.vision.encoder import VisionEncoder
from d2v_fast.modalities.vision.prepare import prepare
from d2v_fast.modalities.vision.sampling import PictureSampling
from d2v_fast.modalities.vision.suited import suited
from d2v_fast.models.config import ModelConfig


class Vision(Modality):
    """Pictures float32 [B, channels, height, width]."""

    name = "vision"
    embedding = VisionEmbedding
    inputs = VisionInputs
    masks = (BlockMask, InverseBlockMask)
    mixes = ("mixup", "cutmix")
    default_preset = "vision-base"
    size_width = 2

    def encoder(self, config: ModelConfig) -> VisionEncoder:
        """See `Modality.encoder`."""
        return VisionEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """Normal(0, 0.02) cut at one standard deviation, biases zero."""
        initialise_head(head)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """The grid (height, width) in patches."""
        side = embedding.image_size // embedding.patch_size
        return side, side

    def kind(self, inputs: Any | None = None) -> Kind:
        """Pictures."""
        return pictures.kind()

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes pictures."""
        return pictures.open_images(found, inputs, run=run, threads=threads)

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> tuple[int, ...]:
        """Height and width."""
        if sample.dtype != np.uint8 or sample.ndim not in (2, 3) or 0 in sample.shape:
            raise DataError(
                f"sample {number} is {sample.dtype} {list(sample.shape)}; a picture is uint8 [height, width] or "
                "[height, width, channels] (as a tensor: [channels, height, width]; values in [0, 1]: multiply by 255, "
                "round and convert)"
            )
        return sample.shape[1:] if planar and sample.ndim == 3 else sample.shape[:2]

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> PictureSampling:
        """Random crops."""
        return PictureSampling(inputs, embedding.image_size)

    def dali(self, inputs: Any, embedding: Any) -> Callable[[], DaliGraph]:
        """Decodes JPEG and PNG."""

        def make() -> DaliGraph:
            from d2v_fast.modalities.vision.dali import PictureGraph  # imports DALI

            return PictureGraph(inputs, embedding.image_size)

        return make

    def mask_maker(self, config: Config, source: DataSource) -> MaskMaker:
        """Blocks of patches."""
        mask, grid = config.mask, self.token_count(config.model.embedding, None)

        def make(inputs: Tensor, lengths: Tensor | None, sample_ids: np.ndarray, epoch: int) -> Masks:
            key: dict[str, Any] = {"seed": config.seed, "epoch": epoch, "sample_ids": sample_ids, "views": mask.views}
            if isinstance(mask, InverseBlockMask):
                return masking.inverse_block_masks(mask, grid, **key)
            return masking.block_masks(cast(BlockMask, mask), grid, **key)

        return make

    def check(self, config: Config) -> None:
        """See `check.check`."""
        check(config)

    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """See `d2v_fast.modalities.vision.prepare`."""
        return prepare(sample, inputs, embedding, name)

    def suited(self, source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """See `d2v_fast.modalities.vision.suited`."""
        return suited(source, config)

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """See `d2v_fast.modalities.vision.describe`."""
        return describe(source, inputs)

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """See `d2v_fast.modalities.vision.draw`."""
        return draw(source, config, batch)
