"""Metrics against scikit-learn and scipy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from d2v_fast.evaluation import metrics


@pytest.fixture
def random():
    return np.random.default_rng(3)


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_agrees_with_scikit_learn(random, classes):
    scores, labels = random.standard_normal((200, classes)), random.integers(0, classes, 200)
    scores[np.arange(200), labels] += 1
    guess = scores.argmax(1)
    assert metrics.accuracy(scores, labels) == sklearn.metrics.accuracy_score(labels, guess)
    assert metrics.accuracy(scores, labels, top=2) == pytest.approx(
        1.0 if classes == 2 else sklearn.metrics.top_k_accuracy_score(labels, scores, k=2)
    )
    average = "binary" if classes == 2 else "macro"
    assert metrics.f1(scores, labels) == pytest.approx(sklearn.metrics.f1_score(labels, guess, average=average))
    assert metrics.matthews(scores, labels) == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, guess))
    assert np.array_equal(metrics.confusion(scores, labels), sklearn.metrics.confusion_matrix(labels, guess))


def test_a_constant_output_is_not_right():
    assert metrics.accuracy(np.zeros((4, 3)), [0, 1, 2, 0]) == 0
    assert metrics.matthews(np.tile([1.0, 0.0], (4, 1)), [0, 1, 0, 1]) == 0


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_agrees_with_scikit_learn(random, ties):
    scores, labels = random.standard_normal((150, 4)), random.random((150, 4)) < 0.2
    scores += labels
    scores = scores.round(1) if ties else scores
    expected = [sklearn.metrics.average_precision_score(labels[:, k], scores[:, k]) for k in range(4)]
    assert metrics.average_precision(scores, labels) == pytest.approx(expected)
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(np.mean(expected))
    labels[:, 2] = False
    assert np.isnan(metrics.average_precision(scores, labels)[2])
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(np.mean([expected[k] for k in (0, 1, 3)]))


def test_correlations_agree_with_scipy(random):
    x = random.standard_normal(60).round(1)
    y = x + random.standard_normal(60).round(1)
    assert metrics.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert metrics.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert metrics.pearson(x, np.ones(60)) == 0


def test_error_rates_are_those_of_the_whole_corpus():
    references = ["the cat sat", "", "a b"]
    hypotheses = ["the cat", "noise", "a c b"]
    assert metrics.word_error_rate(references, hypotheses) == 3 / 5  # one deleted, two inserted, one of them on nothing
    assert metrics.character_error_rate(["ab  c"], ["ab d"]) == 1 / 4
    assert metrics.edits("kitten", "sitting") == 3
    assert metrics.edits([], []) == 0


def test_bootstrap_covers_and_respects_groups(random):
    values = random.standard_normal(400)
    low, high = metrics.bootstrap(lambda i: values[i].mean(), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    groups = np.repeat(np.arange(20), 20)
    shared = np.repeat(random.standard_normal(20), 20)  # all samples of a group are the same
    wide = np.subtract(*metrics.bootstrap(lambda i: shared[i].mean(), 400, groups=groups))
    narrow = np.subtract(*metrics.bootstrap(lambda i: shared[i].mean(), 400))
    assert wide / narrow > 3
    assert metrics.bootstrap(lambda i: values[i].mean(), 400) == (low, high)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy(np.zeros((2, 2)), [0]), "integer labels"),
        (lambda: metrics.accuracy(np.zeros((1, 2)), [2]), r"labels must lie in \[0, 2\)"),
        (lambda: metrics.accuracy(np.full((1, 2), np.nan), [0]), "not finite"),
        (lambda: metrics.word_error_rate(["a"], []), "1 references and 0 hypotheses"),
        (lambda: metrics.word_error_rate([""], ["a"]), "no reference has a word"),
        (lambda: metrics.pearson([1.0], [1.0]), "at least 2"),
        (lambda: metrics.average_precision(np.zeros((2, 2)), np.zeros((2, 3))), "of one shape"),
        (lambda: metrics.bootstrap(len, 1), "two samples or groups"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
