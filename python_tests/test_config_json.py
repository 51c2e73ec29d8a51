from __future__ import annotations

import json
from dataclasses import replace

import pytest

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import differences, from_dict, to_dict, with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import InverseBlockMask, TokenMask
from d2v_fast.models.config import DecoderConfig


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_survives_json(name):
    config = presets.NAMES[name]()
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_unions_are_tagged_by_class(make_config):
    data = to_dict(make_config("vision"))
    assert data["mask"]["kind"] == "BlockMask"
    assert data["model"]["embedding"]["kind"] == "VisionEmbedding"
    assert "kind" not in data["optim"]


DECODER = {"kind": "DecoderConfig", "dim": 16, "groups": 4}


def test_a_decoder_is_named_and_a_head_is_not(make_config):
    """So what old runs wrote, which knew one kind of head, still means the same."""
    config = make_config("vision")
    assert to_dict(config)["model"]["head"] == {"layers": 1}
    second = with_overrides(config, {"model.head": DECODER, "model.loss.class_token": 2.0, "mask.views": 3})
    assert second.model.head == DecoderConfig(dim=16, groups=4)
    assert second.model.encodes_kept
    assert not config.model.encodes_kept
    data = json.loads(json.dumps(to_dict(second)))
    assert data["model"]["head"]["kind"] == "DecoderConfig"
    assert from_dict(Config, data) == second
    assert with_overrides(second, {"model.head.dim": 32}).model.head == DecoderConfig(dim=32, groups=4)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (DECODER | {"groups": 3}, r"model\.head\.groups is 3, but it must be a divisor of model\.head\.dim"),
        (DECODER | {"dim": 24, "groups": 12}, r"model\.head\.groups is 12, but it must divide model\.transformer\.dim"),
        (DECODER | {"kernel": 0}, r"model\.head\.kernel is 0"),
        (DECODER | {"layers": 0}, r"model\.head\.layers is 0"),
        (DECODER | {"noise": -0.1}, r"model\.head\.noise is -0\.1"),
        (DECODER | {"input_dropout": 1.0}, r"model\.head\.input_dropout is 1\.0"),
        (DECODER | {"projection_layers": 2, "projection_ratio": 0.01}, r"model\.head\.projection_ratio is 0\.01"),
        (DECODER | {"layer": 2}, r"model\.head\.layer: there is no such field; did you mean model\.head\.layers\?"),
        ({"kind": "Decoder"}, r"model\.head\.kind: expected one of HeadConfig, DecoderConfig, got 'Decoder'$"),
        (3, r"model\.head: expected the fields of HeadConfig, got 3"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(make_config, head, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(make_config("vision"), {"model.head": head})


def test_the_prenet_leaves_the_targets_enough_blocks(make_config):
    with pytest.raises(ConfigError, match=r"top_k is 2, but .*depth is only 2 and 1 of them are the prenet"):
        with_overrides(make_config("text"), {"model.transformer.prenet": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["optim"].update(lrr=1.0), r"optim\.lrr: there is no such field; did you mean optim\.lr\?"),
        (lambda d: d["optim"].update(lr="fast"), r"optim\.lr: expected float, got 'fast'"),
        (lambda d: d["optim"].update(betas=[0.9]), r"optim\.betas: expected 2 values"),
        (lambda d: d["optim"].update(schedule="constant"), r"optim\.schedule: expected one of 'cosine', 'linear',"),
        (lambda d: d["mask"].update(kind="Stripes"), r"mask\.kind: expected one of SpanMask.*got 'Stripes'"),
        (lambda d: d["mask"].pop("kind"), r"mask\.kind: expected one of SpanMask.*got None"),
        (lambda d: d.pop("model"), r"missing 1 required keyword-only argument: 'model'"),
        (lambda d: d.update(steps=True), r"steps: expected int, got True"),
        (lambda d: d.update(optim=3), r"optim: expected the fields of OptimConfig, got 3"),
        (lambda d: d["precision"].update(compile=1), r"precision\.compile: expected bool, got 1"),
    ],
)
def test_wrong_fields_are_named(make_config, change, message):
    data = to_dict(make_config("vision"))
    change(data)
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, data)


def test_missing_fields_take_their_default(make_config):
    data = to_dict(make_config("text", seed=5))
    del data["seed"], data["log"]
    config = from_dict(Config, data)
    assert (config.seed, config.log.every) == (0, 50)


def test_overrides_by_name_and_by_section(make_config):
    config = make_config("text")
    changed = with_overrides(config, {"optim.lr": 1, "ema": {"end": 0.5}, "optim": {"clip_norm": None}, "steps": 3})
    assert changed.optim == replace(config.optim, lr=1.0, clip_norm=None)
    assert changed.ema == replace(config.ema, end=0.5)
    assert changed.steps == 3
    assert changed.model is config.model
    mask = TokenMask(probability=0.5, length=3)
    assert with_overrides(config, {"mask": mask}).mask == mask
    assert with_overrides(config, {"mask": mask, "mask.length": 2}).mask == replace(mask, length=2)
    with pytest.raises(ConfigError, match=r"ema\.ends: there is no such field"):
        with_overrides(config, {"ema": {"ends": 0.5}})


def test_overrides_that_fit_only_together_are_made_together(make_config):
    config = make_config("vision")
    changed = with_overrides(
        config, {"model.transformer.dim": 36, "model.transformer.heads": 9, "model": {"target": {"top_k": 1}}}
    )
    assert (changed.model.transformer.dim, changed.model.transformer.heads, changed.model.target.top_k) == (36, 9, 1)
    with pytest.raises(ConfigError, match=r"^model\.transformer\.heads is 9, but it must be a divisor of"):
        with_overrides(config, {"model.transformer.heads": 9})
    grown = {"model.embedding.image_size": 32, "mask.count": 40}  # 16 patches hold no 40
    assert with_overrides(config, grown).mask.count == 40


def test_differences_name_the_fields(make_config):
    one = make_config("vision")
    other = with_overrides(one, {"optim.lr": 0.5, "model.target.layer_norm": ["layer", "batch"]})
    assert differences(one, other) == [
        ("model.target.layer_norm", ["instance"], ["layer", "batch"]),
        ("optim.lr", 1e-3, 0.5),
    ]
    names = [name for name, _, _ in differences(one, with_overrides(one, {"mask": InverseBlockMask()}))]
    assert "mask.kind" in names
    assert "mask.count" in names
    assert differences(one, one) == []
