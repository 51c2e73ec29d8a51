"""The published numbers, written down a second time from the sources' tables, and compared with the presets."""

import ast
import importlib
import inspect
import json
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from typing import Any

import pytest

from d2v_fast import presets, registry
from d2v_fast.config import Config
from d2v_fast.config_json import from_dict, to_dict
from d2v_fast.masking.config import BlockMask

# The three modalities at Base size: what the released configurations, code defaults and README commands say.
POST_NORM_BASE = {
    "model.transformer.dim": 768,
    "model.transformer.depth": 12,
    "model.transformer.heads": 12,
    "model.transformer.ffn_dim": 3072,
    "model.transformer.norm_first": False,
    "model.transformer.norm_eps": 0.00001,
    "model.transformer.key_bias": True,
    "model.transformer.dropout": 0.1,
    "model.transformer.attention_dropout": 0.1,
    "model.transformer.activation_dropout": 0.0,
    "model.transformer.drop_path": 0.0,
    "model.transformer.layer_scale": None,
    "model.teacher.averages": "layers",
    "optim.betas": (0.9, 0.98),
    "optim.eps": 0.000001,
    "optim.weight_decay": 0.01,
    "optim.decay_vectors": True,
    "ema.start": 0.999,
    "ema.end": 0.9999,
    "precision.teacher_float32": False,
}
SPEECH_BASE = POST_NORM_BASE | {
    "model.embedding.conv_layers": (
        (512, 10, 5),
        (512, 3, 2),
        (512, 3, 2),
        (512, 3, 2),
        (512, 3, 2),
        (512, 2, 2),
        (512, 2, 2),
    ),
    "model.embedding.position_depth": 5,
    "model.embedding.position_kernel": 19,
    "model.embedding.position_groups": 16,
    "model.embedding.gradient_scale": 1.0,
    "model.transformer.layer_drop": 0.05,
    "model.head.layers": 1,
    "model.target.top_k": 8,
    "model.target.feature": "ffn",
    "model.target.layer_norm": ("instance",),
    "model.target.final_norm": (),
    "model.target.exclude_padding": False,
    "model.loss.beta": 0.0,
    "model.loss.scale": None,
    "mask.probability": 0.65,
    "mask.length": 10,
    "mask.min_spans": 1,
    "inputs.sample_rate": 16000,
    "inputs.min_seconds": 32000 / 16000,
    "inputs.max_seconds": 320000 / 16000,
    "inputs.normalize": True,
    "optim.lr": 0.0005,
    "optim.clip_norm": None,
    "optim.schedule": "tri_stage",
    "optim.warmup": 0.03,
    "optim.hold": 0.90,
    "optim.first_lr": 0.01,
    "optim.last_lr": 0.01,
    "ema.anneal_steps": 30000,
    "monitor.warmup_steps": 5000,
    "monitor.abort_std": 0.1,
    "steps": 400000,
}
TEXT_BASE = POST_NORM_BASE | {
    "model.embedding.vocab_size": 50265,
    "model.embedding.max_length": 512,
    "model.embedding.pad_id": 1,
    "model.transformer.layer_drop": 0.0,
    "model.head.layers": 2,
    "model.target.top_k": 10,
    "model.target.feature": "ffn",
    "model.target.layer_norm": ("layer",),
    "model.target.final_norm": (),
    "model.loss.beta": 4.0,
    "model.loss.scale": 1.0,
    "mask.probability": 0.35,
    "mask.length": 4,
    "mask.keep": 0.0,
    "mask.random": 0.0,
    "inputs.block_size": 512,
    "inputs.packed": True,
    "optim.lr": 0.0002,
    "optim.clip_norm": 5.0,
    "optim.schedule": "cosine",
    "optim.warmup": 0.01,
    "optim.first_lr": 0.0,
    "optim.last_lr": 0.0,
    "ema.anneal_steps": 300000,
    "steps": 1000000,
}
VISION_BASE = {
    "model.embedding.image_size": 224,
    "model.embedding.patch_size": 16,
    "model.embedding.channels": 3,
    "model.embedding.positions": "relative",
    "model.transformer.dim": 768,
    "model.transformer.depth": 12,
    "model.transformer.heads": 12,
    "model.transformer.ffn_dim": 3072,
    "model.transformer.norm_first": True,
    "model.transformer.norm_eps": 0.000001,
    "model.transformer.key_bias": False,
    "model.transformer.dropout": 0.0,
    "model.transformer.attention_dropout": 0.05,
    "model.transformer.activation_dropout": 0.0,
    "model.transformer.layer_drop": 0.0,
    "model.transformer.drop_path": 0.25,
    "model.transformer.layer_scale": 0.0001,
    "model.head.layers": 1,
    "model.target.top_k": 6,
    "model.target.feature": "block",
    "model.target.layer_norm": ("layer",),
    "model.target.final_norm": ("layer",),
    "model.loss.beta": 2.0,
    "model.loss.scale": pytest.approx(0.00130208333333, rel=1e-9),  # one over the width
    "model.teacher.averages": "all",
    "mask.count": 120,
    "mask.min_area": 16,
    "mask.min_aspect": 0.3,
    "inputs.crop_scale": (0.08, 1.0),
    "inputs.crop_ratio": (0.75, pytest.approx(1.33333333333, rel=1e-9)),
    "inputs.flip": 0.5,
    "inputs.jitter": 0.4,
    "inputs.mean": (0.485, 0.456, 0.406),
    "inputs.std": (0.229, 0.224, 0.225),
    "optim.lr": 0.002,
    "optim.betas": (0.9, 0.999),
    "optim.eps": 0.00000001,
    "optim.weight_decay": 0.05,
    "optim.decay_vectors": False,
    "optim.clip_norm": 3.0,
    "optim.schedule": "cosine",
    "optim.warmup": 0.0125,
    "optim.first_lr": 0.0,
    "optim.last_lr": pytest.approx(0.005, rel=1e-9),
    "ema.start": 0.9998,
    "ema.end": 0.9998,
    "ema.anneal_steps": 0,
    "precision.teacher_float32": True,
    "steps": 500000,
}
LARGE = {
    "model.transformer.dim": 1024,
    "model.transformer.depth": 24,
    "model.transformer.heads": 16,
    "model.transformer.ffn_dim": 4096,
}
EXPECTED = {
    "speech-base": SPEECH_BASE,
    "speech-large": SPEECH_BASE
    | LARGE
    | {"model.transformer.layer_drop": 0.0, "model.target.top_k": 16, "optim.lr": 0.000267},
    "text-base": TEXT_BASE,
    "text-large": TEXT_BASE | LARGE | {"model.target.top_k": 20, "optim.lr": 0.0001},
    "vision-base": VISION_BASE,
    "vision-large": VISION_BASE
    | LARGE
    | {
        "model.transformer.attention_dropout": 0.15,
        "model.transformer.drop_path": 0.2,
        "model.transformer.layer_scale": 0.00001,
        "model.loss.scale": 0.0009765625,
        "optim.lr": 0.001,
        "optim.warmup": 0.1,
        "optim.last_lr": pytest.approx(0.01, rel=1e-9),
        "steps": 249600,
    },
}
# Seconds of sound, blocks of tokens, pictures.
GLOBAL_BATCH = {
    "speech-base": 3800,
    "speech-large": 3800,
    "text-base": 256,
    "text-large": 256,
    "vision-base": 2048,
    "vision-large": 4096,
}
# What only data2vec 2.0 has.
ABSENT = {
    "model.embedding.alibi": False,
    "model.transformer.prenet": 0,
    "model.transformer.extra_tokens": 0,
    "model.transformer.input_dropout": None,
    "model.loss.class_token": 0.0,
    "mask.views": 1,
    "mask.random_from": "vocabulary",
    # Convolutions over tokens, which text has none of as published; the recipes of speech say their own.
    "model.embedding.position_depth": 0,
    "model.embedding.position_kernel": 5,
    "model.embedding.position_groups": 1,
    # What only fine-tuning has.
    "inputs.randaugment": 0,
    "inputs.erase": 0.0,
}
# What a run of one's own chooses; no recipe says anything about it.
OWN = ("numerics", "loader.", "checkpoint.", "log.", "seed", "precision.", "monitor.", "distributed.", "optim.hold")


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration under its dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}.{name}" if prefix else name).items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_number_is_the_published_one(name):
    actual = flat(asdict(presets.NAMES[name]()))
    expected = {key: value for key, value in ABSENT.items() if key in actual} | EXPECTED[name]
    assert {key: actual[key] for key in expected} == expected
    # Nothing that decides the method is left out of the table above.
    rest = {key for key in actual if key not in expected and not key.startswith(OWN)}
    assert rest <= {
        "model.target.exclude_padding",
        "model.embedding.gradient_scale",
        "inputs.tokenizer",
        "inputs.background",
        "inputs.randaugment_magnitude",
    }


