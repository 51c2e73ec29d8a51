"""Reads a file of golden numbers: which reference made it, its options as our configuration, its batch and its weights.

Options come from `meta_json` alone, never from the file's name; the kind is seen from the names of the weights.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.interop import fairseq, fairseq2
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    Norm,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
)


class UnknownKind(Exception):
    """The file is none that this check knows how to read."""


@dataclass(frozen=True)
class Variant:
    """Target norms, and whether the reference computes them over an axis that we do not reproduce."""

    layer_norm: tuple[Norm, ...]
    final_norm: tuple[Norm, ...]
    bug: str | None = None


@dataclass(frozen=True)
class Case:
    """A golden file."""

    path: Path
    kind: str
    meta: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    config: ModelConfig
    batch: Batch
    has_head: bool
    """False for fairseq's vision model, which regresses the encoder's output itself."""

    noise: tuple[Tensor, ...] = ()
    """data2vec 2.0: what the decoder found at the hidden positions, as `Data2Vec.forward` takes it: in the forward pass
    whose numbers are kept, then at each step. Empty if there was none."""

    @property
    def second(self) -> bool:
        """data2vec 2.0."""
        return self.config.encodes_kept

    @property
    def published_vision(self) -> bool:
        """The BEiT-based code: mean loss, AdamW with groups, constant EMA decay."""
        return self.kind == "beit vision"

    def get(self, *keys: str) -> Tensor | None:
        """The first of the named arrays that the file has."""
        for key in keys:
            if key in self.arrays:
                return torch.from_numpy(np.asarray(self.arrays[key]))
        return None

    def weights(self, group: str, part: fairseq.Part) -> dict[str, Tensor]:
        """Arrays `group/<their name>` under our names; a tensor of ours of which the file lacks a part is left out."""
        # Gradients and weights after a step may be a selection: what is missing is filled in, renamed and then dropped.
        template = self._state("teacher0" if part == "encoder" else "student0")
        given = self._state(group)
        if not given:
            return {}
        if group.endswith(("grad", "grad1")):
            given |= {name: torch.zeros_like(template[name]) for name in self.meta.get("params_without_grad", [])}
        filled = {name: given.get(name, value) for name, value in template.items()}
        present = {name: torch.full_like(value, name in given) for name, value in template.items()}
        names = fairseq2 if self.second else fairseq
        complete = names.to_ours(present, self.config, part=part)
        return {
            name: value
            for name, value in names.to_ours(filled, self.config, part=part).items()
            if complete[name].all() and (self.has_head or not name.startswith("head."))
        }

    def _state(self, group: str) -> dict[str, Tensor]:
        prefix = group + "/"
        return {
            key[len(prefix) :]: torch.from_numpy(np.asarray(value))
            for key, value in self.arrays.items()
            if key.startswith(prefix)
        }

    def names(self, group: str) -> list[str]:
        """Their names of the arrays of a group."""
        return list(self._state(group))

    def is_vector(self, name: str) -> bool:
        """Whether the released data2vec 2.0 means not to decay the parameter, by its name there."""
        return self.arrays[f"student0/{name}"].ndim == 1 or name.endswith((".bias", "alibi_scale"))

    def per_parameter(self, values: Mapping[str, float], otherwise: float) -> dict[str, float]:
        """A number given per parameter of theirs, as a number per parameter of ours (theirs may be parts of ours)."""
        state = {
            name: torch.full(value.shape, values.get(name, otherwise))
            for name, value in self._state("student0").items()
        }
        ours = (fairseq2 if self.second else fairseq).to_ours(state, self.config, part="student")
        return {name: float(value.flatten()[0]) for name, value in ours.items()}

    def variants(self) -> dict[str, Variant]:
        """Every combination of target norms in the file."""
        return {name: self._variant(flags) for name, flags in self.meta["variants"].items()}

    def main_variant(self) -> Variant:
        """The combination that the file's losses and gradients belong to."""
        return self._variant(self.meta["variants"][self.meta["main_variant"]])

    def _variant(self, flags: list[str]) -> Variant:
        return variant_of(flags, speech=self.kind == "fairseq speech", instance_first=self.published_vision)


