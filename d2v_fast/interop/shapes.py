"""What model a file of tensors is of, seen from their names and shapes: released files come without settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from d2v_fast.interop import fairseq2
from d2v_fast.log import tell
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import DecoderConfig, ModelConfig, TargetConfig, TransformerConfig

_HEAD_WIDTH = 64
"""Channels of an attention head in every released model."""

_TEXT = "encoder.sentence_encoder."
_BIAS = "rel_pos_bias.relative_position_bias_table"


def model_of(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> ModelConfig:
    """The model that tensors with the names of fairseq, the BEiT-based vision code or timm's `beit` are of.

    Args:
        state: Its tensors.
        about: Settings that came along, fairseq's `cfg` as plain values; {} if there are none.

    Raises:
        ValueError: They are of none of these, or do not say enough.
    """
    if fairseq2.is_second(state):
        return _second(state, about)
    if "cls_token" in state or "cls_emb" in state:
        return _vision(state)
    if "post_extract_proj.weight" in state:
        return _speech(state, about)
    if f"{_TEXT}embed_tokens.weight" in state:
        return _text(state, about)
    raise ValueError(
        "the names are neither those of fairseq's data2vec models, nor of the BEiT-based one, nor of timm's"
    )


def _vision(state: Mapping[str, Tensor]) -> ModelConfig:
    root = "encoder." if "cls_emb" in state else ""
    table = _get(state, root + _BIAS)
    patches = _get(state, "patch_embed.conv.weight" if root else "patch_embed.proj.weight")
    side = (math.isqrt(max(0, table.shape[0] - 3)) + 1) // 2
    if (2 * side - 1) ** 2 + 3 != table.shape[0]:
        raise ValueError(f"{root + _BIAS} has {table.shape[0]} rows, which is no square grid of patches")
    first = f"{root}blocks.0."
    up = _get(state, first + ("mlp.0.weight" if root else "mlp.fc1.weight"))
    network = TransformerConfig(
        dim=patches.shape[0],
        depth=_depth(state, f"{root}blocks."),
        heads=table.shape[1],
        ffn_dim=up.shape[0],
        norm_first=True,
        norm_eps=1e-6,
        key_bias=False,
        layer_scale=0.1 if f"{first}gamma_1" in state else None,
    )
    embedding = VisionEmbedding(
        image_size=side * patches.shape[2], patch_size=patches.shape[2], channels=patches.shape[1], positions="relative"
    )
    return _model(embedding, network)


def _second(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> ModelConfig:
    """A model of data2vec 2.0."""
    root = next(name for name in state if name.startswith("modality_encoders.")).split(".")[1]
    start = f"modality_encoders.{root}."
    extra = state.get(f"{start}extra_tokens")
    count = 0 if extra is None else extra.shape[1]
    embedding: Any
    if root == "AUDIO":
        project = _get(state, f"{start}project_features.2.weight")
        embedding = _frames(
            state, about, f"{start}local_encoder.", f"{start}relative_positional_encoder.", project.shape[0], first=1
        )
        embedding = replace(embedding, alibi=f"{start}alibi_scale" in state)
    elif root == "IMAGE":
        patches = _get(state, f"{start}local_encoder.proj.weight")
        positions = state.get(f"{start}fixed_positional_encoder.positions")
        if positions is None:
            positions = _get(state, f"{start}fixed_positional_encoder.pos_embed")
        side = math.isqrt(positions.shape[1])
        count -= 1  # the class token
        embedding = VisionEmbedding(
            image_size=side * patches.shape[2],
            patch_size=patches.shape[2],
            channels=patches.shape[1],
            positions="sincos",
        )
    elif root == "TEXT":
        tokens = _get(state, f"{start}local_encoder.embed_tokens.weight")
        rows, pad = _get(state, f"{start}local_encoder.embed_positions.weight").shape[0], 1
        embedding = TextEmbedding(vocab_size=tokens.shape[0], max_length=rows - pad - 1, pad_id=pad)
    else:
        raise ValueError(f"it is of {root}; models here are of AUDIO, IMAGE and TEXT")
    up = _get(state, "blocks.0.mlp.fc1.weight")
    prenet = _depth(state, f"{start}context_encoder.blocks.")
    eps = find(about, "norm_eps")
    network = TransformerConfig(
        dim=up.shape[1],
        depth=prenet + _depth(state, "blocks."),
        prenet=prenet,
        extra_tokens=count,
        heads=_heads(find(about, "num_heads"), up.shape[1]),
        ffn_dim=up.shape[0],
        norm_eps=eps if isinstance(eps, float) else 1e-6 if root == "IMAGE" else 1e-5,
    )
    target = TargetConfig(top_k=min(TargetConfig.top_k, network.depth - prenet))
    head = DecoderConfig(dim=network.dim, groups=1)  # a placeholder: encoders have none, but it makes them 2.0's
    return ModelConfig(embedding=embedding, transformer=network, target=target, head=head)


def _speech(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> ModelConfig:
    dim = state["post_extract_proj.weight"].shape[0]
    embedding = _frames(state, about, "feature_extractor.", "encoder.pos_conv.", dim)
    first = bool(find(about, "layer_norm_first"))
    return _model(embedding, _fairseq(state, about, "encoder.", dim, norm_first=first))


def _frames(
    state: Mapping[str, Tensor], about: Mapping[str, Any], root: str, places: str, dim: int, first: int = 0
) -> SpeechEmbedding:
    """Convolutions under `root`, and those of the positions, which are counted from `first`."""
    shapes: list[tuple[int, int]] = []
    while (weight := state.get(f"{root}conv_layers.{len(shapes)}.0.weight")) is not None:
        shapes.append((weight.shape[0], weight.shape[2]))
    given = find(about, "feature_encoder_spec" if first else "conv_feature_layers")
    released = SpeechEmbedding().conv_layers
    strides = [stride for _, _, stride in released]
    if isinstance(given, str):
        strides = [int(part[2]) for part in _spec(given)]
    elif [kernel for _, kernel in shapes] != [kernel for _, kernel, _ in released]:
        raise ValueError("its convolutions are not the released ones, and the file does not say what their strides are")
    if len(strides) != len(shapes):
        raise ValueError(f"it has {len(shapes)} convolutions, but settings for {len(strides)}")
    positions: list[Tensor] = []
    while (weight := state.get(f"{places}{len(positions) + first}.0.weight")) is not None:
        positions.append(weight)
    if not positions:
        raise ValueError("its positions are not those of data2vec, a stack of convolutions")
    return SpeechEmbedding(
        conv_layers=tuple((size, kernel, stride) for (size, kernel), stride in zip(shapes, strides, strict=True)),
        position_depth=len(positions),
        position_kernel=positions[0].shape[2],
        position_groups=dim // positions[0].shape[1],
    )


def _text(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> ModelConfig:
    tokens = state[f"{_TEXT}embed_tokens.weight"]
    rows, pad = _get(state, f"{_TEXT}embed_positions.weight").shape[0], 1
    embedding = TextEmbedding(vocab_size=tokens.shape[0], max_length=rows - pad - 1, pad_id=pad)
    first = f"{_TEXT}layer_norm.weight" in state
    return _model(embedding, _fairseq(state, about, _TEXT, tokens.shape[1], norm_first=first))


def _fairseq(
    state: Mapping[str, Tensor], about: Mapping[str, Any], root: str, dim: int, *, norm_first: bool
) -> TransformerConfig:
    heads = find(about, "encoder_attention_heads")
    if heads is None and isinstance(parts := find(about, "encoder"), Mapping):
        heads = parts.get("attention_heads")
    return TransformerConfig(
        dim=dim,
        depth=_depth(state, f"{root}layers."),
        heads=_heads(heads, dim),
        ffn_dim=_get(state, f"{root}layers.0.fc1.weight").shape[0],
        norm_first=norm_first,
    )


def _heads(given: Any, dim: int) -> int:
    """How many attention heads there are; those of released models where the file does not say so."""
    if type(given) is int:
        return given
    if dim % _HEAD_WIDTH:
        raise ValueError(f"the file does not say how many attention heads it has, and {dim} channels do not either")
    heads = dim // _HEAD_WIDTH
    tell(f"the file does not say how many attention heads it has: {heads} are taken, as released models have them")
    return heads


def _model(embedding: Any, network: TransformerConfig) -> ModelConfig:
    target = TargetConfig(top_k=min(TargetConfig.top_k, network.depth))
    return ModelConfig(embedding=embedding, transformer=network, target=target)


def _get(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"missing: {name}")
    return state[name]


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = (re.match(r"\d+", name[len(prefix) :]) for name in state if name.startswith(prefix))
    return max((int(found[0]) for found in numbers if found), default=-1) + 1


def find(about: Mapping[str, Any], key: str) -> Any:
    """The first value of a key in nested settings; None if there is none."""
    if about.get(key) is not None:
        return about[key]
    parts = (find(part, key) for part in about.values() if isinstance(part, Mapping))
    return next((found for found in parts if found is not None), None)


def _spec(text: str) -> list[tuple[str, str, str]]:
    """Convolutions as fairseq spells them, "[(512, 10, 5)] + [(512, 3, 2)] * 4", without evaluating it."""
    found: list[tuple[str, str, str]] = []
    rest = re.sub(r"\s", "", text)
    term = re.compile(r"\+?\[((?:\(\d+,\d+,\d+\),?)+)\](?:\*(\d{1,3}))?")
    while rest:
        match = term.match(rest)
        if match is None:
            raise ValueError(f"the convolutions are {text!r}, which is no list of (channels, kernel, stride)")
        found += re.findall(r"\((\d+),(\d+),(\d+)\)", match[1]) * int(match[2] or 1)
        rest = rest[match.end() :]
    return found
