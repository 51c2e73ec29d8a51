import tracemalloc

import numpy as np
import pytest
import torch

from d2v_fast.evaluation import knn as knn_module
from d2v_fast.evaluation import knn_accuracy, knn_correct, logistic_accuracy, logistic_correct, metrics, standard_error
from d2v_fast.evaluation import rows as rows_module
from d2v_fast.evaluation.knn import knn_values
from d2v_fast.evaluation.linear import PENALTY, fit_logistic, ridge_values, tag_scores
from d2v_fast.evaluation.rows import Rows

FLOAT = np.float32


@pytest.fixture(scope="module")
def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = data.data.astype(FLOAT), data.target
    return x[:1200], y[:1200], x[1200:], y[1200:]


def standardised(train, test):
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 0, std, 1)
    return (train - mean) / std, (test - mean) / std


def test_nearest_neighbours_vote_with_their_similarity():
    train = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, 0.1], [0, 1], [0, -1.2]], FLOAT)
    labels = np.array([0, 0, 1, 1, 2, 2])
    test = np.array([[0.9, 0.05], [-0.9, 0.05], [0.02, 0.9]], FLOAT)
    assert knn_correct(train, labels, test, np.array([0, 1, 2]), k=1).tolist() == [True, True, True]
    assert knn_correct(train, labels, test, np.array([1, 1, 2]), k=1).tolist() == [False, True, True]
    # Two neighbours of class 1, similarity .75 each, outvote one of class 0, similarity 1. (The mean is 0.)
    train = np.array([[1, 0], [0.7, 0.7], [0.7, -0.7], [-2.4, 0], [0, 2.4], [0, -2.4]], FLOAT)
    names = np.array([0, 1, 1, 2, 3, 3])
    assert knn_accuracy(train, names, np.array([[1, 0.0]], FLOAT), np.array([1]), k=3) == 1.0
    assert knn_accuracy(train, names, np.array([[1, 0.0]], FLOAT), np.array([0]), k=1) == 1.0


def test_knn_agrees_with_scikit_learn(digits):
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, y, test, z = digits
    a, b = standardised(train, test)
    model = neighbors.KNeighborsClassifier(
        10, metric="cosine", algorithm="brute", weights=lambda distance: np.maximum(1 - distance, 0)
    )
    expected = model.fit(a, y).score(b, z)
    assert knn_accuracy(train, y, test, z) == pytest.approx(expected, abs=2 / len(z))
    assert expected > 0.9


def test_more_neighbours_than_samples_are_all_samples():
    train = np.array([[1.0, 0], [2, 0], [0, 1]], FLOAT)
    assert knn_accuracy(train, np.array([0, 0, 1]), np.array([[3.0, 0]], FLOAT), np.array([0]), k=50) == 1.0


def test_logistic_regression_agrees_with_scikit_learn(digits):
    linear = pytest.importorskip("sklearn.linear_model")
    train, y, test, z = digits
    a, b = standardised(train.astype(np.float64), test.astype(np.float64))
    model = linear.LogisticRegression(C=1 / (len(y) * PENALTY), tol=1e-8, max_iter=2000).fit(a, y)
    weight, bias = fit_logistic(Rows(a), torch.from_numpy(y), PENALTY)
    np.testing.assert_allclose(weight.T.numpy(), model.coef_, atol=2e-2)
    offset = bias.numpy() - bias.numpy().mean()  # a constant in all biases changes nothing
    np.testing.assert_allclose(offset, model.intercept_ - model.intercept_.mean(), atol=2e-2)
    expected = model.predict(b) == z
    assert (logistic_correct(train, y, test, z) == expected).mean() > 0.995


def test_probes_do_not_depend_on_scale_and_offset_of_a_channel(digits):
    train, y, test, z = (part[:300] for part in digits)
    factor = np.linspace(0.5, 2, 64, dtype=FLOAT)
    for probe in (knn_accuracy, logistic_accuracy):
        assert probe(train * factor + 7, y, test * factor + 7, z) == pytest.approx(probe(train, y, test, z), abs=0.007)


