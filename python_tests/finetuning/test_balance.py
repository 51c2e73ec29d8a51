"""Weights of classes and of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetunings import labelled

from d2v_fast.data.labelled import Labelled
from d2v_fast.finetuning.balance import class_weights, sample_weights


def made(labels, classes=("a", "b", "c"), kind="class"):
    samples, _ = labelled("vision", len(labels))
    return Labelled(samples, kind, torch.tensor(labels), classes=classes)


def test_weights_of_classes():
    train = made([0, 0, 0, 0, 0, 0, 1, 1])
    assert class_weights(train).tolist() == pytest.approx([8 / 18, 8 / 6, 1.0])  # none of the third
    weights = class_weights(train)[train.labels]
    assert weights[:6].sum() == weights[6:].sum()


def test_weights_of_a_yes():
    train = made([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], kind="multi")
    assert class_weights(train).tolist() == [1.0, 1.0, 3.0]  # all, none, one of four


def test_weights_of_samples():
    assert sample_weights(made([0, 0, 0, 1])).tolist() == [1 / 3, 1 / 3, 1 / 3, 1.0]
    table = [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert sample_weights(made(table, kind="multi")).tolist() == [1.5, 0.5, 0.5, 0.5]


def draws(tuning, epochs):
    """The classes of the samples of some epochs, by epoch."""
    with tuning.open_loader(tuning.sets, 0) as loader:
        steps = loader.steps_per_epoch
        ids = [
            [batch.sample_ids for n in range(e * steps, (e + 1) * steps) for batch in loader.step(n)] for e in epochs
        ]
    return [torch.cat(found) for found in ids]


def test_a_balanced_sampler_shows_all_classes_equally_often(tmp_path, make_finetuning, uneven):
    tuning = make_finetuning(tmp_path / "x", given=uneven, **{"task.balance": "sampler"})
    assert tuning.sets.train.counts() == {"low": 32, "middle": 4}
    found = draws(tuning, range(4))
    assert [len(ids) for ids in found] == [32] * 4  # 4 steps of 8
    classes = tuning.sets.train.labels[torch.cat(found)]
    assert 0.42 < classes.float().mean() < 0.58
    assert not torch.equal(found[0].sort().values, found[1].sort().values)
    assert [len(ids.unique()) for ids in draws(make_finetuning(tmp_path / "y", given=uneven), [0])] == [32]


def test_a_repeat_has_a_crop_of_its_own(tmp_path, make_finetuning, uneven):
    tuning = make_finetuning(tmp_path / "x", given=uneven, **{"task.balance": "sampler"})
    with tuning.open_loader(tuning.sets, 0) as loader:
        batches = [batch for n in range(4) for batch in loader.step(n)]
    ids, inputs = torch.cat([b.sample_ids for b in batches]), torch.cat([b.inputs for b in batches])
    rare = int(ids.mode().values)
    some = inputs[ids == rare]
    assert len(some) >= 3
    assert len({one.numpy().tobytes() for one in some}) == len(some)


def test_weights_in_the_loss_add_up_over_micro_batches(tmp_path, make_finetuning, uneven):
    """Weighted sums over samples, divided by the samples: however a step is cut, its gradient is the same."""
    task = make_finetuning(tmp_path / "x", given=uneven, **{"task.balance": "weights"}).task
    outputs, labels = torch.randn(8, 2), torch.tensor([0, 1, 0, 0, 0, 0, 1, 0])
    weights = class_weights(make_finetuning(tmp_path / "x", given=uneven).sets.train)
    assert torch.equal(task.class_weights, weights)
    expected = (F.cross_entropy(outputs, labels, reduction="none") * weights[labels]).sum()
    torch.testing.assert_close(task.loss(outputs, labels), expected)
    parts = task.loss(outputs[:3], labels[:3]) + task.loss(outputs[3:], labels[3:])
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(task.loss(outputs, F.one_hot(labels, 2).float()), expected)
    task.network.eval()  # a validation counts every sample as one
    torch.testing.assert_close(task.loss(outputs, labels), F.cross_entropy(outputs, labels, reduction="sum"))


def test_weights_of_tags(tmp_path, make_finetuning):
    task = make_finetuning(tmp_path / "x", "tag", **{"task.balance": "weights"}).task
    weights = task.class_weights
    assert weights.shape == (4,)
    outputs, labels = torch.randn(3, 4), torch.tensor(np.eye(4)[:3])
    expected = F.softplus(outputs) * (1 - labels) + weights * F.softplus(-outputs) * labels
    torch.testing.assert_close(task.loss(outputs, labels).double(), expected.mean(1).sum())
