"""What transformers' own classes have no room for: a folder with its own modelling file (`modeling_d2v_fast.py`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from d2v_fast.interop.outputs import Outputs
from d2v_fast.interop.processors import write_processor
from d2v_fast.interop.trained import Trained, Written
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.series.config import SeriesEmbedding
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import EmbeddingConfig, ModelConfig

MODELLING = Path(__file__).with_name("modeling_d2v_fast.py")
CONFIGURATION = Path(__file__).with_name("configuration_d2v_fast.py")


def write_remote(folder: Path, trained: Trained, reason: str) -> Written:
    """Write weights, settings, the modelling files, and a processor or tokenizer where the modality has one.

    Args:
        folder: An empty folder.
        trained: What is written.
        reason: What transformers' classes have no room for.

    Raises:
        ValueError: The modality is one of the user's own.
    """
    config, outputs = trained.config, trained.outputs
    network, name = config.transformer, MODELLING.stem
    architecture, auto = _classes(config, outputs)
    written = {
        "model_type": "d2v_fast",
        "architectures": [architecture],
        "auto_map": {"AutoConfig": f"{CONFIGURATION.stem}.D2vFastConfig", "AutoModel": f"{name}.D2vFastModel"}
        | ({} if outputs is None else {auto: f"{name}.{architecture}"}),
        "dtype": "float32",
        "modality": config.modality,
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
        **_embedding(config.embedding),
        **({} if outputs is None else _head(outputs)),
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    for file in (MODELLING, CONFIGURATION):
        shutil.copyfile(file, folder / file.name)
    state = {key: value.contiguous() for key, value in trained.encoder.state_dict().items()}
    if outputs is not None:
        state = {f"encoder.{key}": value for key, value in state.items()}
        state |= {f"head.{key}": value.contiguous() for key, value in outputs.state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    made = write_processor(folder, trained, auto, trust=True)
    notes = (
        f"transformers' own classes do not hold this model ({reason}), so the folder has a modelling file of its own,\n"
        "and one for its settings. They need torch and transformers, not d2v_fast. Read them before you let them run. "
        "Features have no class token."
    )
    return Written(made.usage, f"{notes}\n\n{made.notes}")


def _classes(config: ModelConfig, outputs: Outputs | None) -> tuple[str, str]:
    """The class in the modelling file, and the one of transformers that finds it."""
    if outputs is None:
        return "D2vFastModel", "AutoModel"
    if outputs.task == "ctc":
        return "D2vFastForCTC", "AutoModelForCTC"
    kinds = {"text": "Sequence", "vision": "Image"}
    return "D2vFastForClassification", f"AutoModelFor{kinds.get(config.modality, 'Audio')}Classification"


def _head(outputs: Outputs) -> dict[str, Any]:
    return {
        "pooling": outputs.pooling,
        "pooled_layers": outputs.layers,
        "pooled_norm": outputs.norm,
        "pooled_hidden": outputs.hidden,
        "classifier_dropout": outputs.dropout,
        **outputs.called(),
    }


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