@pytest.mark.parametrize("name", GLOBAL_BATCH)
def test_global_batch_is_the_published_one(name):
    assert presets.global_batch(presets.NAMES[name]()) == GLOBAL_BATCH[name]


def test_63_minutes_of_speech():
    assert presets.global_batch(presets.speech_base()) * 16000 == 16 * 3_800_000


def test_names():
    published = {f"{m}{two}-{s}" for m in ("speech", "text", "vision") for two in ("", "2") for s in ("base", "large")}
    published |= {"vision2-huge14", "vision2-huge16", "spectrogram2-base"}
    published |= {"vision-small", "speech-small", "text-small"}  # ours
    assert set(presets.NAMES) == published | {f"{m}{two}-tiny" for m in registry.BUILT_IN for two in ("", "2")}
    for name, preset in presets.NAMES.items():
        config = preset()
        method = "2" if config.model.encodes_kept else ""
        if name.endswith("-small"):
            assert config.model.modality == {"speech-small": "spectrogram"}.get(name, name.split("-")[0])
        else:
            assert config.model.modality + method == name.split("-")[0]
        assert getattr(presets, name.replace("-", "_")) is preset


@pytest.mark.parametrize("name", presets.NAMES)
def test_frozen_and_serialisable(name):
    config = presets.NAMES[name]()
    assert isinstance(config, Config)
    assert is_dataclass(config)
    with pytest.raises(FrozenInstanceError):
        config.steps = 1  # type: ignore[misc]
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert presets.NAMES[name]() == config


