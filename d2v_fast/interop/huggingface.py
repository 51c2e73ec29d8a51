"""Names of Hugging Face transformers: Data2VecAudioModel, Data2VecTextModel and Data2VecVisionModel.

These models hold an encoder and no regression head, so both directions deal in `Encoder.state_dict()`: the teacher's,
or `student.encoder`'s. Names only, transformers is not needed; `config_for` imports it.

Targets are not exposed there: for feed-forward targets hook `encoder.layers.N.feed_forward` (speech) or
`encoder.layer.N.output.dense` (text).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2v_fast.interop._table import Entry, both
from d2v_fast.interop._table import from_ours as _from_ours
from d2v_fast.interop._table import to_ours as _to_ours
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PREFIXES = {"speech": "data2vec_audio.", "text": "data2vec_text.", "vision": "data2vec_vision."}
"""Of an encoder's names in a model with a head."""

NORM = "data2vec_vision.layernorm"
"""The norm at the end of the encoder of a picture model with a head."""

_TYPES = "embeddings.token_type_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


def to_ours(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Translate the state dictionary of a transformers model.

    With the prefix of a model with a head (`data2vec_audio.` and so on) the head is left out; a pooler is left out too.
    Text's token type, one and the same for all tokens, is added to the positions.

    Args:
        state: Their names -> tensors.
        config: The model that the weights belong to.

    Returns:
        Our names, as in `Encoder.state_dict()` -> tensors.

    Raises:
        ValueError: If names are missing or unknown, the text model has more than one token type, or the configuration
            has a part that transformers lacks.
    """
    prefix = PREFIXES[config.modality]
    if any(name.startswith(prefix) for name in state):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    if config.modality == "text":
        state = _without_token_types(state)
    source = f"the transformers {config.modality} state"
    return _to_ours(_encoder(config), state, source=source, drop=_droppable)


def _droppable(name: str) -> bool:
    """A pooler, and buffers that older versions saved."""
    last = name.rpartition(".")[2]
    return name.startswith("pooler.") or last in ("position_ids", "relative_position_index")


def from_ours(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Translate an encoder's state dictionary, for `load_state_dict(..., strict=True)` of the model of `config_for`.

    Args:
        state: `Encoder.state_dict()`.
        config: The model that the weights belong to.

    Returns:
        Their names, without a pooler -> tensors.

    Raises:
        ValueError: If names are missing or unknown, or the configuration has a part that transformers lacks.
    """
    result = _from_ours(_encoder(config), state, source="our encoder's state_dict")
    if config.modality == "text":
        result[_TYPES] = torch.zeros_like(result[_POSITIONS][:1])
    return result


def config_for(config: ModelConfig) -> PreTrainedConfig:
    """The transformers configuration whose model computes what our encoder computes.

    Args:
        config: Our configuration.

    Returns:
        A Data2VecAudioConfig, Data2VecTextConfig or Data2VecVisionConfig. The model of the last two is to be built with
        `add_pooling_layer=False`.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If the configuration has a part that transformers lacks.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("transformers is not installed: pip install 'd2v_fast[export]'") from error
    _refuse_what_they_lack(config)
    transformer, embedding = config.transformer, config.embedding
    shared: dict[str, Any] = {
        "hidden_size": transformer.dim,
        "num_hidden_layers": transformer.depth,
        "num_attention_heads": transformer.heads,
        "intermediate_size": transformer.ffn_dim,
        "layer_norm_eps": transformer.norm_eps,
        "hidden_act": "gelu",
    }
    if isinstance(embedding, SpeechEmbedding):
        channels, kernels, strides = zip(*embedding.conv_layers, strict=True)
        return transformers.Data2VecAudioConfig(
            **shared,
            conv_dim=channels,
            conv_kernel=kernels,
            conv_stride=strides,
            conv_bias=False,
            num_conv_pos_embeddings=embedding.position_depth,
            conv_pos_kernel_size=embedding.position_kernel,
            num_conv_pos_embedding_groups=embedding.position_groups,
            hidden_dropout=transformer.dropout,
            attention_dropout=transformer.attention_dropout,
            activation_dropout=transformer.activation_dropout,
            layerdrop=transformer.layer_drop,
        )
    if isinstance(embedding, TextEmbedding):
        return transformers.Data2VecTextConfig(
            **shared,
            vocab_size=embedding.vocab_size,
            # Positions are counted from pad_id + 1, so the table is longer than the longest text.
            max_position_embeddings=embedding.max_length + embedding.pad_id + 1,
            pad_token_id=embedding.pad_id,
            type_vocab_size=1,
            hidden_dropout_prob=transformer.dropout,
            attention_probs_dropout_prob=transformer.attention_dropout,
        )
    if not isinstance(embedding, VisionEmbedding):
        raise ValueError(f"transformers has no data2vec model of the modality {config.modality}")
    return transformers.Data2VecVisionConfig(
        **shared,
        image_size=embedding.image_size,
        patch_size=embedding.patch_size,
        num_channels=embedding.channels,
        use_mask_token=True,
        use_absolute_position_embeddings=False,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=True,
        use_mean_pooling=False,  # True would replace the final norm by the identity
        layer_scale_init_value=transformer.layer_scale or 0.0,
        hidden_dropout_prob=transformer.dropout,
        attention_probs_dropout_prob=transformer.attention_dropout,
        drop_path_rate=transformer.drop_path,
    )


def _without_token_types(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text state with its only token type added to the positions, which is where every token gets it from."""
    state = dict(state)
    types, positions = state.pop(_TYPES, None), state.get(_POSITIONS)
    if types is not None and types.shape[0] != 1:
        raise ValueError(
            f"{_TYPES} has {types.shape[0]} rows; data2vec's text models have one token type (type_vocab_size=1)"
        )
    if types is not None and positions is not None and bool(types.any()):
        state[_POSITIONS] = positions + types
    return state


def _refuse_what_they_lack(config: ModelConfig) -> None:
    """Raise for what no transformers configuration expresses."""
    transformer = config.transformer
    if config.encodes_kept or transformer.extra_tokens or getattr(config.embedding, "alibi", False):
        raise ValueError("transformers has no data2vec 2.0, extra tokens or ALiBi")
    fixed: dict[str, object] = {"norm_first": False, "key_bias": True, "layer_scale": None}
    if config.modality == "vision":
        fixed = {"norm_first": True, "key_bias": False}
    elif config.modality == "speech":
        fixed["norm_eps"] = 1e-5  # the norm before the projection takes the model's there and has 1e-5 here
    for name, value in fixed.items():
        if getattr(transformer, name) != value:
            raise ValueError(
                f"transformers' data2vec {config.modality} model has {name}={value} and no other; "
                f"transformer.{name} is {getattr(transformer, name)}"
            )
    if isinstance(config.embedding, TextEmbedding) and config.embedding.position_depth:
        raise ValueError("transformers' data2vec text model has no convolutions; embedding.position_depth must be 0")
    if isinstance(config.embedding, VisionEmbedding) and config.embedding.positions != "relative":
        raise ValueError("only relative positions have a name in transformers; embedding.positions is 'sincos'")


def _encoder(config: ModelConfig) -> Iterator[Entry]:
    """The table of an encoder."""
    _refuse_what_they_lack(config)
    embedding = config.embedding
    if isinstance(embedding, SpeechEmbedding):
        yield from _speech(config, embedding)
    elif isinstance(embedding, VisionEmbedding):
        yield from _vision(config)
    else:
        yield from _text(config)


def _speech(config: ModelConfig, embedding: SpeechEmbedding) -> Iterator[Entry]:
    yield Entry("embedding.mask_token", ("masked_spec_embed",))
    for i in range(len(embedding.conv_layers)):
        layer = f"feature_extractor.conv_layers.{i}"
        yield Entry(f"embedding.convolutions.{i}.weight", (f"{layer}.conv.weight",))
        yield from both(f"embedding.convolutions.{i}.norm", f"{layer}.layer_norm")
    yield from both("embedding.norm", "feature_projection.layer_norm")
    yield from both("embedding.projection", "feature_projection.projection")
    for i in range(embedding.position_depth):
        yield from both(f"positions.convolutions.{i}", f"encoder.pos_conv_embed.layers.{i}.conv")
    yield from both("norm", "encoder.layer_norm")
    for i in range(config.transformer.depth):
        ours, theirs = f"blocks.{i}", f"encoder.layers.{i}"
        yield from both(f"{ours}.attention.qkv", *(f"{theirs}.attention.{name}_proj" for name in "qkv"))
        yield from both(f"{ours}.attention.out", f"{theirs}.attention.out_proj")
        yield from both(f"{ours}.attention_norm", f"{theirs}.layer_norm")
        yield from both(f"{ours}.ffn.up", f"{theirs}.feed_forward.intermediate_dense")
        yield from both(f"{ours}.ffn.down", f"{theirs}.feed_forward.output_dense")
        yield from both(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm")


def _text(config: ModelConfig) -> Iterator[Entry]:
    yield Entry("embedding.tokens.weight", ("embeddings.word_embeddings.weight",))
    yield Entry("embedding.positions.weight", (_POSITIONS,))
    yield from both("embedding.norm", "embeddings.LayerNorm")
    for i in range(config.transformer.depth):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        names = ("query", "key", "value")
        yield from both(f"{ours}.attention.qkv", *(f"{theirs}.attention.self.{name}" for name in names))
        yield from both(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        yield from both(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        yield from both(f"{ours}.ffn.up", f"{theirs}.intermediate.dense")
        yield from both(f"{ours}.ffn.down", f"{theirs}.output.dense")
        yield from both(f"{ours}.ffn_norm", f"{theirs}.output.LayerNorm")


def _vision(config: ModelConfig) -> Iterator[Entry]:
    yield Entry("embedding.class_token", ("embeddings.cls_token",), token=True)
    yield Entry("embedding.mask_token", ("embeddings.mask_token",), token=True)
    yield from both("embedding.patches", "embeddings.patch_embeddings.projection")
    yield Entry("positions.table", ("encoder.relative_position_bias.relative_position_bias_table",))
    yield from both("norm", "layernorm")
    for i in range(config.transformer.depth):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        attention = f"{theirs}.attention.attention"
        if config.transformer.layer_scale is not None:
            yield Entry(f"{ours}.attention_scale", (f"{theirs}.lambda_1",))
            yield Entry(f"{ours}.ffn_scale", (f"{theirs}.lambda_2",))
        weights = tuple(f"{attention}.{name}.weight" for name in ("query", "key", "value"))
        yield Entry(f"{ours}.attention.qkv.weight", weights)
        yield Entry(f"{ours}.attention.q_bias", (f"{attention}.query.bias",))
        yield Entry(f"{ours}.attention.v_bias", (f"{attention}.value.bias",))
        yield from both(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        yield from both(f"{ours}.attention_norm", f"{theirs}.layernorm_before")
        yield from both(f"{ours}.ffn.up", f"{theirs}.intermediate.dense")
        yield from both(f"{ours}.ffn.down", f"{theirs}.output.dense")
        yield from both(f"{ours}.ffn_norm", f"{theirs}.layernorm_after")
