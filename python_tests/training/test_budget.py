"""`--for-budget`: measured on the data, written down, and not measured again by a run that continues."""

import json
from dataclasses import replace

import numpy as np
import pytest

import d2v_fast
from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError
from d2v_fast.modalities import modality_of
from d2v_fast.training import budget

RANDOM = np.random.default_rng(0)
GREY = [RANDOM.integers(0, 256, (28, 30), dtype=np.uint8) for _ in range(40)]
LITTLE = {
    "model": {
        "transformer": {"dim": 8, "depth": 1, "heads": 1, "ffn_dim": 8},
        "target": {"top_k": 1},
        "head": {"groups": 2},
    }
}


def test_a_step_is_timed_and_nothing_is_left(tmp_path):
    config = with_overrides(presets.vision_tiny(), {"loader.batch_size": 4})
    seconds, seen = budget.seconds_per_step(config, ArraySource("vision", [p[:8, :8] for p in GREY]))
    assert 0 < seconds < 60
    assert seen == 4
    assert not list(tmp_path.iterdir())


def test_a_run_that_continues_keeps_what_was_decided(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "seconds_per_step", lambda config, source: (0.1, 40))
    monkeypatch.setattr("d2v_fast.presets.budget.FEWEST", 1)
    out = tmp_path / "run"
    asked = {"data": GREY, "out": out, "for_budget": "1s", "checkpoint": {"every": 1}, **LITTLE}
    d2v_fast.pretrain("vision-small", **asked)
    written = json.loads((out / "config.json").read_text())
    assert written["steps"] == 9
    assert {"steps", "ema.start", "optim.lr"} <= set(written["derived"])
    assert any(sentence.startswith("steps: 9") for sentence in written["budget"])
    assert any(sentence.startswith("pictures: 28 pixels in patches of 4") for sentence in written["budget"])
    assert (written["model"]["embedding"]["channels"], len(written["inputs"]["mean"])) == (1, 1)
    before = (out / "config.json").read_bytes()

    def fail(config, source):
        raise AssertionError("measured again")

    monkeypatch.setattr(budget, "seconds_per_step", fail)
    d2v_fast.pretrain("vision-small", **asked)
    assert (out / "config.json").read_bytes() == before
    with pytest.raises(ConfigError, match="a budget or steps, not both"):
        d2v_fast.pretrain("vision-small", data=GREY, out=tmp_path / "other", for_budget="1h", steps=3)


def suited(modality, samples, config):
    return modality_of(config).suited(ArraySource(modality, samples), config)[0]


def test_what_the_data_asks_for(tmp_path):
    config = presets.vision_small()
    grey = suited("vision", GREY, config)
    assert (grey["model.embedding.image_size"], grey["model.embedding.patch_size"]) == (28, 4)
    colours = suited("vision", [RANDOM.integers(0, 256, (90, 80, 3), dtype=np.uint8) for _ in range(3)], config)
    assert colours["model.embedding.channels"] == 3
    assert "model.embedding.image_size" not in colours
    assert colours["inputs.mean"] == pytest.approx([0.5] * 3, abs=0.02)
    with_overrides(config, grey)
    short = [RANDOM.standard_normal(int(16000 * s)).astype(np.float32) for s in (0.3, 0.4, 1.0, 2.0)]
    assert suited("spectrogram", short, presets.speech_small()) == {"inputs.min_seconds": 0.29}  # in frames of 10 ms
    assert suited("spectrogram", short[2:], presets.speech_small()) == {}
    speech = presets.speech_tiny()
    assert suited("speech", short[:1], replace(speech, inputs=replace(speech.inputs)))["inputs.min_seconds"] == 0.3
    (tmp_path / "few.txt").write_text("so few words are here " * 200)
    text = with_overrides(presets.text_small(), {"inputs.block_size": 32})
    source = d2v_fast.data.open_source(tmp_path / "few.txt", "text", text.inputs, embedding=text.model.embedding)
    assert modality_of(text).suited(source, text)[0] == {"model.embedding.vocab_size": 512}
