"""Recipes can be used, and have the published values."""

from __future__ import annotations

import pytest
from tiny_runs import _config

from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.finetuning.config import FinetuneConfig, TaskConfig
from d2v_fast.finetuning.recipes import GROUPS, RECIPES
from d2v_fast.finetuning.settings import default_config, settle
from d2v_fast.finetuning.tasks import TASKS
from d2v_fast.training.schedules import learning_rate


def task_of(name):
    first = name.split("-")[0]
    if name.endswith("-stsb"):
        return "regress", "text"
    kinds = {"librispeech": ("ctc", "speech"), "imagenet": ("classify", "vision"), "glue": ("classify", "text")}
    kinds |= {"audioset": ("tag", "speech"), "probe": ("classify", "vision"), "ctc": ("ctc", "speech")}
    return kinds.get(first.rstrip("2"), (first, "vision"))


def made(name, **changes):
    """The configuration that a recipe gives for a tiny model of its modality."""
    task, modality = task_of(name)
    pretraining = _config(modality)
    config = FinetuneConfig(
        task=TaskConfig(name=task, classes=("<b>", "a", "b")), model=pretraining.model, inputs=pretraining.inputs
    )
    config = with_overrides(config, {"loader.pad": modality == "speech", "model.transformer.layer_drop": 0.0})
    return with_overrides(config, {**TASKS[task].defaults(config), **RECIPES[name], **changes})


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_used(name):
    config = made(name)
    TASKS[config.task.name](config)
    assert 0 < learning_rate(config.optim, config.steps // 2, config.steps) <= config.optim.lr


def test_of_a_run(pretrained):
    run = pretrained("vision")
    wanted = with_overrides(default_config(run, "classify"), RECIPES["classify-tiny"])
    assert default_config(run, "classify", "classify-tiny") == wanted
    with pytest.raises(ConfigError, match=r"inputs\.crop_scale: there is no such field"):
        default_config(pretrained("text"), "classify", "imagenet-base")


def test_names_are_those_of_the_groups():
    assert len(RECIPES) == sum(len(group) for group in GROUPS.values())


def test_images_of_the_first_version():
    config = made("imagenet-base")
    assert (config.steps, config.loader.batch_size * config.loader.accumulation) == (125_100, 1024)
    assert learning_rate(config.optim, 0, config.steps) == pytest.approx(1e-6)
    assert learning_rate(config.optim, 12_510, config.steps) == pytest.approx(4e-3)
    assert learning_rate(config.optim, config.steps, config.steps) == pytest.approx(1e-6)
    assert (config.encoder.layer_decay, config.optim.weight_decay, config.augment.mixup) == (0.65, 0.0, 0.8)
    large = made("imagenet-large")
    assert (large.steps, large.optim.lr, large.optim.weight_decay) == (62_550, 5e-3, 0.05)
    assert (large.model.transformer.drop_path, large.loader.batch_size * large.loader.accumulation) == (0.25, 1024)


def test_images_of_the_second_version():
    values = {
        "base": (250_200, 1e-3, 1e-6, None, 0.65, 0.1),
        "large": (125_200, 5e-4, 1e-7, 4, 0.75, 0.2),
        "huge": (125_200, 5e-4, 1e-20, 4, 0.75, 0.2),
    }
    for size, (steps, lr, last, clip, decay, drop) in values.items():
        config = made(f"imagenet2-{size}")
        assert (config.steps, config.optim.lr, config.optim.clip_norm) == (steps, lr, clip)
        assert learning_rate(config.optim, 8_000, steps) == pytest.approx(lr / 2)
        assert learning_rate(config.optim, 16_000, steps) == pytest.approx(lr)
        assert learning_rate(config.optim, steps, steps) == pytest.approx(last)
        assert (config.encoder.layer_decay, config.model.transformer.drop_path) == (decay, drop)
        assert (config.loader.batch_size * config.loader.accumulation, config.augment.mix_probability) == (512, 0.9)


def test_texts():
    config = made("glue-cola")
    assert (config.steps, config.optim.lr, config.loader.batch_size, config.task.metric) == (
        5_336,
        1e-5,
        16,
        "matthews",
    )
    assert learning_rate(config.optim, 320, config.steps) == pytest.approx(1e-5)
    assert learning_rate(config.optim, 2_828, config.steps) == pytest.approx(5e-6)  # half of the way from 320 to 5,336
    assert (config.head.pooling, config.head.hidden, config.head.norm) == ("first", True, False)
    assert made("glue2-stsb").optim.lr == 4e-5
    assert (made("glue-qqp").steps, made("glue2-qqp").steps) == (113_272, 113_272)


def test_sound():
    config = made("audioset")
    assert (config.steps, config.optim.lr, config.loader.batch_seconds) == (30_000, 6e-5, 160)
    assert learning_rate(config.optim, 2_500, config.steps) == pytest.approx(3e-5)
    assert (config.augment.mask_probability, config.augment.mask_length) == (0.6, 5)
    minutes = {"10m": 1000, "1h": 500, "10h": 320, "100h": 640, "960h": 1000}
    for name, seconds in minutes.items():
        second, first = made(f"librispeech2-{name}"), made(f"librispeech-{name}")
        assert second.loader.batch_seconds * second.loader.accumulation == seconds
        assert first.loader.batch_seconds * first.loader.accumulation == 1600
        assert second.encoder.freeze_steps == 100
    config = made("librispeech2-960h")
    assert learning_rate(config.optim, 8_000, config.steps) == pytest.approx(1e-5)
    assert learning_rate(config.optim, config.steps, config.steps) == pytest.approx(5e-7)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("imagenet-base", "the recipe imagenet-base does not fit the task classify of series: inputs.crop_scale"),
        ("ctc-tiny", "the recipe ctc-tiny is for the task ctc, not for classify"),
    ],
)
def test_a_recipe_for_something_else_is_named(tmp_path, pretrained, recipe, words):
    with pytest.raises(ConfigError, match=words):
        settle(pretrained("series"), "classify", {}, tmp_path, recipe)
