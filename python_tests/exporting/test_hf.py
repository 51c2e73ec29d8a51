"""An export to transformers computes what our encoder computes, and holds all that is needed to use it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast.errors import RunError

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra export)")

MODALITIES = ("speech", "vision", "text")


def samples(modality):
    """Three samples of different lengths, as a source reads them."""
    random = np.random.default_rng(5)
    if modality == "speech":
        return [random.standard_normal(n).astype(np.float32) for n in (9000, 7000, 5003)]
    if modality == "vision":
        return [random.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(3)]
    return [np.concatenate([[0], random.integers(5, 290, n), [2]]) for n in (14, 9, 2)]


def padded_batch(encoder, modality):
    """Ours: inputs and lengths; theirs: keyword arguments with an attention mask."""
    rows = [encoder.prepare(sample) for sample in samples(modality)]
    if modality == "vision":
        return (torch.stack(rows),), {"pixel_values": torch.stack(rows)}
    lengths = torch.tensor([len(row) for row in rows])
    pad = encoder.config.pad_id if modality == "text" else 0
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
    name = "input_ids" if modality == "text" else "input_values"
    return (inputs, lengths), {name: inputs, "attention_mask": mask}


def valid(encoder, modality, features, lengths=None):
    """The valid tokens of all rows, one after the other, in float64; the class token is left out."""
    if modality == "vision":
        return features.double().flatten(0, 1)
    tokens = encoder.token_lengths(lengths).tolist()
    return torch.cat([row[:n] for row, n in zip(features.double(), tokens, strict=True)])


def in_dtype(values, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}


@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_transformers_computes_the_same(modality, network, finished, tmp_path):
    run = finished(modality)
    out = d2v_fast.export(run, "hf", tmp_path / "model", network=network)
    encoder = d2v_fast.load(run, network)
    ours_in, theirs_in = padded_batch(encoder, modality)
    found = {}
    for dtype in (torch.float32, torch.float64):
        model, info = transformers.AutoModel.from_pretrained(out, dtype=dtype, output_loading_info=True)
        assert type(model).__name__ == f"Data2Vec{ {'speech': 'Audio'}.get(modality, modality.title()) }Model"
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        with torch.no_grad():
            theirs = model.eval()(**in_dtype(theirs_in, dtype)).last_hidden_state
            ours = encoder.to(dtype)(*in_dtype(dict(enumerate(ours_in)), dtype).values())
        theirs = theirs[:, 1:] if modality == "vision" else theirs
        found[dtype] = [valid(encoder, modality, features, *ours_in[1:]) for features in (ours, theirs)]
    ours, theirs = found[torch.float64]
    assert theirs.abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()
    ours32, theirs32 = found[torch.float32]
    own_error = (theirs32 - theirs).abs().max()
    assert (ours32 - theirs).abs().max() <= 2 * own_error


def test_the_processor_prepares_clips_as_the_run_did(finished, tmp_path):
    run = finished("speech")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    encoder = d2v_fast.load(run)
    clips = samples("speech")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(out)
    batch = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [len(clip) for clip in clips]
    for row, clip in zip(batch["input_values"], clips, strict=True):
        prepared = encoder.prepare(clip)
        torch.testing.assert_close(row[: len(prepared)], prepared, rtol=1e-4, atol=1e-4)


def test_the_processor_prepares_pictures_as_the_run_did(finished, tmp_path):
    run = finished("vision")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    encoder = d2v_fast.load(run)
    pictures = samples("vision")
    batch = transformers.AutoImageProcessor.from_pretrained(out)(pictures, return_tensors="pt")["pixel_values"]
    one_grey_level = 1 / 255 / 0.224
    for row, picture in zip(batch, pictures, strict=True):
        assert (row - encoder.prepare(picture)).abs().max() <= 1.1 * one_grey_level


def test_the_tokenizer_gives_the_ids_of_the_run(finished, tmp_path):
    run = finished("text")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    encoder = d2v_fast.load(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    texts = ["the teacher sees", "all of it"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    from tokenizers import Tokenizer

    kept = Tokenizer.from_file(str(run / "tokenizer.json"))
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        wanted = [0, *kept.encode(text, add_special_tokens=False).ids, 2]
        assert ids[mask.bool()].tolist() == wanted
        assert set(ids[~mask.bool()].tolist()) <= {encoder.config.pad_id}
    assert (tokenizer.mask_token, tokenizer.pad_token_id, tokenizer.model_max_length) == ("<mask>", 1, 16)
    assert "token_type_ids" not in batch


@pytest.mark.parametrize(
    ("modality", "name", "new"),
    [
        ("speech", "AutoModelForCTC", "lm_head"),
        ("vision", "AutoModelForImageClassification", "classifier"),
        ("text", "AutoModelForSequenceClassification", "classifier"),
    ],
)
def test_a_model_with_a_head_takes_the_encoder(modality, name, new, finished, tmp_path):
    out = d2v_fast.export(finished(modality), "hf", tmp_path / "model")
    model, info = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    assert all(key.startswith(new) for key in info["missing_keys"]), info
    assert all("pooler" in key for key in info["unexpected_keys"]), info
    plain = transformers.AutoModel.from_pretrained(out)
    inner = getattr(model, model.base_model_prefix)
    first, second = inner.state_dict(), plain.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in second if "pooler" not in key)


def test_the_card_says_where_the_weights_are_from(finished, tmp_path):
    run = finished("speech")
    out = d2v_fast.export(run, "hf", tmp_path / "model", network="teacher")
    known = json.loads((out / "d2v_fast.json").read_text())
    text = (out / "README.md").read_text()
    fingerprint = d2v_fast.Run(run).data["fingerprint"]
    assert known["data"]["fingerprint"] == fingerprint
    assert (known["step"], known["network"], known["run"]) == (2, "teacher", run.name)
    assert known["config"]["optim"]["lr"] == 1e-3
    for part in (fingerprint, "2 of 2", "| Network | teacher |", run.name, d2v_fast.__version__, '"lr": 0.001'):
        assert part in text, part
    assert str(run.parent) not in text + json.dumps(known)
    assert text.startswith("---\nlibrary_name: transformers\n")


def test_without_transformers_the_message_names_the_extra(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(RunError, match=r"pip install 'd2v_fast\[export\]'"):
        d2v_fast.export(finished("text"), "hf", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
