"""The networks of data2vec 1.0 as the released code arranges them, for reference_step.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.models.config import ModelConfig


class TransposeLast(nn.Module):
    """Channels last, or back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(-2, -1)


class Attention(nn.Module):
    """torch's multi-head attention with a projection each for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x [T, B, C], padding bool [B, T] or None."""
        return F.multi_head_attention_forward(
            x, x, x, x.shape[2], self.heads, torch.empty([0]),
            torch.cat((self.q_proj.bias, self.k_proj.bias, self.v_proj.bias)), None, None, False, 0.0,
            self.out_proj.weight, self.out_proj.bias, self.training, padding, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )[0]  # fmt: skip


class PostNormLayer(nn.Module):
    """fairseq's layer: its output, and what comes out of the feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, hidden = config.transformer.dim, config.transformer.ffn_dim
        self.self_attn = Attention(dim, config.transformer.heads)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.self_attn_layer_norm(x + self.self_attn(x, padding))
        feature = self.fc2(F.gelu(self.fc1(x)))
        return self.final_layer_norm(x + feature), feature


def layers_of(config: ModelConfig) -> nn.ModuleList:
    return nn.ModuleList(PostNormLayer(config) for _ in range(config.transformer.depth))


def run(layers: Iterable[nn.Module], x: Tensor, padding: Tensor | None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """[B, T, C] through the layers; the results of all of them, [T, B, C]."""
    x, results = x.transpose(0, 1), []
    for layer in layers:
        x, feature = layer(x, padding)
        results.append((x, feature))
    return x.transpose(0, 1), results


class SpeechEncoder(nn.Module):
    """Convolutional positions and the transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, embedding = config.transformer.dim, config.embedding
        kernel, groups = embedding.position_kernel, embedding.position_groups
        self.pos_conv = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups),
                    TransposeLast(), nn.LayerNorm(dim, elementwise_affine=False), TransposeLast(), nn.GELU(),
                )
                for _ in range(embedding.position_depth)
            ]
        )  # fmt: skip
        self.layers, self.layer_norm = layers_of(config), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        x = self.layer_norm(x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2))
        more, padding = x.shape[1] % 2, None  # an even number of frames is asked for
        if more:
            x = F.pad(x, (0, 0, 0, 1))
            padding = x.new_zeros(x.shape[:2], dtype=torch.bool)
            padding[:, -1] = True
        x, results = run(self.layers, x, padding)
        return (x[:, :-1], [(a[:-1], b[:-1]) for a, b in results]) if more else (x, results)