@pytest.mark.parametrize("name", presets.NAMES)
def test_consistent(name):
    config = presets.NAMES[name]()
    model = config.model
    assert model.target.top_k <= model.transformer.depth - model.transformer.prenet
    assert model.transformer.dim % model.transformer.heads == 0
    # The teacher: after the annealing, as released; of text-small from the beginning.
    stands_still = name in ("speech2-large", "vision2-huge14", "text-small")
    assert 0 < config.ema.start <= config.ema.end <= (1 if stands_still else 0.99999)
    assert config.optim.warmup + config.optim.hold < 1
    assert config.monitor.warmup_steps < config.steps
    if model.modality == "text":
        assert config.inputs.block_size <= model.embedding.max_length  # type: ignore[union-attr]
    if model.modality == "vision":
        patches = (model.embedding.image_size // model.embedding.patch_size) ** 2  # type: ignore[union-attr]
        if isinstance(config.mask, BlockMask):
            assert 0 < config.mask.count < patches
        assert len(config.inputs.mean) == len(config.inputs.std) == model.embedding.channels  # type: ignore[union-attr]
    if model.modality == "speech":
        stride = 1
        for _, _, step in model.embedding.conv_layers:  # type: ignore[union-attr]
            stride *= step
        assert stride == 320  # 20 ms
        assert model.transformer.dim % model.embedding.position_groups == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("module", ["speech", "text", "vision", "tiny", "speech2", "text2", "vision2", "tiny2"])
def test_a_preset_states_only_what_differs_from_the_defaults(module):
    """Read from the source: no argument of a section has the value that it would have anyway."""
    room = importlib.import_module(f"d2v_fast.presets.{module}")
    names = vars(room)
    seen = 0
    for call in ast.walk(ast.parse(inspect.getsource(room))):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and is_dataclass(names[call.func.id])):
            continue
        defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default
                    for f in fields(names[call.func.id])}  # fmt: skip
        for argument in call.keywords:
            value = eval(compile(ast.Expression(argument.value), room.__file__, "eval"), names)
            assert value != defaults[argument.arg], f"{call.func.id}({argument.arg}={value!r})"
            seen += 1
    assert seen > 5
