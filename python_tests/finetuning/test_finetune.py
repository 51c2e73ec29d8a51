"""A fine-tuning is a run like any other: it learns, continues with the same bits, and its encoder can be loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetunings import CLASSES, assert_same, labelled, lines, weights
from tiny_runs import _config

import d2v_fast
from d2v_fast import presets, registry
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.data import LabelledLoader
from d2v_fast.finetuning.sets import LabelledData
from d2v_fast.finetuning.settings import default_config, settle
from d2v_fast.run.reader import Run

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("modality", ["vision", "text", "series", "speech", "spectrogram"])
@pytest.mark.parametrize("task", ["classify", "regress", "tag"])
def test_it_learns(tmp_path, make_finetuning, task, modality):
    steps = 96 if modality == "spectrogram" else 48
    rate = {"optim.lr": 2e-3, "steps": steps, "log.validate_every": steps // 2}
    run = make_finetuning(tmp_path / "run", task, modality, **rate).fit()
    last = lines(run)[-1]
    name, least = {"classify": ("accuracy", 0.9), "regress": ("pearson", 0.8), "tag": ("map", 0.8)}[task]
    assert last[f"validation_{name}"] >= least
    assert last["loss"] < lines(run)[0]["loss"] * 0.8
    assert np.isfinite(last["validation_loss"])


@pytest.mark.parametrize("task", ["classify", "regress", "tag"])
def test_it_continues_with_the_same_bits(tmp_path, make_finetuning, task):
    """With noise of every kind, two micro-batches a step, rates by layer and a head that is trained alone at first."""
    given = {
        "model.transformer.layer_drop": 0.3,
        "encoder.layer_decay": 0.7,
        "encoder.freeze_steps": 4,
        "head.dropout": 0.2,
        "head.hidden": True,
        "precision.autocast": "bfloat16",
    }
    source = None
    for stop in (2, 6):
        parts = make_finetuning(tmp_path / "parts", task, source=source, **given)
        source = "gone"  # the pretrained run is not needed any more
        losses = parts.task.losses

        def interrupted(batch, step, micro_batch, stop=stop, losses=losses):
            if (step, micro_batch) == (stop, 1):
                raise KeyboardInterrupt
            return losses(batch, step, micro_batch)

        parts.task.losses = interrupted
        with pytest.raises(KeyboardInterrupt):
            parts.fit()
        assert Run(tmp_path / "parts").newest().step == stop
    make_finetuning(tmp_path / "parts", task, source=source, **given).fit("must")
    assert_same(make_finetuning(tmp_path / "whole", task, **given).fit(), tmp_path / "parts", 8)


def test_it_is_killed_and_continues(tmp_path, make_finetuning, pretrained, run_python):
    out = tmp_path / "killed"
    code = """
        import os, signal, sys, torch
        sys.path.insert(0, {fixtures!r})
        torch.set_num_threads(1)
        from finetunings import CLASSES, QUICK, Finetuning, LabelledData, labelled, settle
        samples, classes = labelled("vision")
        config = settle({source!r}, "classify", QUICK, {out!r})
        run = Finetuning(config, LabelledData(data=samples, labels=[CLASSES[k] for k in classes]), {out!r})
        losses = run.task.losses
        def die(batch, step, micro_batch):
            if (step, micro_batch) == (4, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            return losses(batch, step, micro_batch)
        run.task.losses = die
        run.fit()
    """.format(fixtures=str(FOLDER.parent / "fixtures"), source=str(pretrained("vision")), out=str(out))
    assert run_python(code).returncode == -signal.SIGKILL
    assert sorted(os.listdir(out / "checkpoints")) == ["step_00000003", "step_00000004"]
    make_finetuning(out).fit("must")
    assert_same(make_finetuning(tmp_path / "whole").fit(), out, 8)


def test_the_start_is_the_pretrained_encoder(tmp_path, make_finetuning, pretrained):
    for network in ("student", "teacher"):
        wanted = d2v_fast.load(pretrained("vision"), network).state_dict()
        made = make_finetuning(tmp_path / network, **{"encoder.network": network}).task.network.encoder.state_dict()
        assert all(torch.equal(made[name], value) for name, value in wanted.items())
        start = make_finetuning(tmp_path / "x", **{"encoder.from_scratch": True, "encoder.network": network}).task
        assert not torch.equal(
            start.network.encoder.state_dict()["blocks.0.ffn.up.weight"], made["blocks.0.ffn.up.weight"]
        )
    run = make_finetuning(tmp_path / "tuned").fit()
    encoder, student = d2v_fast.load(run, "student").state_dict(), weights(run, Run(run).best().step)
    assert all(torch.equal(student[f"student/encoder.{name}"], value) for name, value in encoder.items())
    again = make_finetuning(tmp_path / "again", source=run)  # a fine-tuned encoder is tuned further
    assert torch.equal(
        again.task.network.encoder.blocks[0].ffn.up.weight,
        Run(run).best().tensors("student")["encoder.blocks.0.ffn.up.weight"],
    )
    with pytest.raises(
        ConfigError, match=r"encoder\.network is 'teacher', but .*tuned is a fine-tuning, which has none"
    ):
        make_finetuning(tmp_path / "again", source=run, **{"encoder.network": "teacher"})


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_what_is_frozen_stays(tmp_path, make_finetuning, pretrained, modality):
    def moved(out, **given):
        run = make_finetuning(
            out, modality=modality, **{"optim.weight_decay": 0.1, "log.validate_every": 100} | given
        ).fit()
        before = d2v_fast.load(pretrained(modality)).state_dict()
        after = d2v_fast.load(run).encoder.state_dict()
        return {name for name in before if not torch.equal(before[name], after[name])}

    assert moved(tmp_path / "frozen", **{"encoder.frozen": True}) == set()
    some = moved(tmp_path / "embedding", **{"encoder.frozen_embedding": True})
    assert some
    assert not any(name.startswith("embedding.") for name in some)
    assert "blocks.0.ffn.up.weight" in some
    every = moved(tmp_path / "first", **{"encoder.freeze_steps": 7})
    assert "embedding.mask_token" in every or "blocks.0.ffn.up.weight" in every
    held = make_finetuning(
        tmp_path / "held", modality=modality, **{"encoder.freeze_steps": 4, "checkpoint.every": 1, "checkpoint.keep": 9}
    )
    run = held.fit()
    first, fourth, fifth = (weights(run, step) for step in (1, 4, 5))
    encoder = [name for name in first if name.startswith("student/encoder.")]
    assert all(torch.equal(first[name], fourth[name]) for name in encoder)
    assert not torch.equal(first["student/head.output.weight"], fourth["student/head.output.weight"])
    assert any(not torch.equal(fourth[name], fifth[name]) for name in encoder)
    assert not any(name.startswith("optimizer/exp_avg.encoder.") for name in fourth)


def test_a_frozen_encoder_works_without_noise(tmp_path, make_finetuning):
    task = make_finetuning(tmp_path / "x", **{"encoder.frozen": True, "model.transformer.dropout": 0.5}).task
    assert task.network.training
    assert not task.network.encoder.training


def test_config_is_a_run_s(tmp_path, make_finetuning):
    run = make_finetuning(tmp_path / "run").fit()
    config = Run(run).config
    assert isinstance(config, FinetuneConfig)
    assert config.task.classes == tuple(sorted(CLASSES))
    content = json.loads((run / "config.json").read_text())
    assert (content["task"]["name"], content["modality"]["name"]) == ("classify", "vision")
    assert Run(run).data["engine"] == "native"
    with pytest.raises(RunError, match=r"optim\.lr: the run has 0\.001, this command 0\.5"):
        make_finetuning(run, **{"optim.lr": 0.5}).fit()
    with pytest.raises(RunError, match="is a run of the task classify, not of tag"):
        settle("x", "tag", {}, run)


def test_a_pretraining_run_is_not_written_over(pretrained, make_finetuning):
    with pytest.raises(RunError, match="is a pretraining run: give the fine-tuning a folder of its own"):
        make_finetuning(pretrained("vision"))


def test_other_labels_are_other_data(tmp_path, make_finetuning):
    make_finetuning(tmp_path / "run").fit()
    samples, classes = labelled("vision")
    other = [CLASSES[k] for k in classes]
    other[0] = other[1]
    with pytest.raises(RunError, match=r"the data is not what .* was trained on"):
        make_finetuning(tmp_path / "run", given=LabelledData(data=samples, labels=other)).fit()


def test_regression_learns_in_the_unit_of_the_labels(tmp_path, make_finetuning):
    config = make_finetuning(tmp_path / "run", "regress").config
    assert 11 < config.task.mean < 14
    assert 1.5 < config.task.std < 2.5
    samples, _ = labelled("vision")
    with pytest.raises(DataError, match=r"all 36 targets are 3\.0: there is nothing to learn"):
        make_finetuning(tmp_path / "x", "regress", given=LabelledData(data=samples, labels=[3.0] * len(samples)))


def test_groups_are_held_out_whole(tmp_path, make_finetuning):
    samples, classes = labelled("vision")
    groups = [f"patient {i // 6}" for i in range(len(samples))]
    given = LabelledData(data=samples, labels=[CLASSES[k] for k in classes], groups=groups)
    sets = make_finetuning(tmp_path / "x", given=given).sets
    assert len(sets.validation) == 12
    assert not set(sets.train.groups) & set(sets.validation.groups)


def test_validation_data_of_its_own(tmp_path, make_finetuning):
    (samples, classes), (others, others_classes) = labelled("vision"), labelled("vision", 9)
    given = LabelledData(
        data=samples,
        labels=[CLASSES[k] for k in classes],
        validation=others,
        validation_labels=[CLASSES[k] for k in others_classes],
    )
    made = make_finetuning(tmp_path / "run", given=given)
    assert (len(made.sets.train), len(made.sets.validation)) == (48, 9)
    assert "validation_accuracy" in lines(made.fit())[-1]


def test_values_that_cannot_be_used(tmp_path, make_finetuning, pretrained):
    def refused(error, text, **given):
        with pytest.raises(error, match=text):
            make_finetuning(tmp_path / "x", **given)

    refused(
        ConfigError, r"task\.metric is 'wer', but classify has loss, accuracy, f1, matthews", **{"task.metric": "wer"}
    )
    refused(ConfigError, r"encoder\.freeze_steps is 8, but there are only 8 steps", **{"encoder.freeze_steps": 8})
    refused(ConfigError, r"encoder\.layer_decay is 0\.0, but it must be above 0", **{"encoder.layer_decay": 0.0})
    refused(ConfigError, r"head\.layers is 'weighted', which needs", **{"head.layers": "weighted"})
    refused(
        ConfigError, "task.patience is given, but nothing is validated", **{"task.patience": 1, "loader.holdout": 0.0}
    )
    refused(RunError, "cannot be used for this model", **{"model.transformer.ffn_dim": 128})
    with pytest.raises(ConfigError, match="there is no task 'clasify'; there are classify, regress, tag"):
        default_config(pretrained("vision"), "clasify")
    with pytest.raises(ConfigError, match="there is no recipe 'x'; there are "):
        default_config(pretrained("vision"), "classify", "x")


def test_weighted_layers_and_every_head(tmp_path, make_finetuning):
    given = {"head.layers": "weighted", "model.transformer.layer_drop": 0.0, "head.norm": False}
    run = make_finetuning(tmp_path / "run", **given).fit()
    assert weights(run, 8)["student/head.layer_weights"].shape == (2,)
    assert not torch.equal(weights(run, 8)["student/head.layer_weights"], torch.zeros(2))


def test_the_first_token_of_pictures_stands_for_nothing_else(tmp_path, make_finetuning, caplog):
    make_finetuning(tmp_path / "texts", modality="text", **{"head.pooling": "first"})
    assert "head.pooling" not in caplog.text
    make_finetuning(tmp_path / "pictures", **{"head.pooling": "first"})
    assert "head.pooling is first: of vision that is the first patch or frame alone" in caplog.text


def test_smoothing_is_for_training(tmp_path, make_finetuning):
    task = make_finetuning(tmp_path / "x", **{"task.smoothing": 0.5}).task
    outputs, labels = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0])
    smooth = task.loss(outputs, labels)
    task.network.eval()
    assert task.loss(outputs, labels) < 0.01 < smooth


def test_early_stop(tmp_path, make_finetuning):
    given = {"task.patience": 1, "optim.lr": 1e-12, "log.validate_every": 2, "task.metric": "f1"}
    run = make_finetuning(tmp_path / "run", **given).fit()
    assert Run(run).newest().step == 4
    assert Run(run).best().step == 2


@pytest.fixture
def own_modality(monkeypatch):
    """The modality of the example, known for the time of a test."""
    monkeypatch.setattr(registry, "_registered", {k: v for k, v in registry._registered.items() if k != "points"})
    spec = importlib.util.spec_from_file_location("tuned_own", FOLDER.parents[1] / "examples" / "own_modality.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their types up there
    spec.loader.exec_module(module)
    return registry.get("points")


@pytest.mark.parametrize("task", ["classify", "tag", "regress"])
def test_a_modality_of_one_s_own(tmp_path, own_modality, task):
    """Points on a plane, which examples/own_modality.py brings, and of which nothing here knows."""
    recipe, points = presets.vision_tiny(), own_modality
    random = np.random.default_rng(0)
    classes = np.arange(60) % 2
    sets = [random.random((10 + i % 4, 3)).astype("float32") * [8, 8, 0.4 + 0.6 * k] for i, k in enumerate(classes)]
    sets = [points_of.astype("float32") for points_of in sets]
    config = replace(
        recipe,
        model=replace(recipe.model, embedding=points.embedding()),
        mask=points.masks[0](),
        inputs=points.inputs(),
        steps=1,
    )
    run = d2v_fast.Data2VecTrainer(config, data=sets, out=tmp_path / "run").fit()
    given = {"steps": 60, "optim": {"lr": 2e-3}, "log": {"validate_every": 60}, "loader": {"batch_size": 8}}
    labels = {"classify": classes, "regress": classes * 5 + 1.0, "tag": [["ink"] * k + ["set"] for k in classes]}[task]
    out = d2v_fast.finetune(run, task, data=sets, labels=labels, out=tmp_path / "out", **given)
    measure, least = {"classify": ("accuracy", 0.8), "regress": ("pearson", 0.7), "tag": ("map", 0.9)}[task]
    assert lines(out)[-1][f"validation_{measure}"] >= least
    records = d2v_fast.load(out).predict(sets).records()
    said = {
        "classify": lambda record: record["label"] == "1",
        "regress": lambda record: record["value"] > 3.5,
        "tag": lambda record: "ink" in record["labels"],
    }[task]
    assert np.mean([said(record) == bool(k) for record, k in zip(records, classes, strict=True)]) > 0.8


def test_the_encoder_that_load_gives_is_the_best(tmp_path, make_finetuning):
    run = make_finetuning(tmp_path / "run", **{"optim.lr": 1e-9, "task.metric": "f1"}).fit()
    assert Run(run).best().step == 4
    weight = d2v_fast.load(run).encoder.blocks[0].ffn.up.weight
    assert torch.equal(weight, weights(run, 4)["student/encoder.blocks.0.ffn.up.weight"])
    assert not torch.equal(weight, weights(run, 8)["student/encoder.blocks.0.ffn.up.weight"])


def test_a_model_of_hugging_face_is_tuned(tmp_path, make_finetuning, pretrained):
    pytest.importorskip("transformers", reason="transformers is not installed (extra export)")
    released = {"model.transformer.key_bias": False, "model.transformer.norm_eps": 1e-6}
    samples, _ = labelled("vision")
    config = _config("vision", steps=1, **released)
    run = d2v_fast.Data2VecTrainer(config, data=samples, out=tmp_path / "run").fit()
    folder = tmp_path / "hf"
    d2v_fast.export(run, "hf", folder)
    tuned = make_finetuning(tmp_path / "out", source=folder)
    wanted = d2v_fast.load(folder).state_dict()
    assert all(torch.equal(value, wanted[k]) for k, value in tuned.task.network.encoder.state_dict().items())
    assert Run(tuned.fit()).newest().step == 8
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(folder / "model.safetensors", tmp_path / "alone")
    with pytest.raises(RunError, match=r"does not say what model it is of"):
        make_finetuning(tmp_path / "x", source=alone)
    with pytest.raises(RunError, match="shape"):
        make_finetuning(tmp_path / "x", source=folder, **{"model.transformer.ffn_dim": 128})


@pytest.mark.parametrize("task", ["classify", "regress", "tag"])
@pytest.mark.parametrize("modality", ["speech", "series", "spectrogram"])
def test_labelled_samples_too_short_for_pretraining_take_part(tmp_path, make_finetuning, modality, task, caplog):
    """Down to those that make one frame, or one patch; one that makes none is left out, and that is said."""
    samples, classes = labelled(modality)
    short = {"speech": 325, "series": 25, "spectrogram": 100 + 7 * 40}[modality]
    made = [samples.read(i)[: (short, 3 * short, None)[i % 3]] for i in range(len(samples))]
    made[0] = made[0][: short - 1]
    labels = {
        "classify": [CLASSES[k] for k in classes],
        "regress": (classes * 2.5).tolist(),
        "tag": [[CLASSES[k]] for k in classes],
    }[task]
    given = LabelledData(data=ArraySource(modality, made), labels=labels)
    settings = {"loader.holdout": 0.0, "steps": 6 if task == "classify" else 1}  # 6: an epoch
    finetuning = make_finetuning(tmp_path / "run", task, modality, given=given, **settings)
    loader = finetuning.open_loader(finetuning.sets, 0)
    assert loader.left_out == 1
    assert "left out 1 of 48 clips, shorter than inputs.min_seconds" in caplog.text
    run = finetuning.fit()
    assert all(np.isfinite(line["loss"]) and line["skipped_samples"] == 0 for line in lines(run))


@pytest.mark.parametrize(("name", "samples"), [("speech_tiny", 325), ("series_tiny", 25), ("spectrogram_tiny", 2800)])
def test_the_shortest_labelled_sample_fits_the_presets(name, samples):
    config = getattr(presets, name)()
    inputs = registry.get(config.model.modality).for_labels(config.inputs, config.model.embedding)
    assert round(inputs.min_seconds * inputs.sample_rate) == samples
    assert registry.get(config.model.modality).for_labels(inputs, config.model.embedding) == inputs


def test_a_run_that_began_with_older_rules_keeps_its_order(tmp_path, make_finetuning, monkeypatch):
    given, begun = [], LabelledLoader.__init__

    def watched(self, sets, config, *arguments, **options):
        given.append(config.numerics)
        begun(self, sets, config, *arguments, **options)

    monkeypatch.setattr(LabelledLoader, "__init__", watched)
    make_finetuning(tmp_path / "run", steps=2, numerics=4).fit()
    make_finetuning(tmp_path / "run", steps=3).fit()
    assert given == [4, 4]
