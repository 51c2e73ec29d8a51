"""What the encoders of all modalities share: four steps, embed, place, keep and run.

1. `embed`: inputs to local features [B, T, C]; the modality's.
2. `place`: positions, added to the features or as a bias on the attention scores; the modality's.
3. `keep`: which tokens the blocks see: all, those that are no padding, or a subset.
4. `run`: extra tokens (a class token), blocks, norm.

Extra tokens stand before each sequence inside `run` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v_fast import ops
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.samples import SampleFeatures
from d2v_fast.models.seen import keeps_padding, seen_tokens, valid_tokens, without_padding
from d2v_fast.modules.block import Block, BlockOutput
from d2v_fast.ops.attention import Choice, biased, choose
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.packing import Packing, to_device


class Layers(NamedTuple):
    """What a pass through the context network gives."""

    output: Tensor
    """[N, T, C] after the last norm, [M, C] if `rows` were asked for, or [K, C] of the kept tokens if it stays packed;
    without the extra tokens."""

    features: list[Tensor]
    """The features of the last blocks, [N, T, C] each, first layer first; without the extra tokens."""

    extra: Tensor | None = None
    """[N, E, C], the output at the extra tokens; None if there are none, or if `rows` were asked for."""


class Encoder(SampleFeatures):
    """Embedding, positions and context network; the subclasses name the modality.

    Attributes:
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        config: the embedding's configuration.
        inputs: how the run that the weights are from made inputs of samples; None if they are from no run.
        attention: the kernel for packed sequences, see `ops.attention`.
        encodes_kept: whether it is a student of data2vec 2.0, or the teacher of one: there is no mask token.
        extra_tokens: [E, C], learned tokens before each sequence; None if there are none (beside the modality's own).
    """

    def __init__(self, config: ModelConfig, embedding: nn.Module, *, norm: bool) -> None:
        """`norm` says whether the encoder has a norm of its own beside the blocks' (see `run`)."""
        super().__init__()
        self.config: Any = config.embedding
        self.inputs: Any = None
        network = config.transformer
        self.norm_first = network.norm_first
        self.dropout = network.dropout if network.input_dropout is None else network.input_dropout
        self.encodes_kept = config.encodes_kept
        self.heads = network.heads
        self.attention_dropout = network.attention_dropout
        self.checkpoint_activations = False
        self.attention: Choice = "auto"
        self.embedding = embedding
        self.norm = nn.LayerNorm(network.dim, network.norm_eps, dtype=torch.float32) if norm else None
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
                drop_path=network.drop_path * max(i - network.prenet, 0) / max(network.depth - network.prenet - 1, 1),
                layer_scale=network.layer_scale,
            )
            for i in range(network.depth)
        )
        tokens = torch.empty(network.extra_tokens, network.dim, dtype=torch.float32)
        self.extra_tokens = nn.Parameter(tokens.normal_()) if network.extra_tokens else None

    def embed(self, inputs: Tensor) -> Tensor:
        """Inputs to local features [B, T, C]: no mask, no dropout, no extra tokens; speech: no positions either.

        Raises:
            ValueError: if the inputs do not fit the model.
        """
        raise NotImplementedError

    def token_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Valid tokens of each row, from the valid samples (speech) or tokens (text).

        Raises:
            ValueError: if the modality has no padding.
        """
        return lengths

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | Distances | None]:
        """Positions; by default they are a part of the embedding.

        Args:
            x: masked local features [N, T, C].
            valid: bool [N, T], False for padding; None if there is none.

        Returns:
            The features [N, T, C], zero at the padding if positions read beyond their own token, and a bias on the
            attention scores: [1 or N, heads, E + T, E + T] with the E extra tokens first, the distances between tokens,
            or None.
        """
        return x, None

    def place_views(self, x: Tensor, valid: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor | Distances | None]:
        """Positions for V masked views of each sample, of which the blocks will see the kept tokens only.

        By default the positions of a token depend on no other token, and all views have the same.

        Args:
            x: local features [B, T, C].
            valid: bool [B, T], False for padding; None if there is none.
            mask: bool [B * V, T], what is hidden in each view; row b * V + v is view v of sample b.

        Returns:
            As `place`, with features [B, T, C] that all views of a sample share, or [B * V, T, C].
        """
        return self.place(x, valid)

    def shape(self, tokens: int) -> tuple[int, ...]:
        """How the tokens of a sequence lie: (T,), or (height, width) on a grid."""
        return (tokens,)

    def extra(self) -> Tensor | None:
        """[E, C], tokens that are put before each sequence; None if there are none."""
        return self.extra_tokens

    def keep(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        kept: Tensor | None = None,
        *,
        bias: bool = False,
        padding: bool = False,
        views: int = 1,
    ) -> Packing | Tensor | None:
        """Which tokens the blocks see.

        Args:
            x: placed features [N, T, C], or [N / views, T, C] that the views of a sample share.
            lengths: int64 [N], valid tokens of each row.
            kept: int64 [K] on the CPU, flat indices into N * T of the tokens that are kept, ascending and unique; as
                many of each row as one likes, padding only if it is computed. It decides alone, if it is given.
            bias: whether there is a bias on the attention scores.
            padding: whether padded positions are computed, too.
            views: rows of the blocks for each row of x.

        Returns:
            A packing of these tokens; or, where all tokens have to be computed, bool [N, T] of those that may be
            attended to; None if these are all.

        Raises:
            ValueError: if a kernel was asked for that does not work here, or `kept` does not fit.
            IndexError: if `kept` is out of range, not ascending or not unique.
        """
        return seen_tokens(
            x,
            lengths,
            kept,
            kernel=lambda subset: self._kernel(x, bias, subset),
            extra=0 if (extra := self.extra()) is None else len(extra),
            padding=padding,
            views=views,
        )

    def run(
        self,
        x: Tensor,
        bias: Tensor | Distances | None = None,
        seen: Packing | Tensor | None = None,
        *,
        rows: Tensor | None = None,
        last: int = 0,
        feature: Literal["ffn", "block"] = "block",
        skipped: Sequence[bool] | Tensor | None = None,
        packed: bool = False,
    ) -> Layers:
        """Extra tokens, blocks and norm.

        With `norm_first` the encoder's norm follows the last block, else it precedes the first one (text has it in its
        embedding then).

        Args:
            x: placed features [N, T, C], or [N / views, T, C] that the views of a sample share.
            bias: on the attention scores, from `place`.
            seen: what `keep` gave.
            rows: see `forward_layers`.
            last: see `forward_layers`.
            feature: see `forward_layers`.
            skipped: see `forward_layers`.
            packed: the output stays packed, [K, C], if `seen` is a packing.
        """
        if last and rows is not None:
            raise ValueError("run gives either features of all positions (last) or an output at rows, not both")
        length, dim = x.shape[1:]
        extra = self.extra()
        extra_tokens = 0 if extra is None else len(extra)
        packing = seen if isinstance(seen, Packing) else None
        scores: Tensor | Packing | Distances | None = bias
        if packing is not None:
            scores = packing if bias is None else packing.with_bias(bias)
            x = packing.pack(x, extra)
            rows = None if rows is None else packing.rows(rows)
        else:
            if isinstance(seen, Tensor) and seen.shape[0] != x.shape[0]:
                x = x.repeat_interleave(seen.shape[0] // x.shape[0], 0)
            if extra is not None:
                x = torch.cat([extra.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
                if isinstance(bias, Distances):
                    scores = bias = replace(bias, extra=extra_tokens)
            if rows is not None and extra_tokens:
                rows = rows + (rows // length + 1) * extra_tokens
            if isinstance(seen, Tensor):
                visible = F.pad(seen, (extra_tokens, 0), value=True) if extra_tokens else seen
                scores = biased(visible[:, None, None, :], bias)
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = F.dropout(x, self.dropout, self.training)
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
            result = self._block(block, x, scores, wanted)
            if isinstance(skip, Tensor):
                old = x if wanted is None else x.reshape(-1, dim).index_select(0, wanted)
                x = torch.where(skip, old, result.output)
            else:
                x = result.output
            if i >= depth - last:
                features.append(result.ffn if feature == "ffn" else x)
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        if packing is not None:
            output = x if rows is not None else packing.tokens(x) if packed else packing.unpack(x)
            tokens = None if rows is not None else packing.extra_tokens(x)
            return Layers(output, [packing.unpack(part) for part in features], tokens)
        tokens = None if rows is not None or extra is None else x[:, :extra_tokens]
        output = x if rows is not None else x[:, extra_tokens:]
        return Layers(output, [part[:, extra_tokens:] for part in features], tokens)

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
        kept: Tensor | None = None,
        rows: Tensor | None = None,
        last: int = 0,
        feature: Literal["ffn", "block"] = "block",
        padding: bool = False,
        skipped: Sequence[bool] | Tensor | None = None,
    ) -> Layers:
        """Mask, place, keep and run: from local features to the features of the blocks.

        Args:
            local: [N, T, C], what `embed` gave.
            lengths: int64 [N], valid tokens of each row; padding is not attended to. On the CPU, also for an encoder on
                a GPU, they let the blocks leave the padding out where a kernel for it works (see `attention`).
            mask: bool [N, T], positions replaced by the mask token.
            kept: int64 [K] on the CPU, flat indices into N * T of the tokens that the blocks see, see `keep`; None:
                all that are no padding.
            rows: int64 [M], flat indices into N * T: the output holds these positions only, and the last block's
                feed-forward network runs on no others.
            last: number of last blocks whose features are returned (of all positions, so not together with `rows`).
            feature: which features: of the feed-forward branch before the residual sum, or of the block's end.
            padding: whether features of padded positions are wanted, too, so that they cannot be left out.
            skipped: True for each block that is skipped (layer drop); None: none is. A bool tensor [depth] lets all
                blocks be computed and not used, for graphs that cannot branch.

        Returns:
            The output and the features, zero at tokens that were left out. A skipped block has no features.
        """
        x = local
        if mask is not None:
            token = self.embedding.get_parameter("mask_token")
            x = torch.where(mask.unsqueeze(2), token.to(x.dtype), x)
        x, bias = self.place(x, None if lengths is None else valid_tokens(lengths, x))
        seen = self.keep(x, lengths, kept, bias=bias is not None, padding=padding)
        return self.run(x, bias, seen, rows=rows, last=last, feature=feature, skipped=skipped)

    def encode_kept(
        self,
        local: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor,
        kept: Tensor,
        skipped: Sequence[bool] | Tensor | None = None,
    ) -> Layers:
        """The kept tokens of V masked views of each sample, encoded (data2vec 2.0).

        Args:
            local: [B, T, C], what `embed` gave, once for all views.
            lengths: int64 [B], valid tokens of each sample; see `forward_layers`.
            mask: bool [B * V, T], what is hidden from positions that look beyond their own token.
            kept: int64 [K] on the CPU, flat indices into B * V * T, see `keep`. Padding that is kept is encoded, and
                attended to by nothing.
            skipped: see `forward_layers`.

        Returns:
            The output [K, C] in the order of `kept`, and that at the extra tokens.
        """
        x, bias = self.place_views(local, None if lengths is None else valid_tokens(lengths, local), mask)
        views = len(mask) // len(local)
        each = None if lengths is None else lengths.repeat_interleave(views)
        if each is not None and keeps_padding(kept, each, local.shape[1]):
            extra = self.extra()
            bias = without_padding(bias, valid_tokens(each, local), 0 if extra is None else len(extra))
        seen = self.keep(x, each, kept, bias=bias is not None, padding=True, views=len(mask) // len(x))
        layers = self.run(x, bias, seen, skipped=skipped, packed=True)
        if isinstance(seen, Packing):
            return layers
        return layers._replace(output=layers.output.flatten(0, 1).index_select(0, to_device(kept, x.device)))

    def compile_blocks(self) -> None:
        """Let torch.compile make code of each block by itself, for any number of tokens.

        Attention stays out of it: it knows how many tokens each sequence has, and code would be made anew for each.
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.attend = torch.compiler.disable(ops.attention)
            block.path = torch.compiler.disable(block.drop_path_factor)
            block.compile(dynamic=True)

    def _kernel(self, x: Tensor, bias: bool, subset: bool) -> str:
        """The kernel for attention over packed tokens of x [N, T, C]."""
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        dropout = self.training and self.attention_dropout > 0
        width = x.shape[2] // self.heads
        return choose(self.attention, x.device, dtype, width, dropout=dropout, bias=bias, subset=subset).name

    def _block(
        self, block: nn.Module, x: Tensor, scores: Tensor | Packing | Distances | None, rows: Tensor | None
    ) -> BlockOutput:
        """One block; its activations are computed again in the backward pass if that was asked for."""
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            again: BlockOutput = checkpoint(block, x, scores, rows, use_reentrant=False)
            return again
        result: BlockOutput = block(x, scores, rows)
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