def variant_of(flags: list[str], *, speech: bool, instance_first: bool) -> Variant:
    """Their flags as our norms, in the order in which the reference applies them."""
    known = {
        "batch_norm_target_layer",
        "instance_norm_target_layer",
        "layer_norm_target_layer",
        "group_norm_target_layer",
        "layer_norm_targets",
        "instance_norm_targets",
    }
    if unknown := set(flags) - known:
        raise UnknownKind(f"target norms {sorted(unknown)}")
    norms: tuple[Norm, ...] = ("batch", "instance", "layer")
    layer = tuple(norm for norm in norms if f"{norm}_norm_target_layer" in flags)
    order: tuple[Norm, ...] = ("instance", "layer") if instance_first else ("layer", "instance")
    final = tuple(norm for norm in order if f"{norm}_norm_targets" in flags)
    bug = None
    if "group_norm_target_layer" in flags:
        bug = "group norm over the batch"
    elif speech and "instance" in final and not {"batch", "instance"} & set(layer):
        bug = "instance norm over the batch axis"
    return Variant(layer, final, bug)


def read(path: Path) -> Case:
    """Read a golden file.

    Raises:
        UnknownKind: if it is not one of the five kinds, or has options that this library does not have.
    """
    try:
        archive = np.load(path)
        arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, AttributeError, BadZipFile) as error:
        raise UnknownKind(f"not an npz archive ({error})") from error
    if "meta_json" not in arrays or not any(key.startswith("student0/") for key in arrays):
        raise UnknownKind("no meta_json or no weights (student0/*) in it")
    meta = json.loads(str(arrays["meta_json"]))
    if any(key.startswith("student0/modality_encoders.") for key in arrays):
        return _second(path, meta, arrays)
    kinds = {
        "student0/post_extract_proj.weight": ("fairseq speech", _speech),
        "student0/encoder.sentence_encoder.embed_tokens.weight": ("fairseq text", _text),
        "student0/lm_head.weight": ("beit vision", _beit),
        "student0/patch_embed.conv.weight": ("fairseq vision", _fairseq_vision),
    }
    for key, (kind, build) in kinds.items():
        if key in arrays:
            try:
                config, batch = build(meta, arrays)
            except KeyError as error:
                raise UnknownKind(f"a {kind} file without {error}") from error
            return Case(path, kind, meta, arrays, config, batch, kind != "fairseq vision")
    names = sorted({key.split("/")[1].split(".")[0] for key in arrays if key.startswith("student0/")})
    raise UnknownKind(f"the weights are of no model that this check knows ({', '.join(names[:6])}, ...)")


