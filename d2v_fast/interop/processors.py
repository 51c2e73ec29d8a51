"""What makes inputs of samples, as transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, processors

from d2v_fast.config import Config
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.text.tokenizer import specials
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs

AUTO_MODEL = 'AutoModel.from_pretrained("FOLDER")'


class Written(NamedTuple):
    """What the model card says about a folder's format."""

    usage: str
    """Lines of Python that load it."""

    notes: str
    """What is special about it."""


def write_processor(folder: Path, config: Config, tokenizer: Path | None) -> Written:
    """Write what makes inputs of samples, where transformers has such a thing for the modality.

    Args:
        folder: Where to.
        config: Of the run.
        tokenizer: The `tokenizers` JSON file of the run, where it has one.
    """
    import transformers

    inputs, embedding = config.inputs, config.model.embedding
    if isinstance(inputs, SpeechInputs) and isinstance(embedding, SpeechEmbedding):
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
    if not isinstance(embedding, TextEmbedding):
        return Written(_PLAIN, "Inputs have to be made as the run made them: see `inputs` in the settings below.")
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
_PLAIN = """
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")
features = model(inputs, attention_mask=mask).last_hidden_state
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
