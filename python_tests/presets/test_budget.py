"""Fitting a preset to a time: a function of what was measured."""

import math

import pytest

from d2v_fast import presets
from d2v_fast.errors import ConfigError
from d2v_fast.presets.budget import ENOUGH, FEWEST, MOST_EPOCHS, USED, decide, seconds_of
from d2v_fast.presets.small import SLOW, decay_of

HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90m", 5400), ("2h30m", 9000), ("45 min", 2700), ("1.5h", 5400), ("300s", 300), ("1d", 86400)],
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "", "1 parsec", "3600", "-1h", "h", "1h30", "0m", "1h and a bit", "9e99h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="a budget is a time"):
        seconds_of(text)


def made(name="vision-small", given=None, *, budget=HOUR, samples=100_000, rate=0.2, ladder=True, seen=32):
    """The decision where a step of the preset's width takes `rate` seconds, of others in proportion to the square."""
    recipe = presets.preset(name)
    measured = []

    def measure(config):
        measured.append(config)
        return rate * (config.model.transformer.dim / recipe.model.transformer.dim) ** 2, seen

    return decide(recipe, given or {}, budget=budget, samples=samples, measure=measure, ladder=ladder), measured


def test_all_that_hangs_on_the_steps_moves_with_them():
    found, _ = made()
    config = found.config
    assert config.steps == USED * HOUR / 0.2
    assert config.ema == decay_of(config.steps)
    assert config.monitor.warmup_steps == config.steps // 10
    assert config.optim.lr == presets.vision_small().optim.lr
    assert config == made()[0].config
    assert f"{config.steps:,}" in " ".join(found.reasons)
    assert config.model == presets.vision_small().model


def test_a_teacher_that_does_not_hang_on_the_steps_stays():
    recipe = presets.speech_small()
    found, _ = made("speech-small")
    assert (found.config.ema.start, found.config.ema.end) == (recipe.ema.start, recipe.ema.end)
    assert found.config.ema.anneal_steps == found.config.steps
    assert "as the recipe has it" in " ".join(found.reasons)


def test_a_teacher_that_hardly_moves_is_said_to_be_one():
    found, _ = made("text-small")
    assert found.config.ema == decay_of(found.config.steps, SLOW)
    assert "it hardly moves: it would forget half in 3 to 6 times as many steps" in " ".join(found.reasons)


def test_the_network_of_a_recipe_is_one_of_those_to_choose_from():
    recipe = presets.text_small()
    found, _ = made("text-small", rate=0.15)
    assert found.config.model == recipe.model
    assert "network: 3 blocks of width 96" in " ".join(found.reasons)
    assert made("text-small", rate=0.01)[0].config.model.transformer.dim > recipe.model.transformer.dim


@pytest.mark.parametrize(("rate", "dim"), [(0.02, 384), (0.08, 256), (0.11, 192), (1.0, 128), (4.0, 96)])
def test_the_network_is_as_large_as_the_time_allows(rate, dim):
    found, measured = made(rate=rate)
    model = found.config.model
    assert model.transformer.dim == dim
    assert model.transformer.ffn_dim == 4 * dim
    assert model.target.top_k == round(2 / 3 * model.transformer.depth)
    assert (model.head.dim, model.head.groups) == (dim // 2, dim // 32)
    assert found.config.optim.lr == pytest.approx(presets.vision_small().optim.lr * 192 / dim, rel=1e-2)
    widths = [config.model.transformer.dim for config in measured]
    assert len(widths) == len(set(widths))  # nothing is measured twice
    assert found.config.steps >= ENOUGH or dim == 96


def test_a_size_that_is_given_stays():
    for given in ({"model.transformer.depth": 5}, {"model.head.layers": 1}):
        assert made(given=given, rate=1.0)[0].config.model.transformer.dim == 192
    assert made(rate=1.0, ladder=False)[0].config.model.transformer.dim == 192
    found, _ = made(given={"optim.lr": 0.5, "ema.end": 0.5, "ema.start": 0.1}, rate=1.0)
    assert (found.config.optim.lr, found.config.ema.end, found.config.ema.start) == (0.5, 0.5, 0.1)


def test_a_small_corpus_has_smaller_batches_and_is_not_seen_too_often():
    found, _ = made(samples=80, seen=10, rate=0.001)
    config = found.config
    assert config.loader.batch_size == 10
    assert config.steps == 8 * MOST_EPOCHS
    widths = 192 / config.model.transformer.dim
    assert config.optim.lr == pytest.approx(
        presets.vision_small().optim.lr * math.sqrt(10 / presets.vision_small().loader.batch_size) * widths, rel=1e-2
    )
    assert made(given={"loader.batch_size": 20}, samples=80)[0].config.loader.batch_size == 20
    sound, _ = made("speech-small", samples=40)
    assert (sound.config.loader.batch_size, sound.config.loader.batch_seconds) == (5, 1.25)


def test_a_time_that_is_too_short_names_one_that_is_not():
    with pytest.raises(ConfigError, match=rf"fewer than {FEWEST}.*Give at least 1\.39 min"):
        made(budget=30.0, rate=1.0)  # at a width of 96 a step takes 0.25 s
    with pytest.raises(ConfigError, match="the budget is too short"):
        made("vision-base", budget=HOUR, rate=100.0, ladder=False)
