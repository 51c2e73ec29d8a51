"""What transformers' own classes have no room for: a folder with its own modelling file (`modeling_d2v_fast.py`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from d2v_fast.errors import RunError
from d2v_fast.interop.outputs import Outputs
from d2v_fast.interop.processors import write_processor
from d2v_fast.interop.trained import Trained, Written
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.series.config import SeriesEmbedding
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import (
    DecoderConfig,
    EmbeddingConfig,
    HeadConfig,
    ModelConfig,
    TargetConfig,
    TransformerConfig,
)

MODELLING = Path(__file__).with_name("modeling_d2v_fast.py")
MODEL_TYPE = "d2v_fast"
"""What config.json calls these models."""

CONFIGURATION = Path(__file__).with_name("configuration_d2v_fast.py")
POSITIONS = Path(__file__).with_name("positions_d2v_fast.py")


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
        "model_type": MODEL_TYPE,
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
        "second": config.encodes_kept,
        "extra_tokens": network.extra_tokens,
        "dropout": network.dropout,
        "input_dropout": network.dropout if network.input_dropout is None else network.input_dropout,
        "attention_dropout": network.attention_dropout,
        "activation_dropout": network.activation_dropout,
        **_embedding(config.embedding),
        **({} if outputs is None else _head(outputs)),
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    for file in (MODELLING, CONFIGURATION, POSITIONS):
        shutil.copyfile(file, folder / file.name)
    state = {key: value.contiguous() for key, value in trained.encoder.state_dict().items()}
    if outputs is not None:
        state = {f"encoder.{key}": value for key, value in state.items()}
        state |= {f"head.{key}": value.contiguous() for key, value in outputs.state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    made = write_processor(folder, trained, auto, trust=True)
    notes = (
        f"transformers' own classes do not hold this model ({reason}), so the folder has a modelling file of its own,\n"
        "with one for its settings and one for positions. They need torch and transformers, not d2v_fast. Read them "
        "before you let them run. Features have no class token."
    )
    return Written(made.usage, f"{notes}\n\n{made.notes}")


def model_of(folder: Path, settings: Mapping[str, Any]) -> ModelConfig:
    """The model of a folder with our modelling file, from its config.json.

    Raises:
        RunError: A setting is missing, or cannot be used.
    """
    try:
        network = TransformerConfig(
            dim=settings["hidden_size"],
            depth=settings["num_hidden_layers"],
            heads=settings["num_attention_heads"],
            ffn_dim=settings["intermediate_size"],
            norm_first=settings["norm_first"],
            norm_eps=settings["layer_norm_eps"],
            key_bias=settings["key_bias"],
            layer_scale=0.1 if settings["layer_scale"] else None,
            extra_tokens=settings.get("extra_tokens", 0),
        )
        target = TargetConfig(top_k=min(TargetConfig.top_k, network.depth))
        second = settings.get("second", False)
        head = DecoderConfig(dim=network.dim, groups=1) if second else HeadConfig()  # encoders have neither
        return ModelConfig(embedding=_embedding_of(settings), transformer=network, target=target, head=head)
    except KeyError as error:
        raise RunError(f"{folder / 'config.json'} cannot be used: {error} is missing") from error
    except (ValueError, TypeError) as error:  # a ConfigError is one of the first
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error


def _embedding_of(settings: Mapping[str, Any]) -> EmbeddingConfig:
    """The inverse of `_embedding`."""
    modality = settings["modality"]
    if modality in ("speech", "series"):
        frames = {name: settings[name] for name in ("position_depth", "position_kernel", "position_groups")}
        frames["alibi"] = settings.get("alibi", False)
        frames["conv_layers"] = tuple(tuple(layer) for layer in settings["conv_layers"])
        if modality == "speech":
            return SpeechEmbedding(**frames)
        return SeriesEmbedding(channels=settings["channels"], **frames)
    if modality == "vision":
        return VisionEmbedding(
            image_size=settings["size"][0],
            patch_size=settings["patch"][0],
            channels=settings["channels"],
            positions=settings["positions"],
        )
    if modality == "spectrogram":
        longest, bins = settings["size"]
        return SpectrogramEmbedding(bins=bins, patch=tuple(settings["patch"]), max_frames=longest)
    if modality == "text":
        names = ("position_depth", "position_kernel", "position_groups")
        return TextEmbedding(
            vocab_size=settings["vocab_size"],
            max_length=settings["longest"],
            pad_id=settings["pad_token_id"],
            **({name: settings[name] for name in names} if settings.get("position_depth", 0) else {}),
        )
    raise ValueError(f"modality is {modality!r}")


def outputs_of(state: Mapping[str, Tensor], settings: Mapping[str, Any], symbols: tuple[str, ...]) -> Outputs | None:
    """What is on the encoder of a folder with our modelling file; None if there is nothing.

    Args:
        state: Its tensors.
        settings: Its config.json.
        symbols: Of its vocabulary, if it has one.
    """
    head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    if not head:
        return None
    problem = settings.get("problem_type")
    names = {int(number): str(name) for number, name in settings.get("id2label", {}).items()}
    tasks = {"multi_label_classification": "tag", "regression": "regress", "single_label_classification": "classify"}
    return Outputs(
        tasks.get(problem, "ctc"),  # type: ignore[arg-type]  # a dictionary's values are str
        symbols if problem not in tasks else tuple(names[number] for number in sorted(names)),
        head,
        pooling=settings["pooling"],
        layers=settings["pooled_layers"],
        dropout=float(settings["classifier_dropout"]),
    )


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
            "alibi": embedding.alibi,
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
            "position_depth": embedding.position_depth,
            "position_kernel": embedding.position_kernel,
            "position_groups": embedding.position_groups,
        }
    raise ValueError(f"neither transformers nor the modelling file has a model of the modality {embedding.modality}")
