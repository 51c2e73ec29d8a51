"""Names of the released data2vec code: fairseq's speech, text and vision models and the BEiT-based vision repository.

The state dictionaries are those of the bare models: `checkpoint["model"]`. Left out without a word: `_ema` (the nested
teacher; hand it over by itself, with `part="encoder"`), text's `version`, and the relative position index, which is
computed from the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor

from d2v_fast.interop._table import Entry, both
from d2v_fast.interop._table import from_ours as _from_ours
from d2v_fast.interop._table import to_ours as _to_ours
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import ModelConfig

Part = Literal["student", "encoder"]
VisionNames = Literal["beit", "fairseq"]

_HEADS = ("final_proj.", "lm_head.", "encoder.regression_head.", "encoder.lm_head.")
TUNED = ("w2v_encoder.", "classification_heads.", "head.", "fc_norm.")
"""What fine-tuned models have more, fairseq's and those with BEiT's names."""

# The module that the released code averages, by the prefix it has inside the model.
_AVERAGED = {"speech": "encoder.", "text": "encoder.sentence_encoder.", "vision": "encoder."}


def to_ours(state: Mapping[str, Tensor], config: ModelConfig, *, part: Part = "student") -> dict[str, Tensor]:
    """Translate a released state dictionary.

    Which of the two vision codes it comes from is seen from its names.

    Args:
        state: Their names -> tensors. With `part="encoder"` also names relative to the module that the released code
            averages (`checkpoint["model"]["_ema"]`: fairseq's `encoder`, for text `encoder.sentence_encoder`).
        config: The model that the weights belong to.
        part: "student" for `student.state_dict()`: encoder and head. "encoder" for `Encoder.state_dict()`: what a head
            left is dropped, and of a state relative to the averaged module only the averaged tensors come back.

    Returns:
        Our names -> tensors.

    Raises:
        ValueError: If names are missing or unknown, or if the configuration has a part that the released code lacks.
    """
    renamed = {_current_name(name): tensor for name, tensor in state.items()}
    beit = any(name.endswith(".mlp.fc1.weight") for name in renamed)
    entries = list(_encoder(config, "beit" if beit else "fairseq"))
    prefix = _AVERAGED[config.modality]
    relative = not beit and not any(name.startswith(prefix) for name in renamed)
    source = f"the {'BEiT' if beit else 'fairseq'} {config.modality} state"
    if part == "student":
        entries = [entry.with_prefix("encoder.") for entry in entries] + list(_head(config, beit=beit))
    elif relative:
        renamed = {prefix + name: tensor for name, tensor in renamed.items()}
        entries = [entry for entry in entries if entry.theirs[0].startswith(prefix)]
        source += f" (names relative to {prefix[:-1]})"
    return _to_ours(entries, renamed, source=source, drop=lambda name: _droppable(name, part))


def from_ours(
    state: Mapping[str, Tensor], config: ModelConfig, *, part: Part = "student", vision: VisionNames = "beit"
) -> dict[str, Tensor]:
    """Translate ours to the released names, the inverse of `to_ours`.

    The relative position index and text's `version` are not written; the released code makes them itself.

    Args:
        state: `student.state_dict()`, or an encoder's with `part="encoder"`.
        config: The model that the weights belong to.
        part: What `state` is.
        vision: Which of the two vision codes the names are for; the other modalities have one.

    Returns:
        Names relative to the whole released model -> tensors.

    Raises:
        ValueError: If names are missing or unknown, or if the configuration has a part that the released code lacks.
    """
    entries = list(_encoder(config, vision))
    if part == "student":
        head = _head(config, beit=vision == "beit")
        entries = [entry.with_prefix("encoder.") for entry in entries] + list(head)
    return _from_ours(entries, state, source=f"our {part} state_dict")


def _current_name(name: str) -> str:
    """Older names: a head in a list of one, and the embedding norm under its first name."""
    if name.startswith("final_proj.0."):
        return name.replace("final_proj.0.", "final_proj.", 1)
    return name.replace("sentence_encoder.emb_layer_norm.", "sentence_encoder.layernorm_embedding.", 1)


def _droppable(name: str, part: Part) -> bool:
    last = name.rpartition(".")[2]
    return last in ("_ema", "version", "relative_position_index") or (
        part == "encoder" and name.startswith(_HEADS + TUNED)
    )


def _encoder(config: ModelConfig, vision: VisionNames) -> Iterator[Entry]:
    """The table of an encoder, our names as in `Encoder.state_dict()`."""
    modality = config.modality
    _refuse_what_they_lack(config)
    if modality == "speech":
        yield from _speech(config)
    elif modality == "text":
        yield from _text(config)
    elif vision == "beit":
        yield from _vision(config, "", "cls_token", "mask_token", "proj", ("fc1", "fc2"))
    else:
        yield from _vision(config, "encoder.", "cls_emb", "mask_emb", "conv", ("0", "2"))


def _refuse_what_they_lack(config: ModelConfig) -> None:
    transformer = config.transformer
    if config.modality == "vision":
        if not transformer.norm_first or transformer.key_bias:
            raise ValueError(
                "the released vision models are pre-norm without a key bias; this configuration has "
                f"transformer.norm_first={transformer.norm_first}, transformer.key_bias={transformer.key_bias}"
            )
        if isinstance(config.embedding, VisionEmbedding) and config.embedding.positions != "relative":
            raise ValueError("the released vision models have relative positions; embedding.positions is 'sincos'")
    elif transformer.layer_scale is not None or not transformer.key_bias:
        raise ValueError(
            f"the released {config.modality} models have a key bias and no layer scale; this configuration has "
            f"transformer.key_bias={transformer.key_bias}, transformer.layer_scale={transformer.layer_scale}"
        )


def _speech(config: ModelConfig) -> Iterator[Entry]:
    embedding = config.embedding
    assert isinstance(embedding, SpeechEmbedding)  # for the type checker; the modality says so
    yield Entry("embedding.mask_token", ("mask_emb",))
    for i in range(len(embedding.conv_layers)):
        layer = f"feature_extractor.conv_layers.{i}"
        yield Entry(f"embedding.convolutions.{i}.weight", (f"{layer}.0.weight",))
        yield from both(f"embedding.convolutions.{i}.norm", f"{layer}.2.1")
    yield from both("embedding.norm", "layer_norm")
    yield from both("embedding.projection", "post_extract_proj")
    for i in range(embedding.position_depth):
        yield from both(f"positions.convolutions.{i}", f"encoder.pos_conv.{i}.0")
    yield from both("norm", "encoder.layer_norm")
    yield from _fairseq_blocks("encoder", config.transformer.depth)


def _text(config: ModelConfig) -> Iterator[Entry]:
    if getattr(config.embedding, "position_depth", 0):
        raise ValueError("the released text models have no convolutions; embedding.position_depth must be 0")
    root = "encoder.sentence_encoder"
    yield Entry("embedding.tokens.weight", (f"{root}.embed_tokens.weight",))
    yield Entry("embedding.positions.weight", (f"{root}.embed_positions.weight",))
    yield from both("embedding.norm", f"{root}.layernorm_embedding")
    if config.transformer.norm_first:
        yield from both("norm", f"{root}.layer_norm")
    yield from _fairseq_blocks(root, config.transformer.depth)


def _fairseq_blocks(root: str, depth: int) -> Iterator[Entry]:
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"{root}.layers.{i}"
        yield from both(f"{ours}.attention.qkv", *(f"{theirs}.self_attn.{name}_proj" for name in "qkv"))
        yield from both(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj")
        yield from both(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm")
        yield from both(f"{ours}.ffn.up", f"{theirs}.fc1")
        yield from both(f"{ours}.ffn.down", f"{theirs}.fc2")
        yield from both(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm")


def _vision(
    config: ModelConfig, root: str, class_token: str, mask_token: str, patches: str, mlp: tuple[str, str]
) -> Iterator[Entry]:
    yield Entry("embedding.class_token", (class_token,), token=True)
    yield Entry("embedding.mask_token", (mask_token,), token=True)
    yield from both("embedding.patches", f"patch_embed.{patches}")
    yield Entry("positions.table", (f"{root}rel_pos_bias.relative_position_bias_table",))
    yield from both("norm", f"{root}norm")
    for i in range(config.transformer.depth):
        ours, theirs = f"blocks.{i}", f"{root}blocks.{i}"
        if config.transformer.layer_scale is not None:
            yield Entry(f"{ours}.attention_scale", (f"{theirs}.gamma_1",))
            yield Entry(f"{ours}.ffn_scale", (f"{theirs}.gamma_2",))
        yield Entry(f"{ours}.attention.qkv.weight", (f"{theirs}.attn.qkv.weight",))
        yield Entry(f"{ours}.attention.q_bias", (f"{theirs}.attn.q_bias",))
        yield Entry(f"{ours}.attention.v_bias", (f"{theirs}.attn.v_bias",))
        yield from both(f"{ours}.attention.out", f"{theirs}.attn.proj")
        yield from both(f"{ours}.attention_norm", f"{theirs}.norm1")
        yield from both(f"{ours}.ffn.up", f"{theirs}.mlp.{mlp[0]}")
        yield from both(f"{ours}.ffn.down", f"{theirs}.mlp.{mlp[1]}")
        yield from both(f"{ours}.ffn_norm", f"{theirs}.norm2")


def _head(config: ModelConfig, *, beit: bool) -> Iterator[Entry]:
    layers = config.head.layers
    if config.modality == "text":
        for i in range(layers):  # a Sequential with an activation between
            yield from both(f"head.layers.{i}", f"encoder.regression_head.{2 * i}")
        return
    if layers != 1:
        raise ValueError(f"the released {config.modality} models have a linear head; head.layers is {layers}")
    yield from both("head.layers.0", "lm_head" if beit and config.modality == "vision" else "final_proj")
