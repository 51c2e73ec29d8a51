"""A data2vec encoder that was trained with d2v_fast, for torch and transformers alone.

This file travels with the weights: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`. Tensors have the
names of the library that trained them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, SequenceClassifierOutput

from .configuration_d2v_fast import D2vFastConfig
from .positions_d2v_fast import Alibi, PositionConvolutions, RelativePositions, sincos


class Attention(nn.Module):
    """Self-attention with one projection for query, key and value."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.key_bias)
        self.q_bias = None if config.key_bias else nn.Parameter(torch.zeros(dim))
        self.v_bias = None if config.key_bias else nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """[B, S, C] to the same; `bias` is added to the scores, or says what may be attended to."""
        batch, length, dim = x.shape
        own: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            own = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = F.linear(x, self.qkv.weight, own).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, dim))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = config.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] to the same."""
        return self.down(F.dropout(F.gelu(self.up(x)), self.dropout, self.training))


class Block(nn.Module):
    """Attention and a feed-forward network, each a residual branch; norms before the branches or after the sums."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.norm_first, self.dropout = config.norm_first, config.dropout
        self.attention, self.attention_norm = Attention(config), nn.LayerNorm(dim, eps)
        self.ffn, self.ffn_norm = FeedForward(config), nn.LayerNorm(dim, eps)
        self.attention_scale = nn.Parameter(torch.ones(dim)) if config.layer_scale else None
        self.ffn_scale = nn.Parameter(torch.ones(dim)) if config.layer_scale else None

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """[B, S, C] to the same."""
        branch = self.attention(self.attention_norm(x) if self.norm_first else x, bias)
        x = x + self._drop(branch, self.attention_scale)
        if not self.norm_first:
            x = self.attention_norm(x)
        branch = self.ffn(self.ffn_norm(x) if self.norm_first else x)
        x = x + self._drop(branch, self.ffn_scale)
        return x if self.norm_first else self.ffn_norm(x)

    def _drop(self, branch: Tensor, scale: Tensor | None) -> Tensor:
        return F.dropout(branch if scale is None else scale * branch, self.dropout, self.training)


class ConvolutionBlock(nn.Module):
    """Strided convolution over time, norm, GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.norm = nn.LayerNorm(outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, inputs] to [B, T, outputs]."""
        return F.gelu(self.norm(F.conv1d(x.transpose(1, 2), self.weight, stride=self.stride).transpose(1, 2)))


class Frames(nn.Module):
    """A signal to frames."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        sizes = [config.channels, *(layer[0] for layer in config.conv_layers)]
        self.convolutions = nn.ModuleList(
            ConvolutionBlock(inputs, *layer) for inputs, layer in zip(sizes, config.conv_layers, strict=False)
        )
        self.norm, self.projection = nn.LayerNorm(sizes[-1]), nn.Linear(sizes[-1], config.hidden_size)
        self.mask_token = None if config.second else nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, channels] to [B, T, C]."""
        for convolution in self.convolutions:
            x = convolution(x)
        return self.projection(self.norm(x))


class Patches(nn.Module):
    """A picture to patches, row by row."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        patch = tuple(config.patch)
        self.patches = nn.Conv2d(config.channels, config.hidden_size, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.mask_token = None if config.second else nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, height, width] to [B, T, C]."""
        return self.patches(x).flatten(2).transpose(1, 2)


class Tokens(nn.Module):
    """Token ids to vectors; positions are counted over what is no padding."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        dim, self.pad = config.hidden_size, config.pad_token_id
        self.tokens = nn.Embedding(config.vocab_size, dim, padding_idx=self.pad)
        self.positions = nn.Embedding(config.longest + self.pad + 1, dim, padding_idx=self.pad)
        self.norm = nn.LayerNorm(dim, 1e-5 if config.second else config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Int64 [B, T] to [B, T, C]."""
        real = x != self.pad
        return self.norm(self.tokens(x) + self.positions(real.cumsum(1) * real + self.pad))


