"""Models of transformers as folders: weights, configuration, and what makes inputs of samples."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from d2v_fast.config import Config
from d2v_fast.interop import huggingface
from d2v_fast.interop.processors import Written, write_processor
from d2v_fast.interop.remote import write_remote
from d2v_fast.log import tell
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.models import Encoder


def write_hf(folder: Path, encoder: Encoder, config: Config, tokenizer: Path | None) -> Written:
    """Write a data2vec model of transformers, with its processor or tokenizer.

    A model that transformers' own classes have no room for gets a modelling file of its own, see `remote`.

    Args:
        folder: An empty folder.
        encoder: With weights in float32.
        config: Of its run.
        tokenizer: The `tokenizers` JSON file of its run, where it has one.

    Raises:
        ImportError: transformers is not installed.
        ValueError: The modality is one of the user's own.
    """
    try:
        their_config = huggingface.config_for(config.model)
    except ValueError as error:
        tell(f"{error}: the folder gets a modelling file of its own, which is loaded with trust_remote_code=True")
        return write_remote(folder, encoder, config, tokenizer, str(error))
    state = huggingface.from_ours(encoder.state_dict(), config.model)
    if isinstance(config.model.embedding, TextEmbedding):  # without a pooler AutoModel would draw one
        state["pooler.dense.weight"] = torch.eye(their_config.hidden_size)
        state["pooler.dense.bias"] = torch.zeros(their_config.hidden_size)
    their_config.architectures = [type(their_config).__name__.replace("Config", "Model")]
    their_config.dtype = "float32"
    their_config.save_pretrained(folder)
    # Not by a model's save_pretrained, which shows a bar and would need the model a second time.
    state = {name: value.contiguous() for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return write_processor(folder, config, tokenizer)