def test_chance_is_not_beaten_on_noise():
    noise = np.random.default_rng(0).normal(size=(600, 20)).astype(FLOAT)
    labels = np.arange(600) % 4
    for probe in (knn_accuracy, logistic_accuracy):
        assert probe(noise[:300], labels[:300], noise[300:], labels[300:]) < 0.35


@pytest.mark.parametrize("probe", [knn_correct, logistic_correct])
def test_labels_may_be_strings_or_lists(probe, digits):
    train, y, test, z = (part[:200] for part in digits)
    expected = probe(train, y, test, z)
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert (probe(train, names[y], test, names[z]) == expected).mean() > 0.98  # sorted otherwise, where votes are equal
    for given in (list, torch.from_numpy, lambda labels: labels.astype(np.uint8), lambda labels: labels + 100):
        np.testing.assert_array_equal(probe(train, given(y), test, given(z)), expected)
    objects = names.astype(object)
    assert (probe(train, objects[y], test, list(names[z])) == expected).mean() > 0.98


def test_a_label_that_training_lacks_is_never_named():
    train, labels = np.eye(4), ["a", "a", "b", "b"]
    found = knn_correct(train, labels, np.eye(4), ["a", "zoo", "Aa", "b"], k=1)
    assert found.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 0.0, 1.0], "training part: labels are float64; classes are integers or strings"),
        ([None, "a", "a", "b"], "training part: labels are object"),
        ([[0], [1], [0], [1]], r"one label for each of 4 samples is needed, got an array \[4, 1\]"),
        (["a", "b", "a", "b"], "training labels are <U1, test labels int64: both must be of one kind"),
        ([0, 1, 1], r"one label for each of 4 samples is needed, got an array \[3\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    for probe in (knn_correct, logistic_correct):
        with pytest.raises(ValueError, match=message):
            probe(np.eye(4), labels, np.eye(4), np.array([0, 1, 0, 1]))


def test_knn_in_pieces_changes_nothing(digits, monkeypatch):
    train, y, test, z = digits
    whole = knn_correct(train, y, test, z)
    linear = logistic_correct(train, y, test, z)
    monkeypatch.setattr(knn_module, "PIECE", 5000)
    monkeypatch.setattr(knn_module, "_QUERIES", 100)
    monkeypatch.setattr(rows_module, "PIECE", 5000)
    np.testing.assert_array_equal(knn_correct(train, y, test, z), whole)
    assert (logistic_correct(train, y, test, z) == linear).mean() > 0.995


def test_a_million_samples_are_gone_through_in_blocks(monkeypatch):
    """No matrix holds more similarities than a piece, all pairs are compared once, and features are not copied."""
    train = np.random.default_rng(0).standard_normal((1, 16)).astype(FLOAT).repeat(1_000_000, axis=0)
    train[::2, 0] += 5
    held, original = [], torch.mm

    def counted(a, b, out=None):
        held.append(a.shape[0] * b.shape[1])
        return original(a, b, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    labels = np.arange(1_000_000) % 2
    tracemalloc.start()
    right = knn_correct(train, labels, train[:50], labels[:50], k=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert right.all()
    assert sum(held) == 50 * 1_000_000
    assert max(held) <= knn_module.PIECE
    assert peak < 8 * train.size + 64e6  # as float64 the features alone would be 128 MB, twice that standardised


def test_temperature_sharpens_the_votes():
    train = np.array([[1, 0], [0.7, 0.7], [0.7, -0.7], [-2.4, 0], [0, 2.4], [0, -2.4]], FLOAT)
    names = np.array([0, 1, 1, 2, 3, 3])
    for temperature, wanted in ((None, 1), (0.07, 0), (100.0, 1)):
        found = knn_correct(train, names, np.array([[1, 0.0]], FLOAT), np.array([wanted]), 3, temperature=temperature)
        assert found.tolist() == [True]
    with pytest.raises(ValueError, match="temperature is 0; it is a number above 0"):
        knn_correct(train, names, train, names, temperature=0)


def test_tags_and_values_agree_with_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(1)
    x, z = random.standard_normal((300, 6)), random.standard_normal((80, 6))
    weight = random.standard_normal((6, 3))
    tags, values = (x @ weight + random.standard_normal((300, 3)) > 0).astype(FLOAT), x @ weight[:, 0] * 7 + 3
    a, b = standardised(x, z)
    found = tag_scores(x, tags, z)
    for k in range(3):
        model = linear.LogisticRegression(C=1 / (300 * PENALTY), tol=1e-8, max_iter=2000).fit(a, tags[:, k])
        np.testing.assert_allclose(found[:, k], model.decision_function(b), atol=2e-2)
    expected = linear.Ridge(alpha=300 * PENALTY).fit(a, values).predict(b)
    np.testing.assert_allclose(ridge_values(x, values, z), expected, rtol=1e-8)
    assert metrics.explained(ridge_values(x, values, z), z @ weight[:, 0] * 7 + 3) > 0.99
    shares = knn_values(x, tags, z, 5)
    assert shares.shape == (80, 3)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-9
    truth = (z @ weight > 0).astype(int)
    assert metrics.mean_average_precision(shares, truth) > truth.mean() + 0.2
    near = knn_values(x, values, x[:9], 1)
    np.testing.assert_allclose(near, values[:9])


def test_knn_of_many_samples_needs_little_memory(run_python):
    """20,000 x 8,000 similarities would be 1.3 GB; the most that is held is told by the operating system."""
    code = """
        import resource, numpy as np
        from d2v_fast.evaluation import knn_accuracy
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(28_000, 4)).astype(np.float32), np.arange(28_000) % 3
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        knn_accuracy(x[:20_000], y[:20_000], x[20_000:], y[20_000:])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400_000  # kB


def test_plain_features_keep_their_scale(digits):
    train, y, test, z = digits
    wide = np.concatenate([train, np.zeros((len(train), 1), FLOAT)], 1), np.concatenate([test, test[:, :1] * 0], 1)
    wide[0][::2, -1], wide[1][::3, -1] = 0.01, 0.01  # noise far below the pixels, blown up by standardising
    plain = knn_accuracy(wide[0], y, wide[1], z, standardize=False)
    assert plain == pytest.approx(knn_accuracy(train, y, test, z, standardize=False), abs=0.01)
    assert plain > knn_accuracy(train, y, test, z)


def test_standard_error_of_independent_samples():
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 1])
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / np.sqrt(8))


def test_standard_error_of_groups():
    # Each voice says 5 words alike, so there are 4 observations, not 20.
    voices = np.array([1.0, 0, 1, 1])
    assert standard_error(np.repeat(voices, 5), np.repeat([7, 3, 9, 11], 5)) == pytest.approx(standard_error(voices))


def test_a_paired_difference_has_a_smaller_error():
    first = np.array([1.0, 1, 1, 0, 0, 0, 1, 0])
    second = first.copy()
    second[0] = 0
    both = np.hypot(standard_error(first), standard_error(second))
    assert standard_error(first - second) == pytest.approx(0.125)
    assert both > 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.zeros((3, 2, 1))}, r"training part.*\[3, 2, 1\]"),
        ({"test_labels": np.zeros(3, int)}, r"test part"),
        ({"test": np.zeros((2, 3))}, "2 channels, test features 3"),
        ({"train": np.full((4, 2), np.nan)}, "training part: some features are not finite"),
        ({"train_labels": np.array([0, 1, -1, 0])}, "found -1"),
        ({"test": np.zeros((0, 2)), "test_labels": np.zeros(0, int)}, "test part"),
        ({"k": 0}, "at least one neighbour"),
    ],
)
def test_refuses_what_it_cannot_judge(change, message):
    parts = {
        "train": np.arange(8.0).reshape(4, 2),
        "train_labels": np.array([0, 1, 0, 1]),
        "test": np.ones((2, 2)),
        "test_labels": np.array([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**parts, **change})


def test_one_sample_has_no_standard_error():
    with pytest.raises(ValueError, match="two samples"):
        standard_error(np.ones(1))
    with pytest.raises(ValueError, match="got 1"):
        standard_error(np.ones(5), np.zeros(5, int))