def _second(path: Path, meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Case:
    from golden_second import read_second

    kind, config, batch, noise = read_second(meta, arrays)
    return Case(path, kind, meta, arrays, config, batch, has_head=True, noise=noise)


def require(options: Mapping[str, Any], **wanted: Any) -> None:
    for name, value in wanted.items():
        if options.get(name, value) != value:
            raise UnknownKind(f"{name} = {options[name]!r}; this library has {value!r} only")


def target_of(
    meta: Mapping[str, Any], *, feature: str, top_k: int, speech: bool = False, beit: bool = False
) -> TargetConfig:
    main = variant_of(meta["variants"][meta["main_variant"]], speech=speech, instance_first=beit)
    return TargetConfig(
        top_k=top_k,
        feature="ffn" if feature == "ffn" else "block",
        layer_norm=main.layer_norm,
        final_norm=main.final_norm,
    )


def _batch(inputs: Tensor, mask: np.ndarray, **more: Any) -> Batch:
    flat = torch.from_numpy(mask).reshape(len(inputs), -1).bool()
    return Batch(
        inputs=inputs, mask=flat, rows=flat.flatten().nonzero().flatten(), sample_ids=torch.arange(len(inputs)), **more
    )


def _speech(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Batch]:
    c = meta["config"]
    require(
        c, extractor_mode="layer_norm", conv_bias=False, activation_fn="gelu", layer_type="transformer", dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, encoder_layerdrop=0.0, dropout_input=0.0, mask_channel_prob=0.0,
    )  # fmt: skip
    depth, position_depth = c.get("encoder_layers", 12), c.get("pos_conv_depth", 1)
    if position_depth < 2:
        raise UnknownKind("pos_conv_depth = 1, a weight-normalised convolution that is not data2vec's")
    whole = not (c.get("ema_transformer_only", True) or c.get("ema_layers_only", True))
    copies_positions = any(name.startswith("pos_conv.") for name in meta["ema_skip_keys"])
    config = ModelConfig(
        embedding=SpeechEmbedding(
            conv_layers=layers_of(c["conv_feature_layers"]),
            position_depth=position_depth,
            position_kernel=max(3, c.get("conv_pos", 128) // position_depth),
            position_groups=c.get("conv_pos_groups", 16),
            gradient_scale=c.get("feature_grad_mult", 1.0),
        ),
        transformer=TransformerConfig(
            dim=c.get("encoder_embed_dim", 768),
            depth=depth,
            heads=c.get("encoder_attention_heads", 12),
            ffn_dim=c.get("encoder_ffn_embed_dim", 3072),
            norm_first=c.get("layer_norm_first", False),
            dropout=0.0,
            attention_dropout=0.0,
        ),
        # The reference averages every layer, whatever average_top_k_layers says, when the teacher is a whole model.
        target=target_of(meta, feature="ffn", top_k=depth if whole else c.get("average_top_k_layers", 8), speech=True),
        loss=LossConfig(beta=c.get("loss_beta", 0.0), scale=c.get("loss_scale")),
        teacher=TeacherConfig(averages="all" if whole else "layers" if copies_positions else "transformer"),
    )
    padding = arrays.get("batch/padding_mask")
    lengths = None
    if padding is not None and padding.any():
        if padding.shape != arrays["batch/source"].shape:
            raise UnknownKind(f"batch/padding_mask of shape {padding.shape}; that of the samples is expected")
        lengths = torch.from_numpy((~padding.astype(bool)).sum(1).astype(np.int64))
    mask = arrays.get("fwd/mask_indices", arrays.get("batch/mask_indices"))
    return config, _batch(torch.from_numpy(arrays["batch/source"]), np.asarray(mask), lengths=lengths)


def _text(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Batch]:
    c = meta["config"]
    t, e = c["_t"], c["_e"]
    require(
        t, dropout=0.0, attention_dropout=0.0, layernorm_embedding=True, activation_fn="gelu", no_scale_embedding=True
    )
    require(e, learned_pos=True, layerdrop=0.0)
    vocab_size, dim = arrays["student0/encoder.sentence_encoder.embed_tokens.weight"].shape
    rows = len(arrays["student0/encoder.sentence_encoder.embed_positions.weight"])
    max_length = t.get("max_source_positions", c.get("max_positions", 512))
    pad_id = rows - max_length - 1
    scale = c.get("loss_scale")
    config = ModelConfig(
        embedding=TextEmbedding(vocab_size=vocab_size, max_length=max_length, pad_id=pad_id),
        transformer=TransformerConfig(
            dim=dim,
            depth=e["layers"],
            heads=e["attention_heads"],
            ffn_dim=e["ffn_embed_dim"],
            norm_first=e.get("normalize_before", False),
            dropout=0.0,
            attention_dropout=0.0,
        ),
        head=HeadConfig(layers=c.get("head_layers", 1)),
        target=target_of(meta, feature="ffn", top_k=c.get("average_top_k_layers", 8)),
        loss=LossConfig(beta=c.get("loss_beta", 0.0), scale=scale if scale is not None and scale > 0 else None),
        teacher=TeacherConfig(averages="layers" if c.get("ema_transformer_layers_only", True) else "all"),
    )
    masked, whole = arrays["batch/src_tokens"], arrays["batch/target_tokens"]
    real = whole != pad_id
    lengths = real.sum(1)
    if not (real == (np.arange(real.shape[1]) < lengths[:, None])).all():
        raise UnknownKind("padding that is not at the end of the sequences")
    return config, _batch(
        torch.from_numpy(whole),
        arrays["fwd/mask_indices"],
        masked_inputs=torch.from_numpy(masked),
        lengths=None if real.all() else torch.from_numpy(lengths),
    )


def _beit(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Batch]:
    c, flags = meta["config"], meta["flags"]
    require(c, qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0, use_abs_pos_emb=False)
    require(c, use_shared_rel_pos_bias=True)
    require(flags, var_w0=0)
    depth, top_k = c["depth"], c["average_top_k_layers"]
    if c.get("target_layers", list(range(depth - top_k, depth))) != list(range(depth - top_k, depth)):
        raise UnknownKind(f"target_layers = {c['target_layers']}, which are not the last ones")
    loss_scale = flags.get("loss_scale", -1)
    config = ModelConfig(
        embedding=VisionEmbedding(
            image_size=c["img_size"], patch_size=c["patch_size"], channels=arrays["batch/img"].shape[1]
        ),
        transformer=_vision_transformer(c, c["mlp_ratio"], c["init_values"], c["ln_eps"]),
        target=target_of(meta, feature="ffn" if flags["layer_results"] == "fc" else "block", top_k=top_k, beit=True),
        loss=LossConfig(
            beta=0.0 if flags["l2_loss"] else flags["l1_beta"],
            scale=(1.0 if loss_scale == -1 else loss_scale) / c["embed_dim"],  # theirs is the mean over channels
        ),
        teacher=TeacherConfig(averages="all"),
    )
    return config, _batch(torch.from_numpy(arrays["batch/img"]), arrays["fwd/mask_indices"])


def _fairseq_vision(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Batch]:
    c = meta["config"]
    require(c, shared_rel_pos_bias=True, drop_path=0.0, attention_dropout=0.0)
    weight, scale = arrays["student0/patch_embed.conv.weight"], c.get("loss_scale")
    config = ModelConfig(
        embedding=VisionEmbedding(
            image_size=c.get("image_size", arrays["batch/img"].shape[-1]),
            patch_size=c.get("patch_size", weight.shape[-1]),
            channels=weight.shape[1],
        ),
        transformer=_vision_transformer(c, c.get("mlp_ratio", 4), c.get("layer_scale_init_value", 1e-4), 1e-5),
        target=target_of(
            meta,
            feature="block" if c.get("end_of_block_targets", True) else "ffn",
            top_k=c.get("average_top_k_layers", 8),
        ),
        loss=LossConfig(beta=c.get("loss_beta", 0.0), scale=1.0 if scale is not None and scale <= 0 else scale),
        teacher=TeacherConfig(averages="transformer" if c.get("ema_transformer_only", True) else "all"),
    )
    return config, _batch(torch.from_numpy(arrays["batch/img"]), arrays["fwd/mask_indices"])


def _vision_transformer(c: Mapping[str, Any], ratio: float, layer_scale: float, norm_eps: float) -> TransformerConfig:
    return TransformerConfig(
        dim=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        ffn_dim=int(c["embed_dim"] * ratio),
        norm_first=True,
        norm_eps=norm_eps,
        key_bias=False,
        dropout=0.0,
        attention_dropout=0.0,
        layer_scale=layer_scale if layer_scale > 0 else None,
    )


def layers_of(text: str) -> tuple[tuple[int, int, int], ...]:
    """Value of an expression like "[(512, 10, 5)] + [(512, 3, 2)] * 4", without evaluating code."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            return left + right if isinstance(node.op, ast.Add) else left * right
        return ast.literal_eval(node)

    return tuple(tuple(layer) for layer in value(ast.parse(text, mode="eval").body))
