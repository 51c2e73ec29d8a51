"""Reads the files of data2vec 2.0 (fairseq's data2vec_multi): options as our configuration, batch and noise.

The defaults are those of the released classes, for options that a file leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from golden_case import UnknownKind, layers_of, require, target_of
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import (
    DecoderConfig,
    EmbeddingConfig,
    LossConfig,
    ModelConfig,
    TeacherConfig,
    TransformerConfig,
)

Arrays = Mapping[str, np.ndarray]


def read_second(meta: Mapping[str, Any], arrays: Arrays) -> tuple[str, ModelConfig, Batch, tuple[Tensor, ...]]:
    """(kind, model, batch, noise of each forward pass).

    Raises:
        UnknownKind: if it has options that this library does not have.
    """
    try:
        c, m, d = meta["config"], meta["config"]["_m"], meta["config"].get("_d", {})
        modality = c["supported_modality"].lower()
        read = {"audio": _speech, "image": _vision, "text": _text}.get(modality)
        if read is None:
            raise UnknownKind(f"supported_modality = {modality}")
        _refuse(c, m, d)
        embedding, inputs, lengths = read(c, m, arrays)
        batch = _batch(c, arrays, inputs, lengths)
        config = _config(meta, m, d, modality, embedding, views=len(batch.mask))
        if lengths is not None and config.loss.class_token > 0:
            raise UnknownKind("cls_loss with padding, which the reference counts in the mean target and we do not")
        noise = _noise(arrays, batch)
        if not noise and m.get("mask_noise_std", 0.01) > 0:
            raise UnknownKind("noise at the hidden positions that the file does not have (fwd/mask_noise)")
        return f"fairseq 2.0 {modality}", config, batch, noise
    except KeyError as error:
        raise UnknownKind(f"a file of data2vec 2.0 without {error}") from error


def _refuse(c: Mapping[str, Any], m: Mapping[str, Any], d: Mapping[str, Any]) -> None:
    require(
        c, encoder_dropout=0.0, post_mlp_drop=0.0, attention_dropout=0.0, activation_dropout=0.0, dropout_input=0.0,
        layerdrop=0.0, start_drop_path_rate=0.0, end_drop_path_rate=0.0, layer_norm_first=False, norm_affine=True,
        recon_loss=0.0, d2v_loss=1.0, shared_decoder=None,
    )  # fmt: skip
    require(
        m, prenet_layerdrop=0.0, prenet_dropout=0.0, dropout=0.0, mask_dropout=0.0, keep_masked_pct=0.0,
        encoder_zero_mask=True, learned_alibi=False, learned_alibi_scale_per_layer=False, mask_channel_prob=0.0,
    )  # fmt: skip
    require(d, input_dropout=0.0, add_positions_masked=False, add_positions_all=False)


def _config(
    meta: Mapping[str, Any],
    m: Mapping[str, Any],
    d: Mapping[str, Any],
    modality: str,
    embedding: EmbeddingConfig,
    *,
    views: int,
) -> ModelConfig:
    c = meta["config"]
    dim, prenet = c.get("embed_dim", 768), m.get("prenet_depth", 4)
    tokens = m.get("num_extra_tokens", 0)
    if modality == "image":
        if tokens != 1:
            raise UnknownKind(f"num_extra_tokens = {tokens} with images, which have one class token in this library")
        tokens = 0
    elif tokens > 1 and c.get("cls_loss", 0) > 0:
        raise UnknownKind(f"num_extra_tokens = {tokens} with cls_loss, which looks at the last one only")
    if prenet and modality == "text":
        raise UnknownKind("a prenet with text, which the teacher shares with the student and runs in training mode")
    only_blocks, front = c.get("ema_encoder_only", True), m.get("ema_local_encoder", False)
    head = DecoderConfig(
        dim=d.get("decoder_dim", 384),
        layers=d.get("decoder_layers", 5),
        kernel=d.get("decoder_kernel", 5),
        groups=d.get("decoder_groups", 16),
        residual=d.get("decoder_residual", True),
        projection_layers=1 if modality == "image" else d.get("projection_layers", 1),  # theirs ignores it for images
        projection_ratio=d.get("projection_ratio", 2.0),
        input_dropout=0.0,
        noise=m.get("mask_noise_std", 0.01),
    )
    return ModelConfig(
        embedding=embedding,
        transformer=TransformerConfig(
            dim=dim,
            depth=prenet + c.get("depth", 8),
            prenet=prenet,
            extra_tokens=tokens,
            heads=c.get("num_heads", 12),
            ffn_dim=int(dim * c.get("mlp_ratio", 4)),
            norm_eps=c.get("norm_eps", 1e-6),
            dropout=0.0,
            attention_dropout=0.0,
        ),
        head=head,
        target=target_of(
            meta,
            feature="block" if c.get("end_of_block_targets", False) else "ffn",
            top_k=c.get("average_top_k_layers", 8),
        ),
        loss=LossConfig(
            beta=c.get("loss_beta", 0.0),
            scale=c.get("loss_scale"),
            class_token=c.get("cls_loss", 0.0) * views,  # theirs is a sum over the views, ours a mean
        ),
        teacher=TeacherConfig(averages="layers" if only_blocks else "all" if front else "transformer"),
    )


def _batch(c: Mapping[str, Any], arrays: Arrays, inputs: Tensor, lengths: Tensor | None) -> Batch:
    mask = torch.from_numpy(np.asarray(arrays["fwd/mask_indices"])).bool()
    keep = torch.from_numpy(np.asarray(arrays["fwd/ids_keep"])).long()
    keep = keep.reshape(len(mask), -1)
    width = mask.shape[1]
    kept = (keep.sort(1).values + width * torch.arange(len(mask)).unsqueeze(1)).flatten()
    return Batch(
        inputs=inputs,
        lengths=lengths,
        sample_ids=torch.arange(len(inputs)),
        mask=mask,
        rows=mask.flatten().nonzero().flatten(),
        views=c.get("clone_batch", 1),
        kept=kept,
    )


def _noise(arrays: Arrays, batch: Batch) -> tuple[Tensor, ...]:
    """Theirs, [rows, hidden, C], position t of row b at `ids_restore[b, t]` behind the kept ones; ours [N T - K, C]."""
    given = [arrays["fwd/mask_noise"]] if "fwd/mask_noise" in arrays else []
    if not given:
        return ()
    if "steps/mask_noise" in arrays:
        given += list(arrays["steps/mask_noise"])
    restore = torch.from_numpy(np.asarray(arrays["fwd/ids_restore"])).long().reshape(batch.mask.shape)
    kept = len(batch.kept) // len(batch.mask)
    hidden = restore >= kept
    rows = torch.arange(len(restore)).unsqueeze(1).expand_as(restore)[hidden]
    return tuple(torch.from_numpy(np.asarray(each))[rows, restore[hidden] - kept] for each in given)


def _speech(
    c: Mapping[str, Any], m: Mapping[str, Any], arrays: Arrays
) -> tuple[SpeechEmbedding, Tensor, Tensor | None]:
    require(m, extractor_mode="layer_norm", conv_pos_pre_ln=False, alibi_scale=1.0, use_alibi_encoder=True)
    require(m, learned_alibi_scale=True, learned_alibi_scale_per_head=True)
    require(m, num_alibi_heads=c.get("num_heads", 12))
    if not m.get("use_alibi_encoder", False):
        raise UnknownKind("speech without ALiBi")
    if not (m.get("learned_alibi_scale", False) and m.get("learned_alibi_scale_per_head", False)):
        raise UnknownKind("ALiBi without a learned scale for each head")
    depth = m.get("conv_pos_depth", 5)
    standard = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
    embedding = SpeechEmbedding(
        conv_layers=layers_of(m.get("feature_encoder_spec", standard)),
        position_depth=depth,
        position_kernel=max(3, m.get("conv_pos_width", 95) // depth),
        position_groups=m.get("conv_pos_groups", 16),
        gradient_scale=m.get("local_grad_mult", 1.0),
        alibi=True,
    )
    padding, lengths = arrays.get("batch/padding_mask"), None
    if padding is not None and padding.any():
        if padding.shape != arrays["batch/source"].shape:
            raise UnknownKind(f"batch/padding_mask of shape {padding.shape}; that of the samples is expected")
        lengths = torch.from_numpy((~padding.astype(bool)).sum(1).astype(np.int64))
    return embedding, torch.from_numpy(arrays["batch/source"]), lengths


def _vision(c: Mapping[str, Any], m: Mapping[str, Any], arrays: Arrays) -> tuple[VisionEmbedding, Tensor, None]:
    require(m, use_alibi_encoder=False, fixed_positions=True)
    images = torch.from_numpy(arrays["batch/source"])
    size, patch = m.get("input_size", 224), m.get("patch_size", 16)
    if c.get("embed_dim", 768) != m.get("embed_dim", 768):
        raise UnknownKind("patches of another width than the model's")
    embedding = VisionEmbedding(image_size=size, patch_size=patch, channels=images.shape[1], positions="sincos")
    return embedding, images, None


def _text(c: Mapping[str, Any], m: Mapping[str, Any], arrays: Arrays) -> tuple[TextEmbedding, Tensor, Tensor | None]:
    require(m, use_alibi_encoder=False, learned_pos=True, no_scale_embedding=True, layernorm_embedding=True)
    table = "student0/modality_encoders.TEXT.local_encoder.embed_"
    longest = m.get("max_source_positions", 512)
    pad = len(arrays[f"{table}positions.weight"]) - longest - 1
    tokens = arrays["batch/source"]
    real = tokens != pad
    lengths = real.sum(1)
    if not (real == (np.arange(real.shape[1]) < lengths[:, None])).all():
        raise UnknownKind("padding that is not at the end of the sequences")
    embedding = TextEmbedding(vocab_size=len(arrays[f"{table}tokens.weight"]), max_length=longest, pad_id=pad)
    return embedding, torch.from_numpy(tokens), None if real.all() else torch.from_numpy(lengths)
