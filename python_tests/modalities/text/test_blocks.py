from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loading import make_loader, open_source

from d2v_fast import registry
from d2v_fast.data import LoaderConfig
from d2v_fast.masking import Masks
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.tokenizer import load, train

BEGIN, PAD, END = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer():
    return train(["some words to learn letters from"], 270)


def corpus(*lengths):
    """Documents of so many tokens, their end tokens included; document i is made of 10 i + 10, 10 i + 11, ..."""
    documents = [[*range(10 * i + 10, 10 * i + 9 + length), END] for i, length in enumerate(lengths)]
    return np.array([token for document in documents for token in document], dtype=np.uint16)


def test_packed_blocks_follow_each_other(tokenizer):
    blocks = TextBlocks(corpus(3, 5, 4), tokenizer, 6, "f")
    assert blocks.sizes.tolist() == [6, 6]
    assert blocks.read(0).tolist() == [BEGIN, 10, 11, END, 20, 21]
    assert blocks.read(1).tolist() == [BEGIN, 22, 23, END, 30, 31]
    assert blocks.read(1).dtype == np.int64


def test_a_run_on_blocks_keeps_their_tokenizer(tokenizer, tmp_path):
    inputs = TextInputs(block_size=6)
    for _ in range(2):  # the second start finds it there
        open_source(TextBlocks(corpus(3, 5, 4), tokenizer, 6, "f"), "text", inputs, run=tmp_path)
    kept = load(Path(registry.get("text").for_features(inputs, tmp_path).tokenizer))
    assert kept.get_vocab() == tokenizer.get_vocab()


def test_documents_are_sequences_of_their_own(tokenizer):
    blocks = TextBlocks(corpus(3, 6, 2, 1, 13), tokenizer, 6, "f", packed=False)
    assert [blocks.read(i).tolist() for i in range(len(blocks))] == [
        [BEGIN, 10, 11, END],
        [BEGIN, 20, 21, 22, 23, 24],  # its end token would be alone
        [BEGIN, 30, END],
        # the fourth document is empty
        [BEGIN, 50, 51, 52, 53, 54],
        [BEGIN, 55, 56, 57, 58, 59],
        [BEGIN, 60, 61, END],
    ]
    assert blocks.sizes.tolist() == [4, 6, 3, 6, 6, 4]


@pytest.mark.parametrize("packed", [False, True])
def test_many_at_once_are_what_one_by_one_gives(tokenizer, packed):
    random = np.random.default_rng(0)
    blocks = TextBlocks(corpus(*random.integers(1, 40, 60)), tokenizer, 16, "f", packed=packed)
    indices = random.permutation(len(blocks))[:20]
    out = np.full((20, 18), -7, dtype=np.int64)
    blocks.gather(indices, out)
    for row, index in zip(out, indices, strict=True):
        size = blocks.sizes[index]
        assert np.array_equal(row[:size], blocks.read(index))
        assert (row[size:] == PAD).all()


@pytest.mark.parametrize("packed", [False, True])
def test_the_loader_takes_a_whole_batch_at_once(tmp_path, packed, monkeypatch):
    (tmp_path / "a.jsonl").write_text("\n".join('{"text": "%s"}' % ("a long tale " * (i % 7 + 1)) for i in range(40)))
    inputs = TextInputs(block_size=24, packed=packed)
    source = open_source(tmp_path / "a.jsonl", "text", inputs, vocab_size=270)

    def no_masks(tokens, lengths, sample_ids, epoch):
        return Masks(torch.zeros(tokens.shape, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), tokens)

    def one_by_one(index):
        raise AssertionError("this is slow")

    expected = {i: source.read(i).tolist() for i in range(len(source))}
    assert ({len(tokens) for tokens in expected.values()} == {24}) == packed
    monkeypatch.setattr(source, "read", one_by_one)
    config = LoaderConfig(batch_tokens=96)
    with make_loader(source, inputs=inputs, config=config, seed=0, masks=no_masks) as loader:
        batches = [loader.step(n)[0] for n in range(loader.batches_per_epoch)]
    for batch in batches:
        lengths = [24] * len(batch.inputs) if batch.lengths is None else batch.lengths.tolist()
        for row, sample, length in zip(batch.inputs, batch.sample_ids.tolist(), lengths, strict=True):
            assert row[:length].tolist() == expected[sample]
            assert (row[length:] == PAD).all()
    seen = torch.cat([batch.sample_ids for batch in batches])
    assert len(set(seen.tolist())) == len(seen) > 0.7 * len(source)
