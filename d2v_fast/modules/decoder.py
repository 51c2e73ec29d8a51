"""The decoder of data2vec 2.0: convolutions over kept tokens and noise, from which what was hidden is predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v_fast import ops
from d2v_fast.modules.linear import Linear


class Decoder(nn.Module):
    """Grouped convolutions over time or over a grid, each with LayerNorm, GELU and residual, then linear maps.

    The weights have torch's own initialisation, as released for speech and images.

    Attributes:
        checkpoint_activations: compute each layer again in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        dim: int,
        *,
        axes: int,
        width: int,
        layers: int,
        kernel: int,
        groups: int,
        residual: bool = True,
        hidden: Sequence[int] = (),
        input_dropout: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        """A decoder of tokens of width `dim`.

        Args:
            dim: C, of the encoder and of the predictions.
            axes: 1 for sequences, 2 for grids.
            width: of the convolutions.
            layers: convolutions.
            kernel: positions that each of them sees along an axis.
            groups: of each of them; divides `dim` and `width`.
            residual: add a layer's input where its width is that of its output.
            hidden: widths of the hidden layers between the linear maps at the end.
            input_dropout: on the tokens.
            noise: standard deviation of what stands at the hidden positions.
        """
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
        self.groups, self.residual = groups, residual
        self.input_dropout, self.noise = input_dropout, noise
        self.checkpoint_activations = False
        self.convolutions = nn.ModuleList(
            convolution(width if i else dim, width, kernel, groups=groups, dtype=torch.float32) for i in range(layers)
        )
        sizes = [width, *hidden, dim]
        self.projection = nn.ModuleList(
            Linear(inputs, outputs, dtype=torch.float32) for inputs, outputs in pairwise(sizes)
        )

    def forward(
        self,
        tokens: Tensor,
        kept: Tensor,
        shape: Sequence[int],
        rows: Tensor,
        noise: Tensor | None = None,
        *,
        samples: int,
    ) -> Tensor:
        """Predict at `rows`.

        Args:
            tokens: [K, C], the encoder's output.
            kept: int64 [K], where they stand among the N sequences of T positions, flat, ascending.
            shape: of a sequence, (T,) or (height, width).
            rows: int64 [M], flat indices into N * T, where predictions are wanted.
            noise: [N * T - K, C], what stands at the other positions, in their order; None: it is drawn, in each
                forward pass, also in eval mode, from torch's global generator.
            samples: N.

        Returns:
            [M, C].
        """
        tokens = F.dropout(tokens, self.input_dropout, self.training)
        positions = math.prod(shape)
        if noise is None:
            noise = tokens.new_empty(samples * positions - len(tokens), tokens.shape[1])
            noise = noise.normal_(std=self.noise) if self.noise else noise.zero_()
        x = ops.restore(tokens, kept, noise.to(tokens.dtype), samples, positions)
        x = x.view(samples, *shape, -1)
        for convolution in self.convolutions:
            x = self._layer(convolution, x)
        x = x.flatten(0, -2).index_select(0, rows)
        for i, linear in enumerate(self.projection):
            assert isinstance(linear, nn.Linear)
            x = ops.gelu_linear(x, linear.weight, linear.bias) if i else linear(x)
        return x

    def _layer(self, convolution: nn.Module, x: Tensor) -> Tensor:
        weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(
                ops.decoder_layer, x, weight, bias, self.groups, self.residual, use_reentrant=False
            )
            return again
        return ops.decoder_layer(x, weight, bias, self.groups, self.residual)
