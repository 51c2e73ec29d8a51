"""timm's `beit`, which has the names of the BEiT-based vision code (`fairseq`) and no mask token."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from d2v_fast.interop import fairseq
from d2v_fast.interop.outputs import Outputs
from d2v_fast.interop.processors import each
from d2v_fast.interop.trained import Trained, Written
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs

ARCHITECTURE = "beit_base_patch16_224"
"""Which of timm's sizes it is called; all that differs is written beside it."""

EPS = 1e-6
"""timm's norms have this one and no other."""


def write_timm(folder: Path, trained: Trained) -> Written:
    """Write weights and configuration as `timm.create_model("local-dir:...")` reads them; timm itself is not needed.

    Args:
        folder: An empty folder.
        trained: What is written.

    Raises:
        ValueError: timm's `beit` lacks a part of this model.
    """
    config, inputs, outputs = trained.config, trained.inputs, trained.outputs
    embedding, network = config.embedding, config.transformer
    if not isinstance(embedding, VisionEmbedding) or not isinstance(inputs, VisionInputs):
        raise ValueError(f"timm has models of images; this one is of the modality {config.modality}")
    state = fairseq.from_ours(trained.encoder.state_dict(), config, part="encoder", vision="beit")
    if network.norm_eps != EPS:
        raise ValueError(f"timm's beit has norms with eps {EPS} and no other; transformer.norm_eps: {network.norm_eps}")
    if int(network.dim * (network.ffn_dim / network.dim)) != network.ffn_dim:  # it is given as a ratio there
        raise ValueError(f"timm cannot express a transformer.ffn_dim of {network.ffn_dim}: it rounds the ratio down")
    del state["mask_token"]
    classes = 0
    if outputs is not None:
        classes = len(outputs.labels)
        _require_room(outputs)
        if outputs.layers == "block":  # the norm after the mean takes the place of the encoder's
            state = {name: value for name, value in state.items() if name not in ("norm.weight", "norm.bias")}
            state |= {f"fc_norm.{kind}": outputs.state[f"norm.{kind}"] for kind in ("weight", "bias")}
        state |= {f"head.{kind}": outputs.state[f"output.{kind}"] for kind in ("weight", "bias")}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    side = embedding.image_size
    written = {
        "architecture": ARCHITECTURE,
        "num_classes": classes,
        "num_features": network.dim,
        "global_pool": "token" if outputs is None else "avg",
        "model_args": {
            "img_size": side,
            "patch_size": embedding.patch_size,
            "in_chans": embedding.channels,
            "embed_dim": network.dim,
            "depth": network.depth,
            "num_heads": network.heads,
            "mlp_ratio": network.ffn_dim / network.dim,
            "init_values": network.layer_scale or 0.0,
            "use_abs_pos_emb": False,
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
            "use_fc_norm": outputs is not None and outputs.norm,
        },
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [embedding.channels, side, side],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",  # the whole picture is resized
            "mean": each(inputs.mean, embedding.channels),
            "std": each(inputs.std, embedding.channels),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if outputs is not None:
        written["label_names"] = list(outputs.labels)
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if outputs is None:
        return Written(_USAGE, _NOTES)
    return Written(_USAGE.replace("features = model.forward_features", "logits = model"), _WITH_HEAD)


def _require_room(outputs: Outputs) -> None:
    """Refuse a head that timm's `beit` does not compute.

    Raises:
        ValueError: It is one.
    """
    room = {"last": False, "block": True}
    fits = outputs.pooling == "mean" and not outputs.hidden and room.get(outputs.layers) == outputs.norm
    if not fits:
        raise ValueError(
            "timm's beit has a linear map on the mean of the encoder's output (head.layers last, no head.norm), or on "
            "a norm of the mean before the encoder's own norm (head.layers block, head.norm) and no other head; "
            f"here are head.pooling {outputs.pooling}, head.layers {outputs.layers}, head.norm {outputs.norm}, "
            f"head.hidden {outputs.hidden}"
        )


_USAGE = """
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model.forward_features(prepare(picture)[None])
"""
_NOTES = """
A `beit` with one relative position bias for all blocks. Feature 0 is the class token, the others are the patches row by
row. There is no mask token and no head: `timm.create_model(..., num_classes=10)` adds one to be fine-tuned.
"""
_WITH_HEAD = """
A `beit` with one relative position bias for all blocks. `logits` [batch, classes] are named by `label_names` in
config.json. There is no mask token.
"""