class Speech(nn.Module):
    """fairseq's data2vec_audio."""

    averaged, copied = "encoder", ("pos_conv",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, width, blocks = config.transformer.dim, 1, []
        for channels, kernel, stride in config.embedding.conv_layers:
            norm = nn.Sequential(TransposeLast(), nn.LayerNorm(channels), TransposeLast())
            convolution = nn.Conv1d(width, channels, kernel, stride, bias=False)
            blocks.append(nn.Sequential(convolution, nn.Dropout(0.0), norm, nn.GELU()))
            width = channels
        self.feature_extractor = nn.ModuleDict({"conv_layers": nn.ModuleList(blocks)})
        self.layer_norm, self.post_extract_proj = nn.LayerNorm(width), nn.Linear(width, dim)
        self.mask_emb = nn.Parameter(torch.rand(dim))
        self.encoder, self.final_proj = SpeechEncoder(config), nn.Linear(dim, dim)

    def forward(self, batch: Batch, teacher: SpeechEncoder) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Predictions [M, C], and the teacher's results."""
        x = batch.inputs[:, None]
        for block in self.feature_extractor["conv_layers"]:
            x = block(x)
        x = self.post_extract_proj(self.layer_norm(x.transpose(1, 2)))
        whole = x.detach().clone()
        x[batch.mask] = self.mask_emb
        x, results = self.encoder(x)
        with torch.no_grad():
            results = teacher(whole)[1]
        return self.final_proj(x[batch.mask]), results


class SentenceEncoder(nn.Module):
    """Embeddings and the transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, embedding = config.transformer.dim, config.embedding
        self.pad = embedding.pad_id
        self.embed_tokens = nn.Embedding(embedding.vocab_size, dim, self.pad)
        self.embed_positions = nn.Embedding(embedding.max_length + self.pad + 1, dim, self.pad)
        self.layernorm_embedding, self.layers = nn.LayerNorm(dim), layers_of(config)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        padding = tokens.eq(self.pad)
        padded = bool(padding.any())
        there = (~padding).int()
        positions = (there.cumsum(1).type_as(there) * there).long() + self.pad
        x = self.layernorm_embedding(self.embed_tokens(tokens) + self.embed_positions(positions))
        return run(self.layers, x * (1 - padding.unsqueeze(-1).type_as(x)), padding if padded else None)


class Text(nn.Module):
    """fairseq's data2vec_text, whose teacher here sees the whole sentence."""

    averaged, copied = "encoder.sentence_encoder", ("embed", "layernorm_embedding")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.transformer.dim
        head = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.encoder = nn.ModuleDict({"sentence_encoder": SentenceEncoder(config), "regression_head": head})

    def forward(self, batch: Batch, teacher: SentenceEncoder) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        x, results = self.encoder["sentence_encoder"](batch.masked_inputs)
        with torch.no_grad():
            results = teacher(batch.inputs)[1]
        return self.encoder["regression_head"](x[batch.mask]), results


class ScaledBlock(nn.Module):
    """BEiT's block: LayerNorm first, biases of queries and values only, a bias on the scores, scaled branches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        transformer = config.transformer
        dim, self.heads = transformer.dim, transformer.heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=transformer.norm_eps) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "proj": nn.Linear(dim, dim)})
        self.attn.register_parameter("q_bias", nn.Parameter(torch.zeros(dim)))
        self.attn.register_parameter("v_bias", nn.Parameter(torch.zeros(dim)))
        hidden = transformer.ffn_dim
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
        scale = transformer.layer_scale
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((dim,), scale)) for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, dim = x.shape
        own: Any = self.attn
        zeros = torch.zeros_like(own.v_bias, requires_grad=False)
        qkv = F.linear(self.norm1(x), own["qkv"].weight, torch.cat((own.q_bias, zeros, own.v_bias)))
        query, key, value = qkv.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query * (dim // self.heads) ** -0.5 @ key.transpose(-2, -1) + bias.unsqueeze(0)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)
        x = x + self.gamma_1 * own["proj"](mixed)
        return x + self.gamma_2 * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vision(nn.Module):
    """The BEiT-based model; the teacher is one of its own, averaged as a whole."""

    averaged, copied = "", ()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        transformer, patch = config.transformer, config.embedding.patch_size
        dim, self.side = transformer.dim, config.embedding.image_size // patch
        self.cls_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(2))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        table = nn.Parameter(torch.zeros((2 * self.side - 1) ** 2 + 3, transformer.heads))
        self.rel_pos_bias = nn.Module()
        self.rel_pos_bias.register_parameter("relative_position_bias_table", table)
        self.rel_pos_bias.register_buffer("relative_position_index", self._index())
        self.blocks = nn.ModuleList(ScaledBlock(config) for _ in range(transformer.depth))
        self.norm = nn.LayerNorm(dim, eps=transformer.norm_eps)
        self.lm_head = nn.Linear(dim, dim)

    def _index(self) -> Tensor:
        side = self.side
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        apart = rows[:, None] - rows + side - 1, columns[:, None] - columns + side - 1
        index = torch.zeros(side**2 + 1, side**2 + 1, dtype=torch.int64)
        index[1:, 1:] = apart[0] * (2 * side - 1) + apart[1]
        last = (2 * side - 1) ** 2
        index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
        return index

    def encode(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """All tokens, and the blocks' outputs."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if mask is not None:
            hidden = mask.unsqueeze(-1).type_as(x)
            x = x * (1 - hidden) + self.mask_token.expand_as(x) * hidden
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        own: Any = self.rel_pos_bias
        length, results = x.shape[1], []
        bias = own.relative_position_bias_table[own.relative_position_index.view(-1)].view(length, length, -1)
        bias = bias.permute(2, 0, 1).contiguous()
        for block in self.blocks:
            x = block(x, bias)
            results.append(x)
        return self.norm(x), results

    def forward(self, batch: Batch, teacher: Vision) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            results = teacher.encode(batch.inputs, None)[1]
        x, _ = self.encode(batch.inputs, batch.mask)
        return self.lm_head(x[:, 1:][batch.mask]), results


KINDS = {"speech": Speech, "text": Text, "vision": Vision}
