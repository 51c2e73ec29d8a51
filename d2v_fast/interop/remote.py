"""What transformers' own classes have no room for: a folder with its own modelling file (`modeling_d2v_fast.py`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from d2v_fast.config import Config
from d2v_fast.interop.processors import AUTO_MODEL, Written, write_processor
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.series.config import SeriesEmbedding
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models import Encoder
from d2v_fast.models.config import EmbeddingConfig

MODELLING = Path(__file__).with_name("modeling_d2v_fast.py")


def write_remote(folder: Path, encoder: Encoder, config: Config, tokenizer: Path | None, reason: str) -> Written:
    """Write weights, settings, the modelling file, and a processor or tokenizer where the modality has one.

    Args:
        folder: An empty folder.
        encoder: With weights in float32.
        config: Of its run.
        tokenizer: The `tokenizers` JSON file of its run, where it has one.
        reason: What transformers' classes have no room for.

    Raises:
        ValueError: The modality is one of the user's own.
    """
    network, name = config.model.transformer, MODELLING.stem
    written = {
        "model_type": "d2v_fast",
        "architectures": ["D2vFastModel"],
        "auto_map": {"AutoConfig": f"{name}.D2vFastConfig", "AutoModel": f"{name}.D2vFastModel"},
        "dtype": "float32",
        "hidden_size": network.dim,
        "num_hidden_layers": network.depth,
        "num_attention_heads": network.heads,
        "intermediate_size": network.ffn_dim,
        "norm_first": network.norm_first,
        "layer_norm_eps": network.norm_eps,
        "key_bias": network.key_bias,
        "layer_scale": network.layer_scale is not None,
        "dropout": network.dropout,
        "attention_dropout": network.attention_dropout,
        "activation_dropout": network.activation_dropout,
        **_embedding(config.model.embedding),
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(MODELLING, folder / MODELLING.name)
    state = {key: value.contiguous() for key, value in encoder.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    made = write_processor(folder, config, tokenizer)
    usage = made.usage.replace(AUTO_MODEL, AUTO_MODEL.replace(")", ", trust_remote_code=True)"))
    notes = (
        f"transformers' own classes do not hold this model ({reason}), so the folder has a modelling file of its own.\n"
        "It needs torch and transformers, not d2v_fast. Read it before you let it run. `last_hidden_state` has no "
        "class token."
    )
    return Written(usage, f"{notes}\n\n{made.notes}")


def _embedding(embedding: EmbeddingConfig) -> dict[str, Any]:
    """The fields of `D2vFastConfig` that belong to a kind of input."""
    if isinstance(embedding, FramesEmbedding) and isinstance(embedding, (SpeechEmbedding, SeriesEmbedding)):
        return {
            "kind": "signal",
            "channels": embedding.channels if isinstance(embedding, SeriesEmbedding) else 1,
            "conv_layers": [list(layer) for layer in embedding.conv_layers],
            "position_depth": embedding.position_depth,
            "position_kernel": embedding.position_kernel,
            "position_groups": embedding.position_groups,
        }
    if isinstance(embedding, VisionEmbedding):
        return {
            "kind": "patches",
            "channels": embedding.channels,
            "size": [embedding.image_size] * 2,
            "patch": [embedding.patch_size] * 2,
            "positions": embedding.positions,
        }
    if isinstance(embedding, SpectrogramEmbedding):
        return {
            "kind": "patches",
            "channels": 1,
            "size": [embedding.max_frames, embedding.bins],
            "patch": list(embedding.patch),
            "positions": "sincos",
        }
    if isinstance(embedding, TextEmbedding):
        return {
            "kind": "tokens",
            "vocab_size": embedding.vocab_size,
            "longest": embedding.max_length,
            "pad_token_id": embedding.pad_id,
        }
    raise ValueError(f"neither transformers nor the modelling file has a model of the modality {embedding.modality}")
