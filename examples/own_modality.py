"""A modality of one's own: sets of points with given positions. Here: handwritten digits as inked points on a plane.

    python examples/own_modality.py runs/points

A sample is a set of any size, float32 [points, 3]: y, x and ink. The student is told where all points are and has to
say what the teacher sees at those whose ink is hidden. Nothing in the package knows of points: all that belongs to
them is the object `Points`, made known by `register`; loader, trainer, checkpoints and probes are the library's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from d2v_fast import Data2VecTrainer, modalities, presets, rng
from d2v_fast.config import Config
from d2v_fast.evaluation import extract, knn_accuracy

HIDDEN = -1.0
"""The ink of a point that is masked; real ink is never negative."""


@dataclass(frozen=True, kw_only=True)
class PointEmbedding(modalities.EmbeddingConfig):
    """Points to tokens: the ink by a linear map, the position by sines and cosines and another one."""

    modality: ClassVar[str] = "points"

    waves: int = 8
    """Frequencies for each coordinate."""


@dataclass(frozen=True, kw_only=True)
class PointInputs(modalities.InputsConfig):
    """How a set of points becomes an input."""

    modality: ClassVar[str] = "points"

    side: float = 8.0
    """Of the plane; coordinates are divided by it."""


@dataclass(frozen=True, kw_only=True)
class PointMask(modalities.MaskConfig):
    """Hides the ink of single points."""

    ratio: float = 0.6
    """Share of a set's points, rounded down."""


class PointTokens(nn.Module):
    """[B, N, 3] to [B, N, C]."""

    def __init__(self, waves: int, dim: int) -> None:
        super().__init__()
        self.ink, self.position = nn.Linear(1, dim), nn.Linear(4 * waves, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.register_buffer("frequencies", torch.pi * torch.logspace(0, 3, waves, base=2), persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        angles, ink = (points[..., :2, None] * self.get_buffer("frequencies")).flatten(2), points[..., 2:]
        seen = torch.where(ink == HIDDEN, self.mask_token, self.ink(ink))
        return seen + self.position(torch.cat([angles.sin(), angles.cos()], dim=-1))


class PointEncoder(modalities.Encoder):
    """Points to features; the positions are a part of the input, so there is nothing left to place."""

    def __init__(self, config: modalities.ModelConfig, embedding: PointEmbedding) -> None:
        super().__init__(config, PointTokens(embedding.waves, config.transformer.dim), norm=True)
        self.config = embedding

    def embed(self, inputs: Tensor) -> Tensor:
        return self.embedding(inputs)


class Points(modalities.Modality):
    """Sets of points, float32 [points, 3]."""

    name, embedding, inputs, masks, masks_inputs = "points", PointEmbedding, PointInputs, (PointMask,), True

    def encoder(self, config: modalities.ModelConfig) -> PointEncoder:
        return PointEncoder(config, config.embedding)

    def token_count(self, embedding: PointEmbedding, size: Any) -> Any:
        return size  # a token for each point

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> int:
        if sample.ndim != 2 or sample.shape[1] != 3 or len(sample) == 0:
            raise modalities.DataError(f"sample {number} has shape {sample.shape}; points are [points, 3]: y, x, ink")
        return len(sample)

    def prepare(self, sample: Any, inputs: PointInputs, embedding: PointEmbedding, *, name: str = "sample") -> Tensor:
        return torch.as_tensor(sample, dtype=torch.float32) / torch.tensor([inputs.side, inputs.side, 1.0])

    def sampling(self, inputs: PointInputs, embedding: PointEmbedding, config: Any) -> modalities.Sampling:
        return modalities.WholeSampling(lambda sample, name: self.prepare(sample, inputs, embedding), entry=(3,))

    def mask_maker(self, config: Config, source: modalities.DataSource) -> modalities.MaskMaker:
        def make(inputs: Tensor, lengths: Tensor | None, ids: np.ndarray, epoch: int) -> modalities.Masks:
            width, ratio = inputs.shape[1], config.mask.ratio
            count = torch.full((len(ids),), width) if lengths is None else lengths
            draws = torch.from_numpy(rng.uniform(config.seed, "points", epoch, ids, width))
            draws[torch.arange(width) >= count[:, None]] = 2.0  # padding comes last
            masked = draws.argsort(1).argsort(1) < (ratio * count).long()[:, None]
            hidden = inputs.clone()
            hidden[..., 2][masked] = HIDDEN
            return modalities.Masks(masked, masked.flatten().nonzero()[:, 0], hidden)

        return make


modalities.register(Points())


def digits() -> tuple[list[np.ndarray], np.ndarray]:
    """The points with ink of handwritten digits, y and x in 0 to 7 and ink in (0, 1], and what digits they are."""
    from sklearn.datasets import load_digits

    images, labels = load_digits().images / 16, load_digits().target
    return [np.column_stack([*image.nonzero(), image[image > 0]]).astype(np.float32) for image in images], labels


def main() -> None:
    """Pretrain, then hold the features against those of the random start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    recipe = presets.vision_tiny()  # the network, optimizer and teacher of another small recipe
    model = replace(recipe.model, embedding=PointEmbedding())
    config = replace(recipe, model=model, mask=PointMask(), inputs=PointInputs(), steps=args.steps)
    (sets, labels), train = digits(), 1200
    trainer = Data2VecTrainer(config, data=sets[:train], out=args.out)
    for when in ("random start", "trained"):
        features = extract(trainer.model.student.encoder, sets, config.inputs)
        found = knn_accuracy(features[:train], labels[:train], features[train:], labels[train:])
        print(f"{when}: nearest neighbours name {found:.1%} of the other {len(sets) - train} digits")
        if when == "random start":
            trainer.fit()


if __name__ == "__main__":
    main()
