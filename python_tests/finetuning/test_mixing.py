"""Mixup and cutmix: what is computed, and that it is a function of (seed, epoch, sample id)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2v_fast.batch import Batch
from d2v_fast.finetuning.augment_config import AugmentConfig
from d2v_fast.finetuning.mixing import cutmix_boxes, mix, mix_stage, paste

COUNT = 6


def batch(ids=tuple(range(COUNT)), shape=(3, 8, 10), labels=None, lengths=None):
    """Sample i is i + 1 everywhere, its class is i."""
    ids = torch.tensor(ids)
    inputs = (ids + 1.0).view(-1, *[1] * len(shape)).expand(-1, *shape).contiguous()
    return Batch(inputs=inputs, sample_ids=ids, labels=ids.clone() if labels is None else labels, lengths=lengths)


def mixed(config, given=None, epoch=0, seed=5):
    return mix_stage(AugmentConfig(**config), seed, COUNT)(given or batch(), epoch)


def test_mixup_is_one_average_of_samples_and_labels():
    result = mixed({"mixup": 0.8})
    shares = result.labels.diagonal()
    assert ((shares > 0) & (shares < 1)).all()
    assert len(shares.unique()) == COUNT
    torch.testing.assert_close(result.labels.sum(1), torch.ones(COUNT))
    own, other = torch.arange(1.0, 7), torch.arange(1.0, 7).roll(1)
    torch.testing.assert_close(result.inputs[:, 0, 0, 0], shares * own + (1 - shares) * other)
    assert (result.inputs == result.inputs[:, :1, :1, :1]).all()


def test_shares_are_of_the_beta_distribution():
    many = batch(tuple(range(4000)), (1,), labels=torch.ones(4000))
    found = {}
    for alpha in (0.4, 1.0, 8.0):
        inputs = mixed({"mixup": alpha}, many).inputs[1:, 0].double()
        shares = inputs - torch.arange(1, 4000)  # sample i is i + 1, the one before it i
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        found[alpha] = float(shares.var())
        assert found[alpha] == pytest.approx(0.25 / (2 * alpha + 1), rel=0.1)
    assert found[0.4] > found[1.0] > found[8.0]


def test_a_sample_is_mixed_the_same_wherever_it_stands():
    config = {"mixup": 0.5, "cutmix": 1.0, "mix_probability": 0.8}
    whole = mixed(config)
    part = mixed(config, batch((2, 3)))
    assert torch.equal(part.inputs[1], whole.inputs[3])  # behind the same neighbour
    assert torch.equal(part.labels[1], whole.labels[3])
    assert torch.equal(mixed(config).inputs, whole.inputs)
    assert not torch.equal(mixed(config, epoch=1).inputs, whole.inputs)
    assert not torch.equal(mixed(config, seed=6).inputs, whole.inputs)


def test_cutmix_s_labels_are_the_areas():
    result = mixed({"cutmix": 1.0})
    for i in range(COUNT):
        own = (result.inputs[i, 0] == i + 1).float().mean()
        assert result.labels[i, i] == pytest.approx(float(own), abs=1e-6)
        assert set(result.inputs[i].unique().tolist()) <= {i + 1.0, (i - 1) % COUNT + 1.0}
        assert (result.inputs[i] == result.inputs[i, :1]).all()  # all channels the same box
    assert (result.labels.diagonal() < 1).any()


def test_a_share_of_the_samples_is_mixed_and_half_of_these_are_cut():
    ids = tuple(range(400))
    given = batch(ids, (1, 8, 8), labels=torch.arange(400) % COUNT)
    result = mixed({"mixup": 5.0, "cutmix": 5.0, "mix_probability": 0.5}, given)
    own = torch.arange(1.0, 401).view(-1, 1, 1, 1)
    same = (result.inputs == own).flatten(1)
    left, cut = same.all(1), same.any(1) & ~same.all(1)
    assert 0.4 < left.float().mean() < 0.6
    assert 0.18 < cut.float().mean() < 0.32
    assert torch.equal(result.inputs[left], given.inputs[left])


def test_power_is_kept():
    own, other = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    given = torch.stack([other, own])
    result = mix(given, np.array([0.3, 0.3]), keep_power=True)
    assert result.square().mean() == pytest.approx(1.0, abs=0.02)
    assert mix(given, np.array([0.3, 0.3])).square().mean() == pytest.approx(0.58, abs=0.02)
    torch.testing.assert_close(result[1], (0.3 * own + 0.7 * other) / (0.3**2 + 0.7**2) ** 0.5)


def test_padding_reaches_as_far_as_the_longer_one():
    given = batch((0, 1, 2), (5,), lengths=torch.tensor([5, 2, 3]))
    assert mixed({"mixup": 1.0}, given).lengths.tolist() == [5, 5, 3]
    assert mixed({"mixup": 1.0, "mix_probability": 0.0}, given).lengths.tolist() == [5, 2, 3]


def test_values_are_averaged_and_several_classes_too():
    values = mixed({"mixup": 1.0}, batch(labels=torch.arange(6.0))).labels
    assert values.shape == (6,)
    assert (values[1:] >= torch.arange(5.0)).all()
    assert (values[1:] <= torch.arange(1.0, 6)).all()
    several = torch.tensor([[1.0, 0.0, 1.0]] * 6)
    torch.testing.assert_close(mixed({"mixup": 1.0}, batch(labels=several)).labels, several)


def test_a_sample_alone_stays():
    given = batch((3,))
    for config in ({"mixup": 1.0}, {"cutmix": 1.0}):
        result = mixed(config, given)
        torch.testing.assert_close(result.inputs, given.inputs)
        assert result.labels.argmax() == 3
        assert result.labels.sum() == pytest.approx(1)


def test_a_share_of_one_keeps_the_bits():
    given = torch.randn(3, 4)
    assert mix(given, np.ones(3)) is given
    assert torch.equal(mix(given, np.array([1.0, 0.5, 1.0]))[[0, 2]], given[[0, 2]])


def test_boxes_are_cut_at_the_border():
    boxes = cutmix_boxes(np.array([0.0, 0.75, 1.0]), np.array([[0.0, 0.0], [0.5, 0.5], [0.5, 0.5]]), (8, 12))
    assert boxes.tolist() == [[0, 0, 4, 6], [2, 3, 4, 6], [4, 6, 0, 0]]
    pictures = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 8, 12)
    assert paste(pictures, pictures, boxes)[1].sum() == 8 * 12 - 4 * 6
