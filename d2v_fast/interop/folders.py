"""Models of other libraries as folders: weights, configuration, and what makes inputs of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, processors

from d2v_fast.config import Config
from d2v_fast.interop import huggingface
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.text.tokenizer import specials
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models import Encoder


class Written(NamedTuple):
    """What the model card says about a folder's format."""

    usage: str
    """Lines of Python that load it."""

    notes: str
    """What is special about it."""


def write_hf(folder: Path, encoder: Encoder, config: Config, tokenizer: Path | None) -> Written:
    """Write a data2vec model of transformers, with its processor or tokenizer.

    Args:
        folder: An empty folder.
        encoder: With weights in float32.
        config: Of its run.
        tokenizer: The `tokenizers` JSON file of its run, where it has one.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers' data2vec models lack a part of this one.
    """
    their_config = huggingface.config_for(config.model)
    import transformers

    state = huggingface.from_ours(encoder.state_dict(), config.model)
    name = type(their_config).__name__.replace("Config", "Model")
    with torch.random.fork_rng([]):  # the first weights are drawn, and thrown away
        model = getattr(transformers, name)(their_config)
    if getattr(model, "pooler", None) is not None:  # of the text model; without it AutoModel would draw one
        state["pooler.dense.weight"] = torch.eye(their_config.hidden_size)
        state["pooler.dense.bias"] = torch.zeros(their_config.hidden_size)
    model.load_state_dict(state, strict=True)
    model.eval().save_pretrained(folder)
    return _processor(folder, config, tokenizer)


def _processor(folder: Path, config: Config, tokenizer: Path | None) -> Written:
    """What makes inputs of samples."""
    import transformers

    inputs, embedding = config.inputs, config.model.embedding
    if isinstance(inputs, SpeechInputs):
        transformers.Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=inputs.sample_rate,
            padding_value=0.0,
            do_normalize=inputs.normalize,
            return_attention_mask=True,
        ).save_pretrained(folder)
        return Written(_USAGE.format(auto="AutoFeatureExtractor", sample=_SOUND.format(inputs.sample_rate)), _SPEECH)
    if isinstance(inputs, VisionInputs) and isinstance(embedding, VisionEmbedding):
        side = {"height": embedding.image_size, "width": embedding.image_size}
        transformers.BeitImageProcessor(
            do_resize=True,
            size=side,
            resample=3,  # bicubic
            do_center_crop=False,
            do_rescale=True,
            do_normalize=True,
            image_mean=each(inputs.mean, embedding.channels),
            image_std=each(inputs.std, embedding.channels),
        ).save_pretrained(folder)
        return Written(_USAGE.format(auto="AutoImageProcessor", sample="picture"), _VISION)
    assert isinstance(embedding, TextEmbedding)  # `config_for` has refused all others
    if tokenizer is None:
        return Written(_TOKENS, f"{_TEXT}\n\nThe run read token ids from a source of its own: there is no tokenizer.")
    _fast_tokenizer(tokenizer, embedding).save_pretrained(folder)
    return Written(_USAGE.format(auto="AutoTokenizer", sample='["a text", "another"], padding=True'), _TEXT)


def _fast_tokenizer(path: Path, embedding: TextEmbedding) -> Any:
    """The run's tokenizer, which puts the begin token before a text and the end token behind it, as the run did."""
    import transformers

    tokenizer = Tokenizer.from_file(str(path))
    known = specials(tokenizer)
    begin, end, pad, mask = (tokenizer.id_to_token(i) for i in (known.begin, known.end, known.pad, known.mask))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(begin, known.begin), (end, known.end)],
    )
    unknown = next((name for name in ("<unk>", "[UNK]") if tokenizer.token_to_id(name) is not None), None)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=embedding.max_length,
        bos_token=begin,
        cls_token=begin,
        eos_token=end,
        sep_token=end,
        pad_token=pad,
        mask_token=mask,
        unk_token=unknown,
        model_input_names=["input_ids", "attention_mask"],
    )


def each(values: tuple[float, ...], channels: int) -> list[float]:
    """A value for each channel, where one may stand for all."""
    return list(values) if len(values) == channels else [values[0]] * channels


_USAGE = """
from transformers import AutoModel, {auto}

prepare, model = {auto}.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")
features = model(**prepare({sample}, return_tensors="pt")).last_hidden_state
"""
_TOKENS = """
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")
features = model(input_ids=tokens, attention_mask=tokens != model.config.pad_token_id).last_hidden_state
"""
_SOUND = "clips, sampling_rate={}, padding=True"
_SPEECH = """
Give the attention mask with clips of different lengths. What stands at padded frames means nothing. The feature
extractor divides by the root of the variance plus 1e-7, the run by that plus 1e-5: very quiet clips come out louder.
"""
_VISION = """
Feature 0 is the class token, the others are the patches row by row. Pictures are resized whole, as the run's own
`encoder.prepare` does.
"""
_TEXT = """
The pooler is the identity with a tanh: it is there so that nothing is missing, and was not trained.
"""
