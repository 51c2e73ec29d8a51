"""Teacher or student? Networks and layers of a run on labelled data, beside its random start."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

import d2v_fast
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation import knn_correct, logistic_correct, retrieve
from d2v_fast.evaluation.embed import embed
from d2v_fast.evaluation.embedded import read_embedded
from d2v_fast.evaluation.label_free import rankme
from d2v_fast.evaluation.metrics import bootstrap


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {}, tmp_path_factory


@pytest.fixture
def run_of(runs, make_config, train):
    made, factory = runs

    def get(modality):
        if modality not in made:
            made[modality] = train(make_config(modality, steps=3), factory.mktemp(modality) / "run")
        return made[modality]

    return get


def pictures(count, seed=0):
    """Bright and dark ones: a random network tells them apart."""
    random = np.random.default_rng(seed)
    return [random.integers(60 * (i % 2), 120 + 60 * (i % 2), (16, 16, 3), dtype=np.uint8) for i in range(count)]


def named(count, seed=0, prefix="s"):
    return ArraySource("vision", pictures(count, seed), [f"{prefix}{i}" for i in range(count)])


def test_neighbours_in_a_batch_change_no_score(run_of):
    """Clips of different lengths, one at a time and eight at a time."""
    random = np.random.default_rng(0)
    clips = [
        (
            np.sin(np.arange(3000 + 97 * (i // 2)) * (0.05 + 0.3 * (i % 2)))
            + random.standard_normal(3000 + 97 * (i // 2))
        )
        for i in range(24)
    ]
    source = ArraySource("speech", [clip.astype(np.float32) for clip in clips])
    labels = np.arange(24) % 2
    alone, together = (
        d2v_fast.probe(run_of("speech"), source, labels=labels, layers=(2,), neighbours=3, draws=20, batch_size=size)
        for size in (1, 8)
    )
    assert [score.values for score in together.scores] == [score.values for score in alone.scores]
    for a, b in zip(alone.scores, together.scores, strict=True):
        assert b.label_free["rankme"] == pytest.approx(a.label_free["rankme"], rel=1e-3)


def test_scores_are_those_of_the_probes_on_embedded_features(run_of, tmp_path):
    run, train, test = run_of("vision"), named(40, 0), named(30, 1, "t")
    labels = np.arange(40) % 2
    test_folder = tmp_path / "test"
    for i in range(30):
        (test_folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(30, 1)[i]).save(test_folder / str(i % 2) / f"{i:02}.png")
    found = d2v_fast.probe(run, train, labels=labels, test=test_folder, neighbours=3, draws=200)
    assert [(s.network, s.layer) for s in found.scores] == [
        (network, layer) for network in ("student", "teacher", "initial") for layer in (0, 1, 2)
    ]
    for score in found.scores:
        a, b = (
            read_embedded(
                embed(
                    run,
                    source,
                    out=tmp_path / f"{score.network}{score.layer}{part}.npy",
                    network=score.network,
                    layers=[score.layer],
                )
            ).features[:, 0]
            for part, source in (("a", train), ("b", test))
        )
        right = knn_correct(a, labels, b, np.arange(30) % 2, 3)
        assert score.values["knn"] == right.mean()
        assert score.intervals["knn"] == bootstrap(lambda i, r=right: float(r[i].mean()), 30, draws=200)
        assert score.values["linear"] == logistic_correct(a, labels, b, np.arange(30) % 2).mean()
        assert score.label_free["rankme"] == pytest.approx(rankme(a), rel=1e-5)
    assert found.samples == (40, 30)
    assert found.chance == 0.5
    assert found.groups is None
    assert [(c.what, c.first, c.second) for c in found.comparisons] == [
        (what, *pair)
        for what in ("knn", "linear")
        for pair in (("teacher", "student"), ("student", "initial"), ("teacher", "initial"))
    ]


@pytest.mark.parametrize("modality", ["speech", "vision", "text", "series"])
def test_every_modality(run_of, make_data, modality, tmp_path):
    data, labels = make_data(modality), [0, 1] * 8
    if modality == "text":
        data, labels = [f"the student sees {'all' if i % 2 else 'a part'} of it {i}" for i in range(24)], [0, 1] * 12
    found = d2v_fast.probe(run_of(modality), data, labels=labels, layers="last", networks=["teacher"], draws=50)
    assert [(s.network, s.layer) for s in found.scores] == [("teacher", 2), ("initial", 2)]
    assert [(c.what, c.first, c.second) for c in found.comparisons] == [
        ("knn", "teacher", "initial"),
        ("linear", "teacher", "initial"),
    ]
    for score in found.scores:
        for name in ("knn", "linear"):
            low, high = score.intervals[name]
            assert 0 <= low <= score.values[name] <= high <= 1


def test_class_folders_broken_files_and_groups(run_of, tmp_path, capsys):
    for i, picture in enumerate(pictures(48)):
        folder = tmp_path / "data" / ("bright" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    (tmp_path / "data" / "dark" / "99.png").write_bytes(b"no picture")
    source = run_of("vision")
    found = d2v_fast.probe(source, tmp_path / "data", draws=100, layers=[0, 2])
    assert sum(found.samples) == 48
    assert "99.png" in capsys.readouterr().err
    best = max(score.values["linear"] for score in found.scores)
    assert best > found.chance + 0.2


def test_groups_stay_together(run_of):
    """Pictures of a group are copies: with groups none is on both sides, and the interval is wider."""
    base = pictures(12, 5)
    random = np.random.default_rng(0)
    data = ArraySource("vision", [base[i // 8] for i in range(96)], [f"s{i}" for i in range(96)])
    groups = [f"g{i // 8}" for i in range(96)]
    labels = random.integers(0, 2, 12)[np.arange(96) // 8]  # by group, nothing else
    apart = d2v_fast.probe(run_of("vision"), data, labels=labels, groups=groups, draws=200, neighbours=1)
    mixed = d2v_fast.probe(run_of("vision"), data, labels=labels, layers="last", draws=200, neighbours=1)
    assert mixed.scores[0].values["knn"] == 1.0  # a copy of each is among the neighbours
    assert apart.scores[0].values["knn"] < 1.0
    assert apart.groups == 3
    assert mixed.groups is None
    between = [(s.values[n], s.intervals[n]) for s in apart.scores for n in s.values if 0 < s.values[n] < 1]
    assert between
    for value, (low, high) in between:  # three groups, each of which is right or wrong as a whole
        assert value * 3 == pytest.approx(round(value * 3))
        assert high - low >= 1 / 3


@pytest.mark.parametrize("task", ["tag", "regress"])
def test_several_classes_and_numbers(run_of, task):
    """How bright a picture is, and which half of it is: read off the features, far above chance."""
    random = np.random.default_rng(3)
    levels, left = random.uniform(0, 200, 60), random.integers(0, 2, 60)
    made = [np.full((16, 16, 3), int(level), dtype=np.uint8) for level in levels]
    for picture, side in zip(made, left, strict=True):
        picture[:, :8] = picture[:, :8] // 2 + 100 * side
    tags = [["bright"] * int(level > 100) + ["left"] * int(side) for level, side in zip(levels, left, strict=True)]
    labels = levels.tolist() if task == "regress" else tags
    data = ArraySource("vision", made)
    found = d2v_fast.probe(run_of("vision"), data, labels=labels, task=task, layers="last", draws=50, temperature=0.1)
    assert found.chance == (0 if task == "regress" else pytest.approx(0.5, abs=0.25))
    for score in found.scores:
        for name in ("knn", "linear"):
            low, high = score.intervals[name]
            assert low <= score.values[name] <= high <= 1
    assert max(score.values["linear"] for score in found.scores) > found.chance + 0.3
    with pytest.raises(ConfigError, match="there is no task 'ctc' for a probe"):
        d2v_fast.probe(run_of("vision"), data, labels=labels, task="ctc")


def test_the_layer_is_not_chosen_by_the_test_samples(run_of, monkeypatch):
    from d2v_fast.evaluation import probing

    sizes = []

    def probes(*_):
        def fake(a, y, b, z):
            sizes.append(len(z))
            # on the test samples the first layer asked is the best one; on those that choose it is the last
            turn = (len(sizes) - 1) // 2 % 2
            share = [1.0, 0.5][turn] if len(z) == 10 else [0.5, 1.0][turn]
            return np.arange(len(z)) < share * len(z)

        return {"knn": fake}

    monkeypatch.setattr(probing, "_probes", probes)
    monkeypatch.setattr(probing, "PROBES", ("knn",))
    data = named(40)
    found = d2v_fast.probe(run_of("vision"), data, labels=np.arange(40) % 2, layers=[1, 2], draws=50)
    assert set(sizes) == {10, 8}
    assert found.comparisons[0].layers == (2, 2)
    assert found.comparisons[0].values == (0.5, 0.5)


def test_verdicts():
    from d2v_fast.evaluation import Comparison

    def compared(a, b, interval):
        return Comparison("knn", "teacher", "student", (2, 1), (a, b), interval)

    assert compared(0.9, 0.8, (0.02, 0.2)).better == "teacher"
    assert compared(0.7, 0.8, (-0.2, -0.02)).better == "student"
    none = compared(0.8, 0.8, (-0.02, 0.02))
    assert none.better is None
    assert str(none) == (
        "knn: teacher 0.800 (layer 2), student 0.800 (layer 1); difference +0.000 [-0.020, +0.020]: "
        "no difference is shown"
    )


def test_retrieval_between_pairs(run_of):
    data = named(30)
    found = retrieve(run_of("vision"), data, named(30), layers="all", draws=50, at=(1, 3))
    assert all(score.values == {"recall@1": 1.0, "recall@3": 1.0} for score in found.scores)
    assert all(score.label_free["alignment"] == pytest.approx(0, abs=1e-9) for score in found.scores)
    other = retrieve(run_of("vision"), data, named(30, 9), layers="last", draws=50, at=(1,))
    assert all(score.values["recall@1"] < 0.5 for score in other.scores)
    assert other.chance == 1 / 30
    with pytest.raises(DataError, match="30 samples and 29 partners"):
        retrieve(run_of("vision"), data, named(29))
    with pytest.raises(ConfigError, match=r"recall is taken at 1 or more, got \[0\]"):
        retrieve(run_of("vision"), data, data, at=[0])


def test_a_number_that_there_is_not_is_nan():
    from d2v_fast.evaluation.networks import without_labels

    found = without_labels(np.ones((20, 8)))
    assert found["rankme"] == pytest.approx(1, abs=1e-3)
    assert math.isnan(found["alpha"])
    assert found["uniformity"] == pytest.approx(0)


def test_what_cannot_be_asked_for(run_of):
    run, data = run_of("vision"), named(8)
    labels = [0, 1] * 4
    with pytest.raises(ConfigError, match="networks are student, teacher or both"):
        d2v_fast.probe(run, data, labels=labels, networks=["initial"])
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        d2v_fast.probe(run, data, labels=labels, layers=[7])
    with pytest.raises(DataError, match="labels is not given"):
        d2v_fast.probe(run, data)
    with pytest.raises(DataError, match="the test samples are too few for an interval"):
        d2v_fast.probe(run, data, labels=labels, holdout=0.1, layers="last")
