"""One way to use a run: `d2v_fast.load`, `predict`, `evaluate`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from finetunings import CLASSES, labelled

import d2v_fast
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.finetuning import Finetuned
from d2v_fast.models import Encoder


def test_a_fine_tuning_predicts_and_a_pretraining_gives_features(tmp_path, make_finetuning, pretrained):
    samples, classes = labelled("vision")
    out = make_finetuning(tmp_path / "run").fit()
    network = d2v_fast.load(out, device="cpu")
    assert isinstance(network, Finetuned)
    assert isinstance(d2v_fast.load(pretrained("vision")), Encoder)
    student = d2v_fast.load(out, "student")
    assert isinstance(student, Encoder)
    assert torch.equal(student.features(samples.read(0)), network.encoder.features(samples.read(0)))
    values = network.predict(samples).values
    answers = d2v_fast.predict(out, samples, out=tmp_path / "answers.jsonl", device="cpu", batch_size=4)
    np.testing.assert_allclose(answers.values, values, atol=1e-6)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == len(samples)
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0]) == answers.records()[0]
    labels = [CLASSES[k] for k in classes]
    measured = d2v_fast.evaluate(out, samples, labels=labels, draws=10, device="cpu")
    assert measured.metrics == network.evaluate(samples, labels=labels, draws=10).metrics


def test_what_cannot_be_done(tmp_path, pretrained, make_finetuning):
    with pytest.raises(RunError, match="is no fine-tuning"):
        d2v_fast.predict(pretrained("vision"), labelled("vision")[0])
    with pytest.raises(RunError, match="is no fine-tuning"):
        d2v_fast.load(pretrained("vision"), beam=5)
    with pytest.raises(ConfigError, match=r"answers\.txt: predictions are written as"):
        d2v_fast.predict("nowhere", [], out=tmp_path / "answers.txt")
    with pytest.raises(RunError, match="nowhere"):
        d2v_fast.load(tmp_path / "nowhere")
    out = make_finetuning(tmp_path / "run").fit()
    with pytest.raises(ConfigError, match=r"beam: .* is no recogniser, its task is classify"):
        d2v_fast.load(out, beam=5)
