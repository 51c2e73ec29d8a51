"""The released arrangement of a data2vec 2.0 step, written plainly on our modules: the baseline of test_views.py.

All views go through the blocks as padded rows [N, L, C] with scores, softmax and a bias [N, heads, L, L] gathered from
one over all positions; the front end of speech and the decoder transpose around every convolution and norm; targets of
all positions are made in float32, repeated for the views and gathered. Linear maps are torch's. Same weights, same
mathematics: without dropout and noise the loss is the same.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.models import Data2Vec
from d2v_fast.models.encoder import Encoder


def fairseq_loss(model: Data2Vec, batch: Batch) -> Tensor:
    """The regression loss of a batch, summed over the hidden positions."""
    encoder, config = model.student.encoder, model.config
    local = _embed(encoder, batch.inputs)
    with torch.no_grad():
        given = _embed(model.teacher, batch.inputs) if config.teacher.averages == "all" else local.detach()
        x, bias = _place(model.teacher, given, None)
        features = _run(model.teacher, x, bias)[1][-config.target.top_k :]
        target = _targets(features, config.target.final_norm)
    mask, views = batch.mask, batch.views
    rows, positions = mask.shape
    kept = (~mask).nonzero()[:, 1].view(rows, -1)  # equally many of each row
    x, bias = _place(encoder, local.repeat_interleave(views, 0), mask)
    x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
    if bias is not None:
        heads, length = bias.shape[1], kept.shape[1]
        bias = bias.repeat_interleave(rows, 0)
        bias = bias.gather(2, kept[:, None, :, None].expand(-1, heads, -1, positions))
        bias = bias.gather(3, kept[:, None, None, :].expand(-1, heads, length, -1))
    x = _run(encoder, x, bias)[0]
    predictions = _decode(model.student.decoder, x, kept, positions, encoder.shape(positions))
    target = target.repeat_interleave(views, 0)
    error = (predictions[mask].float() - target[mask]).square()
    scale = config.loss.scale
    return (error * (1 / math.sqrt(x.shape[2]) if scale is None else scale)).sum()


def _embed(encoder: Encoder, inputs: Tensor) -> Tensor:
    if not hasattr(encoder, "alibi"):
        return encoder.embed(inputs)
    frames, x = encoder.embedding, inputs.unsqueeze(1)
    for block in frames.convolutions:
        x = F.conv1d(x, block.weight, stride=block.stride)
        x = F.gelu(block.norm(x.transpose(1, 2)).transpose(1, 2))
    return frames.projection(frames.norm(x.transpose(1, 2)))


def _place(encoder: Encoder, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Positions, over all frames of every view, and the bias between all of them."""
    if not hasattr(encoder, "alibi"):
        return encoder.place(x, None)
    seen = x if mask is None else x.masked_fill(mask[:, :, None], 0.0)
    p = seen.transpose(1, 2)
    for convolution in encoder.positions.convolutions:
        p = convolution(p)[..., : x.shape[1]]
        p = F.gelu(F.layer_norm(p.transpose(1, 2), (p.shape[1],)).transpose(1, 2))
    places = torch.arange(x.shape[1])
    apart = (places[:, None] - places).abs().float()
    slopes = encoder.alibi.scale.clamp_min(0) * encoder.alibi.slopes
    return x + p.transpose(1, 2), (-slopes[:, None, None] * apart)[None]


def _run(encoder: Encoder, x: Tensor, bias: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """The blocks over padded rows; the output and all feed-forward features."""
    extra = encoder.extra()
    first = 0 if extra is None else len(extra)
    if extra is not None:
        x = torch.cat([extra.expand(len(x), -1, -1), x], 1)
        bias = None if bias is None else F.pad(bias, (first, 0, first, 0))
    if encoder.norm is not None:
        x = encoder.norm(x)
    x, features = F.dropout(x, encoder.dropout, encoder.training), []
    for block in encoder.blocks:
        h = block.attention_norm(x + F.dropout(_attend(block.attention, x, bias), block.dropout, block.training))
        hidden = F.dropout(F.gelu(block.ffn.up(h)), block.ffn.dropout, block.training)
        feature = block.ffn.down(hidden)
        features.append(feature[:, first:])
        x = block.ffn_norm(h + F.dropout(feature, block.dropout, block.training))
    return x[:, first:], features


def _attend(attention: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
    rows, length, dim = x.shape
    qkv = attention.qkv(x).view(rows, length, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    scores = query * query.shape[3] ** -0.5 @ key.transpose(2, 3)
    if bias is not None:
        scores = scores.float() + bias
    weights = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
    weights = F.dropout(weights, attention.dropout, attention.training)
    return attention.out((weights @ value).transpose(1, 2).reshape(rows, length, dim))


def _targets(features: list[Tensor], final: tuple[str, ...]) -> Tensor:
    normed = [F.instance_norm(x.transpose(1, 2).float()).transpose(1, 2) for x in features]
    mean = torch.stack(normed).mean(0)
    return F.layer_norm(mean, mean.shape[-1:]) if final else mean


def _decode(decoder: nn.Module, x: Tensor, kept: Tensor, positions: int, shape: tuple[int, ...]) -> Tensor:
    rows, length, dim = x.shape
    x = F.dropout(x, decoder.input_dropout, decoder.training)
    noise = x.new_empty(rows, positions - length, dim).normal_(0, decoder.noise)
    hidden = torch.ones(rows, positions, dtype=torch.bool).scatter_(1, kept, False)
    order = torch.cat([kept, hidden.nonzero()[:, 1].view(rows, -1)], 1).argsort(1)
    x = torch.cat([x, noise], 1).gather(1, order[:, :, None].expand(-1, -1, dim))
    x = x.transpose(1, 2).reshape(rows, dim, *shape)
    for convolution in decoder.convolutions:
        function = F.conv1d if x.dim() == 3 else F.conv2d
        weight = convolution.weight
        y = function(x, weight, convolution.bias, padding=weight.shape[2] // 2, groups=decoder.groups)
        y = y[..., : shape[0]] if x.dim() == 3 else y[..., : shape[0], : shape[1]]
        y = F.gelu(F.layer_norm(y.transpose(1, -1), (y.shape[1],)).transpose(1, -1))
        x = x + y if decoder.residual and x.shape == y.shape else y
    x = x.flatten(2).transpose(1, 2)
    for i, linear in enumerate(decoder.projection):
        x = linear(F.gelu(x) if i else x)
    return x
