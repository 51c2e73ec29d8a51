"""Numbers about a run while it trains, and the same bits with and without them."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from finetunings import labelled
from tiny_runs import _second

from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError, Interrupted
from d2v_fast.evaluation import ProbeDuring, knn_accuracy
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.windows import Windows
from d2v_fast.run.weights import load
from d2v_fast.training.trainer import Data2VecTrainer

NUMBERS = {f"probe_{name}" for name in ("knn", "linear", "rankme", "alpha", "uniformity", "lidar")}
NUMBERS |= {"probe_knn_initial", "probe_linear_initial"}


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr("d2v_fast.run.sinks.find_spec", lambda name: None)


@pytest.fixture
def make_probe():
    """(modality, **fields) to a probe on samples of three classes."""

    def make(modality, **given):
        samples, classes = labelled(modality)
        return ProbeDuring(samples, labels=classes, **{"every": 4} | given)

    return make


def without(lines):
    return [{name: value for name, value in line.items() if not name.startswith("probe_")} for line in lines]


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_no_bit_changes(modality, make_config, make_data, train, make_probe, read_lines, read_weights, tmp_path):
    config, data = make_config(modality), make_data(modality)
    plain = train(config, tmp_path / "plain")
    if modality == "text":  # the run's tokenizer makes tokens of labelled texts
        folder = tmp_path / "texts"
        for name, words in (("students", "a student guesses part"), ("teachers", "the teacher sees all of it")):
            (folder / name).mkdir(parents=True)
            for i in range(12):
                (folder / name / f"{i}.txt").write_text(" ".join([words] * (1 + i)))
        probe = ProbeDuring(folder, every=4)
    else:
        probe = make_probe(modality)
    probed = Data2VecTrainer(config, data=data, out=tmp_path / "probed", probe=probe).fit()
    first, second = read_weights(plain, 8), read_weights(probed, 8)
    assert first.keys() == second.keys()
    assert len(first) > 50
    assert [name for name in first if first[name].numpy().tobytes() != second[name].numpy().tobytes()] == []
    lines = read_lines(probed)
    assert without(lines) == read_lines(plain)
    assert [line["step"] for line in lines if "probe_knn" in line] == [4, 8]
    for line in (line for line in lines if "probe_knn" in line):
        assert {name for name in line if name.startswith("probe_")} == NUMBERS
        assert all(line[name] is not None for name in NUMBERS)
        assert 0 <= line["probe_knn"] <= 1


def test_interrupted_and_continued_with_the_same_bits(
    make_config, make_data, train, make_probe, read_lines, read_weights, tmp_path
):
    config, data, out = make_config("vision"), make_data("vision"), tmp_path / "probed"

    class Stopping(ProbeDuring):
        def __call__(self, model):
            found = super().__call__(model)
            os.kill(os.getpid(), signal.SIGTERM)  # as soon as it has measured for the first time
            return found

    samples, classes = labelled("vision")
    with pytest.raises(Interrupted):
        Data2VecTrainer(config, data=data, out=out, probe=Stopping(samples, labels=classes, every=4)).fit()
    assert read_lines(out)[-1]["step"] == 4
    Data2VecTrainer(config, data=data, out=out, probe=make_probe("vision")).fit()
    plain = train(config, tmp_path / "plain")
    first, second = read_weights(plain, 8), read_weights(out, 8)
    assert [name for name in first if first[name].numpy().tobytes() != second[name].numpy().tobytes()] == []
    whole = Data2VecTrainer(config, data=data, out=tmp_path / "whole", probe=make_probe("vision")).fit()
    assert read_lines(out) == read_lines(whole)
    assert without(read_lines(whole)) == read_lines(plain)


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_no_bit_of_the_second_method_changes(
    modality, make_config, make_data, train, make_probe, read_lines, read_weights, tmp_path
):
    config = make_config(modality, steps=4, **_second(modality))
    plain = train(config, tmp_path / "plain")
    probe = make_probe(modality)
    probed = Data2VecTrainer(config, data=make_data(modality), out=tmp_path / "probed", probe=probe).fit()
    first, second = read_weights(plain, 4), read_weights(probed, 4)
    assert [name for name in first if first[name].numpy().tobytes() != second[name].numpy().tobytes()] == []
    assert without(read_lines(probed)) == read_lines(plain)
    assert all(read_lines(probed)[-1][name] is not None for name in NUMBERS)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_the_numbers_are_those_of_the_network_as_it_is(
    network, make_config, make_data, make_probe, read_lines, tmp_path
):
    probe = make_probe("vision", network=network)
    run = Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=tmp_path / "run", probe=probe).fit()
    parts = [(part.source, part.labels.numpy()) for part in probe._parts]
    assert sum(len(source) for source, _ in parts) == 48
    for name, field in ((network, "probe_knn"), ("initial", "probe_knn_initial")):
        encoder = load(run, name)
        (x, y), (z, wanted) = (
            (Maker(encoder, source, [2], "mean", 32, 1, Windows(encoder)).of(range(len(source))).features[:, 0], labels)
            for source, labels in parts
        )
        assert read_lines(run)[-1][field] == knn_accuracy(x, y, z, wanted)


def test_it_measures_at_log_lines_and_at_the_end(make_config, make_data, make_probe, read_lines, tmp_path):
    config = make_config("vision", steps=7, log={"every": 2})
    probe = make_probe("vision", every=5)
    run = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run", probe=probe).fit()
    measured = [line["step"] for line in read_lines(run) if "probe_knn" in line]
    assert measured == [6, 7]


def test_at_most_so_many_samples(make_config, make_data, make_probe, tmp_path, capsys):
    probe = make_probe("vision", samples=20)
    Data2VecTrainer(make_config("vision", steps=1), data=make_data("vision"), out=tmp_path / "run", probe=probe).fit()
    assert [len(part) for part in probe._parts] == [15, 5]
    assert "20 of 48 samples with labels are used" in capsys.readouterr().err


def test_data_that_goes_away_does_not_end_the_run(make_config, make_data, read_lines, tmp_path, capsys):
    samples, classes = labelled("vision")

    class Fleeting(ArraySource):
        gone = False

        def read(self, index):
            if self.gone:
                raise OSError("the disk is gone")
            return super().read(index)

    source = Fleeting("vision", [samples.read(i) for i in range(len(samples))])

    class Losing(ProbeDuring):
        def __call__(self, model):
            source.gone = True
            return super().__call__(model)

    probe = Losing(source, labels=classes, every=4)
    run = Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=tmp_path / "run", probe=probe).fit()
    assert read_lines(run)[-1]["step"] == 8
    assert not any("probe_knn" in line for line in read_lines(run))
    assert "probe: left out this time" in capsys.readouterr().err


def test_wrong_data_is_refused_before_the_first_step(make_config, make_data, tmp_path):
    trainer = Data2VecTrainer(
        make_config("vision"), data=make_data("vision"), out=tmp_path / "run", probe=ProbeDuring(tmp_path / "nowhere")
    )
    with pytest.raises(DataError, match="nowhere"):
        trainer.fit()
    assert not (tmp_path / "run" / "checkpoints").exists() or not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("field", [{"every": 0}, {"samples": 3}, {"network": "initial"}])
def test_wrong_fields_are_refused(field):
    with pytest.raises(ConfigError):
        ProbeDuring("somewhere", **field)


def test_the_command(tmp_path, monkeypatch):
    from PIL import Image

    from d2v_fast.commands.cli import main

    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "digits" / "01"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(120 * (i % 2), 130 + 120 * (i % 2), (8, 8), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    command = "pretrain vision-tiny --data digits --out run --steps 6 --log.every 3 --loader.batch-size 4 --no-scale"
    main([*command.split(), "--probe.data", "digits", "--probe.every", "3"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.keys() >= NUMBERS] == [3, 6]
    assert "probe" not in (tmp_path / "run" / "config.json").read_text()
