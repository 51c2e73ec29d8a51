"""Token ids as the encoder wants them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2v_fast import presets, registry
from d2v_fast.errors import SampleError
from d2v_fast.modalities.text.prepare import read
from d2v_fast.modalities.text.tokenizer import load, train

CONFIG = presets.text_tiny()


def prepare(tokens):
    return registry.get("text").prepare(tokens, CONFIG.inputs, CONFIG.model.embedding, name="line 3")


def test_ids_of_any_integer_type():
    for tokens in (np.array([0, 7, 9], np.uint16), torch.tensor([0, 7, 9], dtype=torch.int32), [0, 7, 9]):
        torch.testing.assert_close(prepare(tokens), torch.tensor([0, 7, 9]))


def test_what_the_model_cannot_take_is_named_with_the_limit():
    vocabulary, longest = CONFIG.model.embedding.vocab_size, CONFIG.model.embedding.max_length
    for tokens, words in (
        ([0, vocabulary], f"ids from 0 to {vocabulary}; the model's vocabulary has 0 to {vocabulary - 1}"),
        ([0, -3], "ids from -3 to 0"),
        ([0] * (longest + 1), f"has {longest + 1} tokens, the model has positions for {longest}"),
        ([0.5], "token ids are integers"),
        ([[1, 2]], "token ids are integers"),
        ([], "token ids are integers"),
        ("a text", "is a string; give token ids"),
    ):
        with pytest.raises(SampleError, match=f"line 3: .*{words}"):
            prepare(tokens)


def test_a_text_file_is_read_as_training_reads_it(tmp_path):
    train(["the teacher sees all of it\r\n"], 300).save(str(tmp_path / "tokenizer.json"))
    inputs = replace(CONFIG.inputs, tokenizer=str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfthe teacher\r\nsees")
    ids = read(tmp_path / "a.txt", inputs, CONFIG.model.embedding, "a")
    assert ids.tolist() == read("the teacher\r\nsees", inputs, CONFIG.model.embedding, "b").tolist()
    assert load(tmp_path / "tokenizer.json").decode(ids.tolist()) == "the teacher\r\nsees"


def test_half_of_a_surrogate_pair_is_no_text(tmp_path):
    train(["the teacher sees all of it"], 300).save(str(tmp_path / "tokenizer.json"))
    inputs = replace(CONFIG.inputs, tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(SampleError, match="line 3: reading it failed: TypeError"):
        read("the \ud800", inputs, CONFIG.model.embedding, "line 3")