class D2vFastModel(PreTrainedModel):
    """Features [B, T, C] as `last_hidden_state`, without the class token; what stands at padding means nothing."""

    config_class = D2vFastConfig
    base_model_prefix = "encoder"

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__(config)
        kind = config.kind
        parts = {"signal": Frames, "patches": Patches, "tokens": Tokens}
        self.main_input_name = {"signal": "input_values", "patches": "pixel_values", "tokens": "input_ids"}[kind]
        self.embedding: Any = parts[kind](config)
        if kind == "signal" or (kind == "tokens" and config.position_depth):
            self.positions: Any = PositionConvolutions(config)
        elif kind == "patches" and config.positions == "relative":
            height, width = (side // part for side, part in zip(config.size, config.patch, strict=True))
            self.positions = RelativePositions(height, width, config.num_attention_heads)
        self.alibi = Alibi(config.num_attention_heads) if config.alibi else None
        tokens = nn.Parameter(torch.zeros(config.extra_tokens, config.hidden_size)) if config.extra_tokens else None
        self.extra_tokens = tokens
        has_norm = kind != "tokens" or config.norm_first
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if has_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> BaseModelOutput:
        """Features.

        Args:
            input_values: Signals [B, samples] or [B, samples, channels].
            pixel_values: Pictures [B, channels, height, width], or spectrograms [B, frames, bins].
            input_ids: int64 [B, T].
            attention_mask: [B, samples, frames or T], 1 for what is no padding, which comes last.
            output_hidden_states: Return what each block gives, too.
            return_dict: Not used: a `BaseModelOutput` is returned.
            **unused: For processors that give more.
        """
        config = self.config
        given = {"signal": input_values, "patches": pixel_values, "tokens": input_ids}[config.kind]
        if given is None:
            raise ValueError(f"this model takes {self.main_input_name}")
        lengths = None if attention_mask is None else attention_mask.sum(1)
        x, valid, bias = self._placed(given, lengths)
        before = [self.embedding.class_token[None]] if config.kind == "patches" else []
        before += [] if self.extra_tokens is None else [self.extra_tokens]
        extra, length = sum(map(len, before)), x.shape[1]
        if before:
            x = torch.cat([torch.cat(before).expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        if self.alibi is not None:
            bias = self.alibi(length, extra).to(x.dtype)
        if valid is not None:
            seen = F.pad(valid, (extra, 0), value=True)[:, None, None, :]
            bias = seen if bias is None else bias.masked_fill(~seen, -torch.inf)
        if self.norm is not None and not config.norm_first:
            x = self.norm(x)
        x = F.dropout(x, config.input_dropout, self.training)
        hidden = []
        for block in self.blocks:
            x = block(x, bias)
            hidden.append(x[:, extra:])
        if self.norm is not None and config.norm_first:
            x = self.norm(x)
        return BaseModelOutput(
            last_hidden_state=x[:, extra:], hidden_states=tuple(hidden) if output_hidden_states else None
        )

    def _placed(self, given: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embedded and placed tokens, which of them are no padding, and a bias on the scores."""
        config = self.config
        if config.kind == "signal":
            x = self.embedding(given if given.dim() == 3 else given.unsqueeze(2))
            valid = self._valid(x, lengths)
            if valid is not None and not config.second:
                x = torch.where(valid.unsqueeze(2), x, 0.0)
            return x + self.positions(x), valid, None
        if config.kind == "tokens":
            x = self.embedding(given)
            valid = self._valid(x, lengths)
            if valid is not None and not config.second:
                x = torch.where(valid.unsqueeze(2), x, 0.0)
            return x + self.positions(x) if config.position_depth else x, valid, None
        (high, wide), picture = config.patch, given if given.dim() == 4 else given.unsqueeze(1)
        x = self.embedding(picture)
        valid = self._valid(x, lengths)
        if config.positions == "relative":
            return x, valid, self.positions().to(x.dtype)
        grid = (picture.shape[2] // high, picture.shape[3] // wide)
        return x + sincos(*grid, config.hidden_size, x), valid, None

    def _valid(self, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Bool [B, T] of tokens that are no padding."""
        if lengths is None:
            return None
        if self.config.kind == "signal":
            for _, kernel, stride in self.config.conv_layers:
                lengths = (lengths - kernel) // stride + 1
        elif self.config.kind == "patches":
            lengths = lengths // self.config.patch[0] * (self.config.size[1] // self.config.patch[1])
        return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


class Head(nn.Module):
    """Features to outputs: pooled, unless `frames`, a norm, a hidden layer, a linear map; lin_softmax pools last."""

    def __init__(self, config: D2vFastConfig, outputs: int, *, frames: bool) -> None:
        super().__init__()
        dim, weighted = config.hidden_size, config.pooled_layers == "weighted"
        self.layers, self.pooling = config.pooled_layers, "none" if frames else config.pooling
        self.dropout = config.classifier_dropout
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers)) if weighted else None
        self.norm = nn.LayerNorm(dim, 1e-6) if config.pooled_norm else None
        self.hidden = nn.Linear(dim, dim) if config.pooled_hidden else None
        self.output = nn.Linear(dim, outputs)

    def forward(self, output: Tensor, blocks: tuple[Tensor, ...], valid: Tensor | None) -> Tensor:
        """[B, T, C] of the encoder and of each block, and bool [B, T] of what is no padding, to [B, K] or [B, T, K]."""
        x = blocks[-1] if self.layers == "block" else output
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0)
            x = torch.stack([share * layer for share, layer in zip(shares, blocks, strict=True)]).sum(0)
        if self.pooling == "first":
            x = x[:, 0]
        elif self.pooling == "mean" and valid is None:
            x = x.mean(1)
        elif self.pooling == "mean" and valid is not None:
            x = torch.where(valid[:, :, None], x, 0.0).sum(1) / valid.sum(1, keepdim=True)
        if self.norm is not None:
            x = self.norm(x)
        if self.hidden is not None:
            x = torch.tanh(self.hidden(F.dropout(x, self.dropout, self.training)))
        x = self.output(F.dropout(x, self.dropout, self.training))
        if self.pooling != "lin_softmax":
            return x
        yes, no = F.logsigmoid(x), F.logsigmoid(-x)
        if valid is not None:
            yes = yes.masked_fill(~valid[:, :, None], -torch.inf)
            no = no.masked_fill(~valid[:, :, None], 0.0)
        return torch.logsumexp(2 * yes, dim=1) - torch.logsumexp(yes + no, dim=1)


class _WithHead(PreTrainedModel):
    """An encoder and a head on it."""

    config_class = D2vFastConfig
    base_model_prefix = "encoder"

    def __init__(self, config: D2vFastConfig, outputs: Any, *, frames: bool) -> None:
        super().__init__(config)
        self.encoder = D2vFastModel(config)
        self.main_input_name = self.encoder.main_input_name
        self.head = Head(config, outputs, frames=frames)
        self.post_init()

    def logits(self, attention_mask: Tensor | None, given: dict[str, Any]) -> Tensor:
        """The outputs; `given` as `D2vFastModel` takes it."""
        encoded = self.encoder(**given, attention_mask=attention_mask, output_hidden_states=True)
        lengths = None if attention_mask is None else attention_mask.sum(1)
        x = encoded.last_hidden_state
        return self.head(x, encoded.hidden_states, self.encoder._valid(x, lengths))


class D2vFastForCTC(_WithHead):
    """`logits` [B, T, symbols] of frames; the blank is symbol 0, and what stands at padding means nothing."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__(config, config.vocab_size, frames=True)

    def forward(
        self,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unused: Any,
    ) -> CausalLMOutput:
        """Arguments as `D2vFastModel` takes them; there is no loss."""
        given = {"input_values": input_values, "pixel_values": pixel_values, "input_ids": input_ids}
        return CausalLMOutput(logits=self.logits(attention_mask, given))


class D2vFastForClassification(_WithHead):
    """`logits` [B, classes] before a softmax (or sigmoids, for `multi_label_classification`), or values [B, 1]."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__(config, config.num_labels, frames=False)

    def forward(
        self,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Arguments as `D2vFastModel` takes them; there is no loss."""
        given = {"input_values": input_values, "pixel_values": pixel_values, "input_ids": input_ids}
        return SequenceClassifierOutput(logits=self.logits(attention_mask, given))
