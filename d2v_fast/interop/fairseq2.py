"""Names of the released data2vec 2.0 code: fairseq's `data2vec_multi` models for speech, images and text.

The state dictionaries are those of the bare models: `checkpoint["model"]`. Left out without a word: `_ema` (the nested
teacher; hand it over by itself, with `part="encoder"`), and the fixed positions of images, which are computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from d2v_fast.interop._table import Entry, both
from d2v_fast.interop._table import from_ours as _from_ours
from d2v_fast.interop._table import to_ours as _to_ours
from d2v_fast.interop.fairseq import TUNED, Part
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.models.config import DecoderConfig, ModelConfig

_NAMES = {"speech": "AUDIO", "vision": "IMAGE", "text": "TEXT"}
_POSITIONS = "fixed_positional_encoder.positions"


def is_second(state: Mapping[str, object]) -> bool:
    """Whether these are names of data2vec 2.0."""
    return any(name.startswith("modality_encoders.") for name in state)


def to_ours(state: Mapping[str, Tensor], config: ModelConfig, *, part: Part = "student") -> dict[str, Tensor]:
    """Translate a released state dictionary.

    Args:
        state: Their names -> tensors. With `part="encoder"` also a teacher (`checkpoint["model"]["_ema"]`): names of
            the whole model without its shared front end, or, for text, names relative to the list of blocks.
        config: The model that the weights belong to.
        part: "student" for `student.state_dict()`: encoder and decoder. "encoder" for `Encoder.state_dict()`: what a
            decoder has is dropped, and of a teacher only the averaged tensors come back.

    Returns:
        Our names -> tensors.

    Raises:
        ValueError: If names are missing or unknown, or if the configuration has a part that the released code lacks.
    """
    modality = _modality(config)
    front = f"modality_encoders.{modality}.local_encoder."
    if part == "encoder" and all(re.match(r"\d+\.", name) for name in state):
        state = {f"blocks.{name}": tensor for name, tensor in state.items()}
    entries = list(_encoder(config))
    if part == "student":
        entries = [entry.with_prefix("encoder.") for entry in entries] + list(_decoder(config))
    elif not any(name.startswith(front) for name in state):
        rest = ("blocks.",) if not any(name.startswith("modality_encoders.") for name in state) else ("",)
        own = (front, f"modality_encoders.{modality}.project_features.")
        entries = [e for e in entries if e.theirs[0].startswith(rest) and not e.theirs[0].startswith(own)]
    decoder = f"modality_encoders.{modality}.decoder."

    def drop(name: str) -> bool:
        fixed = name == "_ema" or name.endswith((_POSITIONS, "positional_encoder.pos_embed", ".encoder_mask"))
        return fixed or (part == "encoder" and name.startswith((decoder, *TUNED)))

    return _to_ours(entries, state, source=f"the fairseq data2vec 2.0 {config.modality} state", drop=drop)


def from_ours(state: Mapping[str, Tensor], config: ModelConfig, *, part: Part = "student") -> dict[str, Tensor]:
    """Translate ours to the released names, the inverse of `to_ours`; fixed positions are not written.

    Args:
        state: `student.state_dict()`, or an encoder's with `part="encoder"`.
        config: The model that the weights belong to.
        part: What `state` is.

    Raises:
        ValueError: If names are missing or unknown, or if the configuration has a part that the released code lacks.
    """
    entries = list(_encoder(config))
    if part == "student":
        entries = [entry.with_prefix("encoder.") for entry in entries] + list(_decoder(config))
    return _from_ours(entries, state, source=f"our {part} state_dict")


def _modality(config: ModelConfig) -> str:
    if config.modality not in _NAMES or not config.encodes_kept:
        raise ValueError(
            f"the released data2vec 2.0 models are of speech, images and text, and have a decoder; this is a "
            f"{config.modality} model with a {type(config.head).__name__}"
        )
    transformer = config.transformer
    if transformer.layer_scale is not None or not transformer.key_bias or transformer.norm_first:
        raise ValueError(
            "the released data2vec 2.0 models are post-norm with a key bias and without a layer scale; this "
            f"configuration has transformer.norm_first={transformer.norm_first}, "
            f"transformer.key_bias={transformer.key_bias}, transformer.layer_scale={transformer.layer_scale}"
        )
    return _NAMES[config.modality]


def _encoder(config: ModelConfig) -> Iterator[Entry]:
    """The table of an encoder, our names as in `Encoder.state_dict()`."""
    root = f"modality_encoders.{_modality(config)}"
    dim, prenet = config.transformer.dim, config.transformer.prenet
    if config.modality == "speech":
        yield from _speech(config, root)
    elif config.modality == "vision":
        if getattr(config.embedding, "positions", None) != "sincos":
            raise ValueError("the released data2vec 2.0 vision models have fixed positions; set embedding.positions")
        if config.transformer.extra_tokens:
            raise ValueError("the released data2vec 2.0 vision models have one class token; extra_tokens must be 0")
        yield from both("embedding.patches", f"{root}.local_encoder.proj")
        yield Entry("embedding.class_token", (f"{root}.extra_tokens",), token=True)
        yield from both("norm", f"{root}.context_encoder.norm")
    else:
        yield Entry("embedding.tokens.weight", (f"{root}.local_encoder.embed_tokens.weight",))
        yield Entry("embedding.positions.weight", (f"{root}.local_encoder.embed_positions.weight",))
        yield from both("embedding.norm", f"{root}.local_encoder.layernorm_embedding")
    if config.modality != "vision" and config.transformer.extra_tokens:
        yield Entry("extra_tokens", (f"{root}.extra_tokens",), shapes=((-1, dim), (1, -1, dim)))
    for i in range(config.transformer.depth):
        theirs = f"{root}.context_encoder.blocks.{i}" if i < prenet else f"blocks.{i - prenet}"
        yield from both(f"blocks.{i}.attention.qkv", f"{theirs}.attn.qkv")
        yield from both(f"blocks.{i}.attention.out", f"{theirs}.attn.proj")
        yield from both(f"blocks.{i}.attention_norm", f"{theirs}.norm1")
        yield from both(f"blocks.{i}.ffn.up", f"{theirs}.mlp.fc1")
        yield from both(f"blocks.{i}.ffn.down", f"{theirs}.mlp.fc2")
        yield from both(f"blocks.{i}.ffn_norm", f"{theirs}.norm2")


def _speech(config: ModelConfig, root: str) -> Iterator[Entry]:
    embedding = config.embedding
    assert isinstance(embedding, FramesEmbedding)
    for i in range(len(embedding.conv_layers)):
        layer = f"{root}.local_encoder.conv_layers.{i}"
        yield Entry(f"embedding.convolutions.{i}.weight", (f"{layer}.0.weight",))
        yield from both(f"embedding.convolutions.{i}.norm", f"{layer}.2.1")
    yield from both("embedding.norm", f"{root}.project_features.1")
    yield from both("embedding.projection", f"{root}.project_features.2")
    for i in range(embedding.position_depth):  # entry 0 of theirs is a transposition
        yield from both(f"positions.convolutions.{i}", f"{root}.relative_positional_encoder.{i + 1}.0")
    if embedding.alibi:
        yield Entry("alibi.scale", (f"{root}.alibi_scale",), shapes=((-1,), (1, 1, -1, 1, 1)))
    yield from both("norm", f"{root}.context_encoder.norm")


def _decoder(config: ModelConfig) -> Iterator[Entry]:
    root, head = f"modality_encoders.{_modality(config)}.decoder", config.head
    assert isinstance(head, DecoderConfig)
    for i in range(head.layers):
        yield from both(f"decoder.convolutions.{i}", f"{root}.blocks.{i}.0")
    if config.modality == "vision":
        if head.projection_layers != 1:
            raise ValueError("the released data2vec 2.0 vision models have a linear projection; projection_layers is 1")
        yield from both("decoder.projection.0", f"{root}.proj")
        return
    for i in range(head.projection_layers):  # a Sequential with an activation between
        single = head.projection_layers == 1
        yield from both(f"decoder.projection.{i}", f"{root}.proj" if single else f"{root}.proj.{2 * i}")
