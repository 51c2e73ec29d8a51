"""Directions of a run's features beside those of its random start, of the samples of its first steps."""

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast.data import ArraySource
from d2v_fast.evaluation import directions as module
from d2v_fast.evaluation import extract
from d2v_fast.evaluation.directions import directions, sentence
from d2v_fast.run.monitors import effective_rank

RANDOM = np.random.default_rng(0)


def test_of_the_means_over_the_tokens(tmp_path, monkeypatch):
    pictures = list(RANDOM.integers(0, 256, (12, 8, 8), dtype=np.uint8))
    run = d2v_fast.pretrain("vision-tiny", data=pictures, out=tmp_path / "a", steps=2, loader={"batch_size": 12})
    monkeypatch.setattr(module, "SAMPLES", 12)
    ranks = []
    for network in ("student", "initial"):
        features = extract(d2v_fast.load(run, network), pictures)
        ranks.append(float(effective_rank(torch.from_numpy(features))))
    assert directions(run, pictures) == pytest.approx(tuple(ranks), rel=1e-4)
    assert ranks[0] != ranks[1]


def test_padding_does_not_count(tmp_path, monkeypatch):
    clips = [RANDOM.standard_normal(n).astype(np.float32) for n in (9000, 16000, 12000)]
    settings = {"loader": {"batch_seconds": 10.0, "pad": True}, "inputs": {"max_seconds": 1.0}, "steps": 0}
    run = d2v_fast.pretrain("speech-tiny", data=ArraySource("speech", clips), out=tmp_path / "s", **settings)
    monkeypatch.setattr(module, "SAMPLES", 3)
    monkeypatch.setattr(module, "MOST_STEPS", 1)
    features = extract(d2v_fast.load(run), clips)
    expected = float(effective_rank(torch.from_numpy(features)))
    assert directions(run, ArraySource("speech", clips))[0] == pytest.approx(
        expected, rel=5e-3
    )  # padding is seen at the edge


def test_what_is_said():
    assert "more than it" in sentence(20.0, 2.0)
    assert "no more than it" not in sentence(2.41, 2.0)
    for after, before in ((2.3, 2.0), (1.0, 40.0), (float("nan"), 1.0)):
        assert "no more than it" in sentence(after, before)
