"""The small presets: the teacher's decay in shares of the run, and a step of each."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.presets.small import SLOW, decay_of, fitted_decay, shortened
from d2v_fast.training.trainer import Data2VecTrainer


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_a_step(modality, tmp_path):
    random = np.random.default_rng(3)
    data = {
        "vision": ArraySource("vision", list(random.integers(0, 256, (6, 40, 50, 3), dtype=np.uint8))),
        "speech": ArraySource("spectrogram", [random.standard_normal(n).astype(np.float32) for n in (9000, 16000)]),
        "text": tmp_path / "corpus.txt",
    }[modality]
    (tmp_path / "corpus.txt").write_text("a student guesses what the teacher sees " * 40)
    config = presets.preset(f"{modality}-small")
    vocabulary = {"model.embedding.vocab_size": 300} if modality == "text" else {}
    config = with_overrides(config, {"steps": 1, "loader.batch_size": 2, **vocabulary})
    run = Data2VecTrainer(config, data=data, out=tmp_path / "run", device="cpu").fit()
    (line,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(line["loss"])


def test_the_decay_of_the_released_recipe_in_shares_of_its_steps():
    base = presets.preset("vision2-base")
    ema = decay_of(base.steps)
    assert 1 - ema.start == pytest.approx(1 - base.ema.start, rel=0.03)
    assert 1 - ema.end == pytest.approx(1 - base.ema.end, rel=0.03)
    assert ema.anneal_steps == pytest.approx(base.ema.anneal_steps, rel=0.02)
    short = decay_of(1)
    assert (short.start, short.end, short.anneal_steps) == (0.5, 0.5, 1)


def test_the_decay_of_a_run_of_another_length():
    vision, speech = presets.vision_small(), presets.speech_small()
    assert fitted_decay(vision, 1000) == decay_of(1000)
    found = fitted_decay(speech, speech.steps // 10)
    assert found == replace(speech.ema, anneal_steps=speech.ema.anneal_steps // 10)
    assert fitted_decay(speech, 1).anneal_steps == 1
    text = presets.text_small()
    assert text.ema == decay_of(text.steps, SLOW)
    slow = fitted_decay(text, 1000)
    assert slow.start == pytest.approx(0.5 ** (1 / 3000), abs=1e-6)
    assert slow.end == pytest.approx(0.5 ** (1 / 6000), abs=1e-6)


def test_a_shorter_run_of_a_recipe():
    recipe = presets.text_small()
    short = shortened(recipe, 500)
    assert short == replace(
        recipe, steps=500, ema=fitted_decay(recipe, 500), monitor=replace(recipe.monitor, warmup_steps=50)
    )
    assert short.ema.end < recipe.ema.end
