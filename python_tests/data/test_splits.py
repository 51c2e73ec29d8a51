"""Splits keep groups together and say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.data import ArraySource, DataError
from d2v_fast.data.holding import split
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.splits import compare, held_out, hold_out, same_content
from d2v_fast.modalities.speech.config import SpeechInputs


def clips(count, length=lambda i: 100 + i):
    noise = np.random.default_rng(0)
    return [noise.standard_normal(length(i)).astype(np.float32) / 10 for i in range(count)]


def labelled(count=40, *, groups=None, labels=None, samples=None):
    labels = [i % 2 for i in range(count)] if labels is None else labels
    return open_labelled(samples or clips(count), "speech", SpeechInputs(), kind="class", labels=labels, groups=groups)


def names(part):
    return {part.source.name(i) for i in range(len(part))}


def test_without_groups_it_is_the_split_of_pretraining():
    found = labelled()
    train, test = hold_out(found, 0.2)
    ours, theirs = split(found.source, np.arange(40), 0.2)
    assert names(train) == {str(i) for i in ours}
    assert names(test) == {str(i) for i in theirs}


def test_groups_stay_whole():
    found = labelled(groups=[i // 5 for i in range(40)])
    train, test = hold_out(found, 0.25)
    assert len(test) == 10
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert len(train) + len(test) == 40


def test_neither_order_nor_other_groups_matter():
    groups = [f"speaker {i % 7}" for i in range(70)]
    first = held_out(groups, 0.3)
    order = np.random.default_rng(0).permutation(70)
    again = held_out([groups[i] for i in order], 0.3)
    assert (again == first[order]).all()


def test_samples_without_a_label_are_on_no_side():
    found = labelled(labels=[None if i == 7 else i % 2 for i in range(40)])
    train, test = hold_out(found, 0.2)
    assert len(train) + len(test) == 39
    assert "7" not in names(train) | names(test)


@pytest.mark.parametrize(("share", "groups"), [(0.0, None), (1.0, None), (0.5, ["all"] * 40)])
def test_a_split_that_cannot_be(share, groups):
    with pytest.raises(DataError, match=r"above 0 and below 1|only 1 group for 40 samples"):
        hold_out(labelled(groups=groups), share)


def test_a_class_that_only_validation_has_is_named(caplog):
    found = labelled(4, labels=["x", "y", "x", "z"])
    compare(found.take([0, 1]), found.take([2, 3]))
    assert "the class 'z' has 1 samples in validation and none in training" in caplog.text
    assert "'x'" not in caplog.text


def test_a_group_on_both_sides_is_named(caplog):
    found = labelled(4, groups=["p", "p", "q", "r"])
    compare(found.take([0, 2]), found.take([1, 3]))
    assert "1 groups are on both sides of the split (p)" in caplog.text


def test_the_same_sample_on_both_sides_is_named(caplog):
    samples = clips(6)
    samples[5] = samples[1].copy()
    found = labelled(6, samples=samples)
    compare(found.take([0, 1, 2]), found.take([3, 4, 5]))
    assert "1 samples of validation are in training, too (1 = 5)" in caplog.text


def test_only_samples_of_one_size_are_read():
    class Counting(ArraySource):
        read_ones: list[int]

        def read(self, index):
            self.read_ones.append(index)
            return super().read(index)

    first, second = Counting("speech", clips(5)), Counting("speech", [*clips(2), *clips(1, lambda i: 999)])
    first.read_ones, second.read_ones = [], []
    assert same_content(first, second) == [(0, 0), (1, 1)]
    assert (sorted(first.read_ones), sorted(second.read_ones)) == ([0, 1], [0, 1])
