"""Models of transformers as folders: weights, configuration, and what makes inputs of samples."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from d2v_fast.interop import huggingface, huggingface_heads
from d2v_fast.interop.processors import write_processor
from d2v_fast.interop.remote import write_remote
from d2v_fast.interop.trained import Trained, Written
from d2v_fast.log import tell
from d2v_fast.modalities.text.config import TextEmbedding


def write_hf(folder: Path, trained: Trained) -> Written:
    """Write a data2vec model of transformers, with its processor or tokenizer, and the outputs of a fine-tuning.

    A model that transformers' own classes have no room for gets a modelling file of its own, see `remote`.

    Args:
        folder: An empty folder.
        trained: What is written.

    Raises:
        ImportError: transformers is not installed.
        ValueError: The modality is one of the user's own.
    """
    config, outputs = trained.config, trained.outputs
    try:
        their_config = huggingface.config_for(config)
        head = None if outputs is None else huggingface_heads.from_ours(outputs, config)
    except ValueError as error:
        tell(f"{error}: the folder gets a modelling file of its own, which is loaded with trust_remote_code=True")
        return write_remote(folder, trained, str(error))
    state = huggingface.from_ours(trained.encoder.state_dict(), config)
    their_config.architectures = [type(their_config).__name__.replace("Config", "Model")]
    if head is not None:
        prefix = huggingface.PREFIXES[config.modality]
        unused = {f"{prefix}layernorm.{kind}" for kind in ("weight", "bias") if head.settings.get("use_mean_pooling")}
        state = {f"{prefix}{name}": value for name, value in state.items()} | head.state
        state = {name: value for name, value in state.items() if name not in unused}
        their_config.architectures = [head.name]
        for name, value in head.settings.items():
            setattr(their_config, name, value)
    elif isinstance(config.embedding, TextEmbedding):  # without a pooler AutoModel would draw one
        state["pooler.dense.weight"] = torch.eye(their_config.hidden_size)
        state["pooler.dense.bias"] = torch.zeros(their_config.hidden_size)
    their_config.dtype = "float32"
    their_config.save_pretrained(folder)
    # Not by a model's save_pretrained, which shows a bar and would need the model a second time.
    state = {name: value.contiguous() for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    auto = "AutoModel" if head is None else _AUTO[head.name]
    return write_processor(folder, trained, auto)


_AUTO = {
    "Data2VecAudioForCTC": "AutoModelForCTC",
    "Data2VecAudioForSequenceClassification": "AutoModelForAudioClassification",
    "Data2VecTextForSequenceClassification": "AutoModelForSequenceClassification",
    "Data2VecVisionForImageClassification": "AutoModelForImageClassification",
}
"""How transformers finds a class."""
