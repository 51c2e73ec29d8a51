"""A fine-tuned run is a run: its encoder is loaded, embedded and probed like that of any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.evaluation import read_embedded
from d2v_fast.finetuning.finetune import Finetuning, finetune
from d2v_fast.finetuning.sets import LabelledData
from d2v_fast.finetuning.settings import settle


def test_a_fine_tuned_encoder(make_config, train, tmp_path):
    random = np.random.default_rng(0)
    pictures = [random.integers(60 * (i % 2), 120 + 60 * (i % 2), (16, 16, 3), dtype=np.uint8) for i in range(24)]
    labels = [i % 2 for i in range(24)]
    run = train(make_config("vision", steps=1), tmp_path / "run")
    out = finetune(run, "classify", data=pictures, labels=labels, out=tmp_path / "fine", steps=3)
    encoder = d2v_fast.load(out).encoder
    assert encoder.features(pictures[:2]).shape == (2, 32)
    assert not torch.equal(encoder.features(pictures[0]), d2v_fast.load(run).features(pictures[0]))
    found = read_embedded(d2v_fast.embed(out, pictures, out=tmp_path / "a.npy"))
    np.testing.assert_allclose(found.features, encoder.features(pictures), atol=1e-5)
    probed = d2v_fast.probe(out, pictures, labels=labels, draws=50)  # it has no teacher to be compared with
    assert [score.network for score in probed.scores] == ["student"] * 3 + ["initial"] * 3


def test_what_a_fine_tuned_run_has_not_is_said(make_config, train, tmp_path):
    pictures = [np.full((16, 16, 3), 10 * i, np.uint8) for i in range(24)]
    run = train(make_config("vision", steps=1), tmp_path / "run")
    out = finetune(run, "classify", data=pictures, labels=[0, 1] * 12, out=tmp_path / "fine", steps=1)
    with pytest.raises(RunError, match=r"step_00000001 has no teacher: give network=\"student\" \(--network student\)"):
        d2v_fast.load(out, network="teacher")
    with pytest.raises(RunError, match="has no teacher"):
        d2v_fast.probe(out, pictures, labels=[0, 1] * 12, networks=["teacher"])


def test_the_initial_network_is_the_start_from_scratch(make_config, train, tmp_path):
    pictures = [np.full((16, 16, 3), 10 * i, np.uint8) for i in range(24)]
    run = train(make_config("vision", steps=1), tmp_path / "run")
    config = settle(run, "classify", {"encoder.from_scratch": True, "seed": 7, "steps": 1}, tmp_path / "fine")
    tuning = Finetuning(config, LabelledData(data=pictures, labels=[0, 1] * 12), tmp_path / "fine")
    start = {name: value.clone() for name, value in tuning.task.network.encoder.state_dict().items()}
    found = d2v_fast.load(tuning.fit(), network="initial").state_dict()
    assert start.keys() == found.keys()
    assert [name for name in start if not torch.equal(start[name], found[name])] == []
