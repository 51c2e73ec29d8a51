"""What encoders of patches on a grid share: pictures, spectrograms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import InverseBlockMask
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder
from d2v_fast.modules.embedding import Patches


class PatchEncoder(Encoder):
    """Patches, a class token, context network; a subclass has the positions.

    Args:
        config: Of the model.
        size: Height and width of the largest input.
        patch: Height and width of a patch.
        channels: Of the input.
    """

    def __init__(self, config: ModelConfig, size: tuple[int, int], patch: tuple[int, int], channels: int) -> None:
        patches = Patches(size, patch, channels, config.transformer.dim, mask_token=not config.encodes_kept)
        super().__init__(config, patches, norm=True)
        self.grid = patches.grid
        if config.encodes_kept:
            self._initialise_as_mae()
        else:
            self._initialise()

    def _initialise(self) -> None:
        """Normal(0, 0.02) cut at one standard deviation; ends of branches are scaled down with depth, as in BEiT."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                truncated_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        truncated_normal_(self.embedding.get_parameter("class_token"))
        truncated_normal_(self.embedding.get_parameter("mask_token"))
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                for name in ("attention.out.weight", "ffn.down.weight"):
                    block.get_parameter(name).div_(math.sqrt(2 * number))

    def _initialise_as_mae(self) -> None:
        """data2vec 2.0: normal(0, 0.02), the class token normal(0, 1), patches as MAE's, their bias torch's own."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        weight = self.embedding.get_parameter("patches.weight")
        with torch.no_grad():
            nn.init.xavier_uniform_(weight.flatten(1))
        nn.init.normal_(self.embedding.get_parameter("class_token"))

    def shape(self, tokens: int) -> tuple[int, ...]:
        """(height, width) in patches."""
        return tokens // self.grid[1], self.grid[1]

    def extra(self) -> Tensor:
        """The class token, and further ones behind it."""
        token = self.embedding.get_parameter("class_token").unsqueeze(0)
        return token if self.extra_tokens is None else torch.cat([token, self.extra_tokens])


def check_kept(mask: InverseBlockMask, patches: int, whose: str) -> None:
    """Some patches are kept, and some are masked.

    Args:
        mask: How many of them.
        patches: How many there are.
        whose: They are, for messages: "of the model".

    Raises:
        ConfigError: All are kept, or all are masked.
    """
    kept = int(patches * (1 - mask.ratio))
    if not 1 <= kept < patches:
        what = "nothing would be kept" if kept < 1 else "nothing would be masked"
        raise ConfigError(f"mask.ratio is {mask.ratio}: of the {patches} patches {whose} {what}")


def check_block(mask: InverseBlockMask, grid: tuple[int, int], whose: str) -> None:
    """A block fits into the grid.

    Args:
        mask: Its blocks.
        grid: Height and width in patches.
        whose: The grid is, for messages: "of the model".

    Raises:
        ConfigError: It does not.
    """
    if mask.block > min(grid):
        raise ConfigError(
            f"mask.block is {mask.block}, but the grid {whose} has only {grid[0]} x {grid[1]} patches: lower mask.block"
        )


def initialise_head(head: nn.Module) -> None:
    """Normal(0, 0.02) cut at one standard deviation, biases zero."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            truncated_normal_(module.weight)
            nn.init.zeros_(module.bias)


def truncated_normal_(weight: Tensor, std: float = 0.02) -> None:
    """Fill from a normal distribution of deviation `std`, cut at -std and std, as the released vision code does."""
    nn.init.trunc_normal_(weight, std=std, a=-std, b=std)
