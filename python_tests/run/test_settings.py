"""config.json: new keys beside the configuration, files of older versions, modalities that are not there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from d2v_fast import registry
from d2v_fast.config import NUMERICS, Config
from d2v_fast.config_json import from_dict, to_dict, with_overrides
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.run.directory import RunDirectory, read_config, read_settings
from d2v_fast.run.reader import Run
from d2v_fast.run.settings import Notes, decode, encode
from d2v_fast.training.trainer import Data2VecTrainer


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_settings_survive(make_config, modality):
    config, notes = make_config(modality), Notes("some-preset", ("optim.lr", "steps"))
    content = json.loads(json.dumps(encode(config, notes)))
    assert content["numerics"] == NUMERICS
    assert content["modality"]["name"] == modality
    assert decode(content) == (config, notes)


def test_a_file_of_the_version_before_has_the_first_rules(make_config):
    data = to_dict(make_config("text"))
    del data["numerics"], data["precision"]["tf32"]
    data["loader"]["threads"] = 2
    config, notes = decode(data)
    assert (config.numerics, config.precision.tf32, config.loader.threads, notes) == (1, False, 2, Notes())
    assert from_dict(Config, data).numerics == 1


def test_a_run_of_the_version_before_keeps_what_its_silence_meant(make_config, make_data, train, tmp_path):
    run, config = tmp_path / "run", make_config("vision", steps=1)
    old = with_overrides(config, {"numerics": 1, "precision.tf32": False, "inputs.background": None})
    train(old, run)
    trainer = Data2VecTrainer(replace(config, steps=2), data=make_data("vision"), out=run)
    trainer.fit()
    assert trainer.config == read_config(run) == replace(old, steps=2)
    with pytest.raises(RunError, match=r"inputs\.background: the run has None, this command 0\.5"):
        train(with_overrides(config, {"steps": 2, "inputs.background": 0.5}), run)


def test_rules_of_a_later_version_are_refused(make_config):
    data = to_dict(make_config("text")) | {"numerics": NUMERICS + 1}
    with pytest.raises(ConfigError, match="numerics is 6, but it must be 1 to 5: other rules belong to"):
        decode(data)


def test_a_modality_that_is_not_registered_is_named_and_not_imported(make_config, tmp_path):
    content = encode(make_config("vision"), Notes())
    content["modality"] = {"name": "points", "module": "this_is_never_imported"}
    content["model"]["embedding"] = {"kind": "PointsEmbedding"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    for read in (read_config, lambda path: Run(path).config):
        with pytest.raises(
            RunError, match="modality 'points' is not registered: import this_is_never_imported first"
        ) as error:
            read(tmp_path)
        assert "damaged" not in str(error.value)  # nothing is wrong with the run
    assert "points" not in registry.names()


def test_notes_of_a_run_that_has_trained_stay(make_config, train, tmp_path):
    run = tmp_path / "run"
    with RunDirectory(run) as folder:
        folder.write_config(make_config("vision"), Notes("a-preset", ("steps",)))
        folder.write_config(make_config("vision"))  # nothing was trained yet: another start
        assert read_settings(run)[1] == Notes()
    train(make_config("vision", steps=1), run)
    train(make_config("vision", steps=2), run, notes=Notes("a-preset", ("steps",)))
    assert Run(run).notes == Notes("a-preset", ("steps",))
    train(make_config("vision", steps=3), run)
    assert Run(run).notes == Notes("a-preset", ("steps",))
