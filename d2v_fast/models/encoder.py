"""What the encoders of all modalities share: embed, mask, positions, blocks, norm.

A modality brings its embedding and what it does between embedding and blocks (`enter`). Sequences are [N, T, C]; the
class token of images is at index 0 inside the blocks and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v_fast.models.config import ModelConfig
from d2v_fast.modules.block import Block, BlockOutput
from d2v_fast.ops.packed_attention import KERNELS, Choice, choose
from d2v_fast.ops.packing import Packing, plan_packing, to_device


class Layers(NamedTuple):
    """What a pass through the context network gives."""

    output: Tensor
    """[N, T, C] after the last norm, or [M, C] if `rows` were asked for; without the class token."""

    features: list[Tensor]
    """The kept features, [N, T, C] each, first layer first; without the class token."""


class Encoder(nn.Module):
    """Embedding, positions and context network; the subclasses name the modality.

    Attributes:
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        attention: the kernel for sequences of different lengths, see `modules.packed_attention`.
    """

    extra_tokens = 0
    """Tokens that `enter` puts before the sequence."""

    def __init__(self, config: ModelConfig, embedding: nn.Module, *, norm: bool) -> None:
        """`norm` says whether the encoder has a norm of its own beside the blocks' (see `forward_layers`)."""
        super().__init__()
        network = config.transformer
        self.norm_first = network.norm_first
        self.dropout = network.dropout
        self.heads = network.heads
        self.attention_dropout = network.attention_dropout
        self.checkpoint_activations = False
        self.attention: Choice = "auto"
        self.embedding = embedding
        self.norm = nn.LayerNorm(network.dim, network.norm_eps) if norm else None
        self.blocks = nn.ModuleList(
            Block(
                network.dim,
                network.heads,
                network.ffn_dim,
                norm_first=network.norm_first,
                norm_eps=network.norm_eps,
                key_bias=network.key_bias,
                dropout=network.dropout,
                attention_dropout=network.attention_dropout,
                activation_dropout=network.activation_dropout,
                drop_path=network.drop_path * i / max(network.depth - 1, 1),
                layer_scale=network.layer_scale,
            )
            for i in range(network.depth)
        )

    def embed(self, inputs: Tensor) -> Tensor:
        """Inputs to local features [B, T, C]: no mask, no dropout, no class token; speech: no positions either.

        Raises:
            ValueError: if the inputs do not fit the model.
        """
        raise NotImplementedError

    def token_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Valid tokens of each row, from the valid samples (speech) or tokens (text)."""
        return lengths

    def enter(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Positions and extra tokens; by default there are none, or the positions are a part of the embedding.

        Args:
            x: masked local features [N, T, C].
            valid: bool [N, T], False for padding; None if there is none.

        Returns:
            What the blocks see, [N, extra_tokens + T, C], and the bias on their attention scores.
        """
        return x, None if valid is None else valid[:, None, None, :]

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features of whole inputs.

        Args:
            inputs: waveforms [B, samples], images [B, channels, height, width] or tokens int64 [B, T].
            lengths: int64 [B], valid samples or tokens of each row; None if all rows are full.

        Returns:
            [B, T, C]; what stands at padded positions means nothing.
        """
        return self.forward_layers(self.embed(inputs), self.token_lengths(lengths)).output

    def forward_layers(
        self,
        local: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        keep: int = 0,
        feature: Literal["ffn", "block"] = "block",
        padding: bool = False,
        skipped: Sequence[bool] | Tensor | None = None,
    ) -> Layers:
        """Run the context network on local features.

        With `norm_first` the encoder's norm follows the last block, else it precedes the first one (text has it in its
        embedding then).

        Args:
            local: [N, T, C], what `embed` gave.
            lengths: int64 [N], valid tokens of each row; padding is not attended to. On the CPU, also for an encoder on
                a GPU, they let the blocks leave the padding out where a kernel for it works (see `attention`).
            mask: bool [N, T], positions replaced by the mask token.
            rows: int64 [M], flat indices into N * T: the output holds these positions only, and the last block's
                feed-forward network runs on no others.
            keep: number of last blocks whose features are returned (of all positions, so not together with `rows`).
            feature: which features: of the feed-forward branch before the residual sum, or of the block's end.
            padding: whether features of padded positions are wanted, too, so that they cannot be left out.
            skipped: True for each block that is skipped (layer drop); None: none is. A bool tensor [depth] lets all
                blocks be computed and not used, for graphs that cannot branch.

        Returns:
            The output and the kept features, zero at the padding that was left out. A skipped block has no features.
        """
        if keep and rows is not None:
            raise ValueError(
                "forward_layers gives either features of all positions (keep) or an output at rows, not both"
            )
        length, dim = local.shape[1:]
        x = local
        if mask is not None:
            token = self.embedding.get_parameter("mask_token")
            x = torch.where(mask.unsqueeze(2), token.to(x.dtype), x)
        valid = None
        if lengths is not None:
            valid = torch.arange(length, device=x.device) < to_device(lengths, x.device).unsqueeze(1)
        bias: Tensor | Packing | None
        x, bias = self.enter(x, valid)
        packing = None
        if lengths is not None and lengths.is_cpu and not torch.compiler.is_compiling():  # known without waiting
            if lengths.numel() and lengths.min() >= length:
                bias = None  # nothing is padding
            elif not padding:
                packing = self._packing(lengths, x)
        if packing is not None:
            x, bias = packing.pack(x), packing
            rows = None if rows is None else packing.rows(rows)
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = F.dropout(x, self.dropout, self.training)
        if rows is not None and self.extra_tokens:
            rows = rows + (rows // length + 1) * self.extra_tokens
        depth = len(self.blocks)
        if skipped is not None and len(skipped) != depth:
            raise ValueError(f"skipped names {len(skipped)} blocks, but the network has {depth}")
        features: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            wanted = rows if i == depth - 1 else None
            skip = False if skipped is None else skipped[i]
            if skip is True:
                if wanted is not None:
                    x = x.reshape(-1, dim).index_select(0, wanted)
                continue
            result = self._run(block, x, bias, wanted)
            if isinstance(skip, Tensor):
                old = x if wanted is None else x.reshape(-1, dim).index_select(0, wanted)
                x = torch.where(skip, old, result.output)
            else:
                x = result.output
            if i >= depth - keep:
                features.append((result.ffn if feature == "ffn" else x)[:, self.extra_tokens :])
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        if packing is not None:
            return Layers(x if rows is not None else packing.unpack(x), [packing.unpack(kept) for kept in features])
        return Layers(x if rows is not None else x[:, self.extra_tokens :], features)

    def _packing(self, lengths: Tensor, x: Tensor) -> Packing | None:
        """How the blocks leave the padding of x [N, T, C] out; None if they do not."""
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        dropout = self.training and self.attention_dropout > 0
        kernel = choose(self.attention, x.device, dtype, x.shape[2] // self.heads, dropout=dropout).name
        return None if kernel == "sdpa" else plan_packing(lengths, x.shape[1], x.device, KERNELS[kernel])

    def _run(self, block: nn.Module, x: Tensor, bias: Tensor | Packing | None, rows: Tensor | None) -> BlockOutput:
        """One block."""
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            again: BlockOutput = checkpoint(block, x, bias, rows, use_reentrant=False)
            return again
        result: BlockOutput = block(x, bias, rows)
        return result


def require_floating(inputs: Tensor, shape: str, dims: int) -> None:
    """Refuse inputs of the wrong kind.

    Raises:
        ValueError: if `inputs` has another number of dimensions.
        TypeError: if it is not floating point.
    """
    if inputs.dim() != dims:
        raise ValueError(f"inputs must be {shape}, got a tensor of shape {list(inputs.shape)}")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs must be floating point, got {inputs.dtype}: convert and normalise them first")
