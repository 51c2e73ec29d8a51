"""The settings of a data2vec model of transformers as ours: the inverse of `huggingface.config_for`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d2v_fast.data.config import InputsConfig
from d2v_fast.errors import RunError
from d2v_fast.interop import foreign
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig

_CLASSES = {
    "data2vec-audio": "Data2VecAudioConfig",
    "data2vec-text": "Data2VecTextConfig",
    "data2vec-vision": "Data2VecVisionConfig",
}
_FIXED: dict[str, dict[str, Any]] = {
    "data2vec-audio": {"feat_extract_activation": "gelu", "conv_bias": False, "add_adapter": False},
    "data2vec-text": {"type_vocab_size": 1, "is_decoder": False},
    "data2vec-vision": {
        "use_mask_token": True,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
    },
}
"""What our models have no other value of."""


def settings_of(folder: Path) -> tuple[ModelConfig, InputsConfig]:
    """Model and inputs of a folder.

    Raises:
        RunError: It holds another kind of model, one that has no counterpart here, or transformers is not installed.
    """
    content = foreign.settings(folder)
    kind = content.get("model_type")
    if kind not in _CLASSES:
        raise RunError(
            f"{folder} holds a model of type {kind or content.get('architecture')!r}, not one of {', '.join(_CLASSES)}"
        )
    try:
        import transformers
    except ImportError as error:
        raise RunError("transformers is not installed: pip install 'd2v_fast[export]'") from error
    try:
        # Without the labels, of which it would make a table as long as a number in the file says.
        known = {key: value for key, value in content.items() if key not in ("num_labels", "id2label", "label2id")}
        their = getattr(transformers, _CLASSES[kind]).from_dict(known)
        for name, value in ({"hidden_act": "gelu"} | _FIXED[kind]).items():
            if getattr(their, name) != value:
                raise ValueError(f"{name} is {getattr(their, name)!r}; models here have {value!r}")
        return _model(kind, their), _inputs(kind, folder)
    except Exception as error:  # transformers' checks raise errors of several kinds
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error


def _model(kind: str, their: Any) -> ModelConfig:
    shared = {
        "dim": their.hidden_size,
        "depth": their.num_hidden_layers,
        "heads": their.num_attention_heads,
        "ffn_dim": their.intermediate_size,
        "norm_eps": their.layer_norm_eps,
    }
    target = TargetConfig(top_k=min(TargetConfig.top_k, their.num_hidden_layers))
    if kind == "data2vec-audio":
        convolutions = zip(their.conv_dim, their.conv_kernel, their.conv_stride, strict=True)
        sound = SpeechEmbedding(
            conv_layers=tuple(convolutions),
            position_depth=their.num_conv_pos_embeddings,
            position_kernel=their.conv_pos_kernel_size,
            position_groups=their.num_conv_pos_embedding_groups,
        )
        return ModelConfig(embedding=sound, transformer=TransformerConfig(**shared), target=target)
    if kind == "data2vec-text":
        longest = their.max_position_embeddings - their.pad_token_id - 1
        text = TextEmbedding(vocab_size=their.vocab_size, max_length=longest, pad_id=their.pad_token_id)
        return ModelConfig(embedding=text, transformer=TransformerConfig(**shared), target=target)
    picture = VisionEmbedding(
        image_size=their.image_size, patch_size=their.patch_size, channels=their.num_channels, positions="relative"
    )
    scale = their.layer_scale_init_value or None
    network = TransformerConfig(**shared, norm_first=True, key_bias=False, layer_scale=scale)
    return ModelConfig(embedding=picture, transformer=network, target=target)


def _inputs(kind: str, folder: Path) -> InputsConfig:
    """How samples become inputs, as far as the folder's processor says so."""
    if kind == "data2vec-text":
        return TextInputs()
    path = folder / "preprocessor_config.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kind == "data2vec-audio":
        rate, normalize = known.get("sampling_rate", 16_000), known.get("do_normalize", True)
        return SpeechInputs(sample_rate=rate, normalize=normalize)
    default = VisionInputs()
    mean, std = known.get("image_mean", default.mean), known.get("image_std", default.std)
    return VisionInputs(mean=tuple(mean), std=tuple(std))
