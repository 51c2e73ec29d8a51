"""What makes inputs of samples, as transformers reads it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from d2v_fast.interop.outputs import Outputs
from d2v_fast.interop.trained import Trained, Written
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.text.tokenizer import specials
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs


def write_processor(folder: Path, trained: Trained, auto: str, *, trust: bool = False) -> Written:
    """Write what makes inputs of samples, and words of outputs, where transformers has such a thing for the modality.

    Args:
        folder: Where to.
        trained: Whose it is.
        auto: The class of transformers that loads the folder.
        trust: It needs `trust_remote_code`.
    """
    import transformers

    inputs, embedding, outputs = trained.inputs, trained.config.embedding, trained.outputs
    usage = partial(_usage, auto, outputs, trust)
    if isinstance(inputs, SpeechInputs) and isinstance(embedding, SpeechEmbedding):
        extractor = transformers.Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=inputs.sample_rate,
            padding_value=0.0,
            do_normalize=inputs.normalize,
            return_attention_mask=True,
        )
        call = f'**prepare(clips, sampling_rate={inputs.sample_rate}, padding=True, return_tensors="pt")'
        if outputs is not None and outputs.task == "ctc":
            symbols = _symbols(folder, outputs.labels)
            transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=symbols).save_pretrained(folder)
            extractor.save_pretrained(folder)  # beside the processor's file, where older readers look
            return Written(usage("AutoProcessor", call), f"{_SPEECH.strip()}\n\n{_SYMBOLS.strip()}")
        extractor.save_pretrained(folder)
        return Written(usage("AutoFeatureExtractor", call), _SPEECH)
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
        call = '**prepare(picture, return_tensors="pt")'
        return Written(usage("AutoImageProcessor", call), _VISION if outputs is None else _RESIZED)
    if not isinstance(embedding, TextEmbedding):
        name = "pixel_values" if trained.config.modality == "spectrogram" else "input_values"
        note = "Inputs have to be made as the run made them: see `inputs` in the settings below."
        return Written(usage("", f"{name}=inputs, attention_mask=mask"), note)
    text = _TEXT if outputs is None else ""
    if trained.tokenizer is None:
        call = "input_ids=tokens, attention_mask=tokens != model.config.pad_token_id"
        note = "The run read token ids from a source of its own: there is no tokenizer."
        return Written(usage("", call), f"{text}\n\n{note}")
    _fast_tokenizer(trained.tokenizer, embedding).save_pretrained(folder)
    call = '**prepare(["a text", "another"], padding=True, return_tensors="pt")'
    return Written(usage("AutoTokenizer", call), text)


def _usage(auto: str, outputs: Outputs | None, trust: bool, prepare: str, call: str) -> str:
    """Lines of Python: load the model and, where there is one, what makes inputs; call it."""
    return _USAGE.format(
        imports=", ".join(sorted(name for name in (auto, prepare) if name)),
        prepare=f'prepare = {prepare}.from_pretrained("FOLDER")\n' if prepare else "",
        auto=auto,
        trust=", trust_remote_code=True" if trust else "",
        result="features" if outputs is None else "logits",
        call=call,
        attribute="last_hidden_state" if outputs is None else "logits",
    ) + _READ.get("" if outputs is None else outputs.task, "")


def _symbols(folder: Path, symbols: tuple[str, ...]) -> Any:
    """The tokenizer of a recogniser's symbols, whose blank is what transformers calls padding."""
    import transformers

    path = folder / "vocab.json"
    numbers = {symbol: i for i, symbol in enumerate(symbols)}
    path.write_text(json.dumps(numbers, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    unknown = next((symbol for symbol in ("<unk>", "[UNK]") if symbol in numbers), symbols[0])
    return transformers.Wav2Vec2CTCTokenizer(
        str(path), bos_token=None, eos_token=None, unk_token=unknown, pad_token=symbols[0], word_delimiter_token="|"
    )


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
from transformers import {imports}

{prepare}model = {auto}.from_pretrained("FOLDER"{trust})
{result} = model({call}).{attribute}
"""
_READ = {
    "classify": "label = model.config.id2label[int(logits[0].argmax())]\n",
    "tag": "labels = [model.config.id2label[i] for i in (logits[0] > 0).nonzero()[:, 0].tolist()]\n",
    "regress": "values = logits[:, 0]\n",
    "ctc": "words = prepare.batch_decode(logits.argmax(2))  # of clips of one length: the rest is padding\n",
}
_SPEECH = """
Give the attention mask with clips of different lengths. What stands at padded frames means nothing. The feature
extractor divides by the root of the variance plus 1e-7, the run by that plus 1e-5: very quiet clips come out louder.
"""
_SYMBOLS = """
Symbol 0 is the blank, which transformers calls padding. Its processor writes words as they were learned, in the case
that the run's `ctc.case` made of them.
"""
_VISION = """
Feature 0 is the class token, the others are the patches row by row. Pictures are resized whole, as the run's own
`encoder.prepare` does.
"""
_RESIZED = """
Pictures are resized whole, as the run's own `encoder.prepare` does.
"""
_TEXT = """
The pooler is the identity with a tanh: it is there so that nothing is missing, and was not trained.
"""
