"""Runs on batches whose rows have different lengths."""

from __future__ import annotations

import pytest

from d2v_fast.data import Loader
from d2v_fast.training.trainer import Data2VecTrainer

CASES = {
    "speech": {"loader": {"pad": True}, "model": {"target": {"exclude_padding": True}}},
    "text": {"inputs": {"packed": False, "block_size": 16}, "loader": {"batch_tokens": 64, "batch_size": 8}},
}


@pytest.mark.parametrize("modality", CASES)
def test_an_interrupted_run_ends_with_the_same_bits(
    modality, make_config, make_data, tmp_path, monkeypatch, assert_same_run, read_lines
):
    config = make_config(modality, **CASES[modality])
    data = make_data(modality)
    if modality == "text":
        data = tmp_path / "documents.jsonl"
        data.write_text("\n".join('{"text": "%s"}' % ("word " * (2 + i % 9)) for i in range(40)))
    original, seen = Loader.step, []

    def step(loader, n):
        batches = original(loader, n)
        seen.extend(batch.lengths for batch in batches)
        return batches

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "step", step)
        whole = Data2VecTrainer(config, data=data, out=tmp_path / "whole").fit()
    assert len(seen) == 16
    assert sum(lengths is not None for lengths in seen) >= 4
    assert all(line["loss"] > 0 for line in read_lines(whole))

    interrupted = Data2VecTrainer(config, data=data, out=tmp_path / "parts")
    forward, calls = interrupted.task.losses, iter(range(9))

    def die_at_the_tenth(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return forward(*arguments)

    interrupted.task.losses = die_at_the_tenth
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    other_threads = make_config(modality, **CASES[modality] | {"loader": CASES[modality]["loader"] | {"threads": 4}})
    Data2VecTrainer(other_threads, data=data, out=tmp_path / "parts").fit()
    assert_same_run(whole, tmp_path / "parts", 8)
