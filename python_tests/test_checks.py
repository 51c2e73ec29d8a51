"""Every setting is checked by its own section, when it is made."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from d2v_fast import presets
from d2v_fast.checks import Section, may_change, named, settle, unchecked
from d2v_fast.config import Config, OptimConfig
from d2v_fast.config_json import from_dict, to_dict, with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import BlockMask
from d2v_fast.models.config import TransformerConfig

NAN, INF = float("nan"), float("inf")
ANY = [
    ("steps", [-1, True, 1.0, NAN]),
    ("numerics", [0, 6]),
    ("seed", [-1, 2**63, 2**64, 0.5]),
    ("model.transformer.dim", [0, -4]),
    ("model.transformer.depth", [0]),
    ("model.transformer.prenet", [-1, 4]),
    ("model.transformer.extra_tokens", [-1]),
    ("model.transformer.heads", [0, 3]),
    ("model.transformer.ffn_dim", [0]),
    ("model.transformer.norm_eps", [0.0, NAN]),
    ("model.transformer.dropout", [1.5, 1.0, -0.1, NAN]),
    ("model.transformer.input_dropout", [1.0, NAN]),
    ("model.transformer.attention_dropout", [1.5, NAN]),
    ("model.transformer.activation_dropout", [1.0]),
    ("model.transformer.layer_drop", [1.0, -0.1]),
    ("model.transformer.drop_path", [1.0, NAN]),
    ("model.transformer.layer_scale", [0.0, NAN, INF]),
    ("model.head.layers", [0]),
    ("model.target.top_k", [0, 99]),
    ("model.target.layer_norm", [["layers"]]),
    ("model.target.final_norm", [["layers"], "layer"]),
    ("model.loss.beta", [-1.0, NAN, INF]),
    ("model.loss.scale", [0.0, NAN]),
    ("model.loss.class_token", [-1.0, NAN, INF, 1.0]),
    ("mask.views", [0, -1, 1.5]),
    ("loader.batch_size", [0, -3, True]),
    ("loader.accumulation", [0]),
    ("loader.threads", [0]),
    ("loader.prefetch", [0]),
    ("loader.max_skipped", [-0.1, 1.1, NAN]),
    ("loader.holdout", [1.0, -0.1, NAN]),
    ("loader.engine", ["fast"]),
    ("loader.allow_roots", [[""]]),
    ("optim.lr", [0.0, NAN, INF, -1.0]),
    ("optim.betas", [[0.9, 1.0], [NAN, 0.9]]),
    ("optim.eps", [0.0, NAN]),
    ("optim.weight_decay", [-0.1, NAN, INF]),
    ("optim.clip_norm", [0.0, NAN, INF]),
    ("optim.warmup", [1.5, NAN]),
    ("optim.hold", [-0.1, 1.0]),
    ("optim.first_lr", [2.0, NAN]),
    ("optim.last_lr", [-0.1, NAN]),
    ("optim.schedule", ["flat"]),
    ("ema.start", [NAN, 1.1, -0.1]),
    ("ema.end", [NAN]),
    ("ema.anneal_steps", [-1]),
    ("precision.autocast", ["float8"]),
    ("precision.attention", ["flash"]),
    ("checkpoint.every", [0]),
    ("checkpoint.keep", [0]),
    ("log.every", [0]),
    ("log.validate_every", [0]),
    ("monitor.warmup_steps", [-1]),
    ("monitor.min_std", [NAN]),
    ("monitor.min_rank", [-1.0, INF]),
    ("monitor.abort_std", [NAN]),
    ("monitor.min_explained", [-0.1, 1.5, NAN]),
]
SPEECH = [
    ("mask.probability", [1.5, -0.1, NAN]),
    ("mask.length", [0]),
    ("mask.min_spans", [-1]),
    ("inputs.sample_rate", [0, -16000]),
    ("inputs.min_seconds", [-1.0, NAN, INF, 0.0]),
    ("inputs.max_seconds", [0.0, 0.01, NAN, INF]),
    ("loader.batch_seconds", [0.0, NAN, INF, 0.05]),
    ("loader.batch_tokens", [64]),
    ("model.embedding.conv_layers", [[], [[64, 0, 5]], [[64, 10]]]),
    ("model.embedding.position_depth", [0]),
    ("model.embedding.position_kernel", [0]),
    ("model.embedding.position_groups", [0, 3]),
    ("model.embedding.gradient_scale", [-1.0, NAN]),
]
VISION = [
    ("inputs.crop_scale", [[1.0, 0.2], [0.0, 0.0], [-1.0, 1.0], [2.0, 3.0], [0.5, NAN]]),
    ("inputs.crop_ratio", [[0.0, 1.0], [2.0, 0.5], [0.5, INF]]),
    ("inputs.flip", [7.0, -0.1, NAN]),
    ("inputs.jitter", [-1.0, NAN, INF]),
    ("inputs.randaugment", [-1]),
    ("inputs.randaugment_magnitude", [-1.0, 10.5, NAN]),
    ("inputs.erase", [1.5, -0.1, NAN]),
    ("inputs.background", [-0.1, 255.0, NAN]),
    ("inputs.mean", [[], [NAN], [0.5, 0.5]]),
    ("inputs.std", [[], [0.0], [INF], [0.5, 0.5]]),
    ("model.embedding.image_size", [0, 9]),
    ("model.embedding.patch_size", [0]),
    ("model.embedding.channels", [0, 2]),
    ("model.transformer.dim", [66]),
    ("mask.ratio", [1.5, 1.0, 0.0, NAN]),
    ("mask.block", [0, 5]),
    ("mask.adjust", [2.0]),
    ("loader.batch_seconds", [3.0]),
    ("loader.batch_tokens", [64]),
    ("loader.pad", [True]),
]
TEXT = [
    ("mask.probability", [0.0, 1.5]),
    ("mask.length", [0, 65]),
    ("mask.keep", [NAN, -0.1]),
    ("mask.random", [1.5]),
    ("inputs.block_size", [1, 65]),
    ("inputs.tokenizer", [""]),
    ("loader.batch_tokens", [0, 63]),
    ("loader.batch_seconds", [3.0]),
    ("loader.pad", [True]),
    ("loader.engine", ["dali"]),
    ("model.embedding.vocab_size", [0]),
    ("model.embedding.max_length", [0]),
    ("model.embedding.pad_id", [-1, 261]),
    ("model.embedding.position_depth", [-1]),
    ("model.embedding.position_kernel", [0]),
    ("model.embedding.position_groups", [0]),
]
CASES = [
    (preset, name, value)
    for preset, table in (("vision-tiny", ANY + VISION), ("speech-tiny", SPEECH), ("text-tiny", TEXT))
    for name, values in table
    for value in values
]


@pytest.mark.parametrize(("preset", "name", "value"), CASES)
def test_what_is_not_allowed_is_refused_by_name(preset, name, value):
    """From a preset by override, and from JSON; the message begins with the field, or names it with what it fits to."""
    config = presets.NAMES[preset]()
    with pytest.raises(ConfigError) as error:
        with_overrides(config, {name: value})
    message = str(error.value)
    assert name in message or message.startswith(("inputs.mean", "inputs.std"))  # channels: there is one for each
    data = to_dict(config)
    part = data
    *sections, field = name.split(".")
    for section in sections:
        part = part[section]
    part[field] = value
    with pytest.raises(ConfigError) as again:
        from_dict(Config, data)
    assert str(again.value) == message


def flat_fields(config: Any, prefix: str = "") -> list[str]:
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        names += flat_fields(value, f"{name}.") if is_dataclass(value) else [name]
    return names


def test_every_number_has_a_case():
    """A field that is added without a check is found here."""
    tested = {(preset.split("-")[0], name) for preset, name, _ in CASES}
    for preset in ("vision-tiny", "speech-tiny", "text-tiny"):
        config = presets.NAMES[preset]()
        for name in flat_fields(config):
            value = config
            for key in name.split("."):
                value = getattr(value, key)
            if isinstance(value, bool | str) or value is None:
                continue
            modality = preset.split("-")[0]
            assert (modality, name) in tested or ("vision", name) in tested, name


def test_a_section_alone_uses_its_own_name():
    with pytest.raises(ConfigError, match=r"^optim\.lr is nan, but it must be a finite number above 0$"):
        OptimConfig(lr=NAN)
    with pytest.raises(ConfigError, match=r"^model\.transformer\.heads is 5"):
        replace(TransformerConfig(), heads=5)
    with pytest.raises(ConfigError, match=r"^mask\.min_area: expected int, got 2\.5$"):
        BlockMask(min_area=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^student\.heads is 5"):
        from_dict(TransformerConfig, {"heads": 5}, "student")


def test_a_given_name_is_for_its_section_only():
    @dataclass(frozen=True, kw_only=True)
    class Inner(Section):
        size: int = 1

    with named(OptimConfig, "first"), pytest.raises(ConfigError, match=r"^size: expected int, got 'x'$"):
        Inner(size="x")  # type: ignore[arg-type]


def test_values_come_to_the_type_of_their_field():
    optim = OptimConfig(lr=1, betas=[0, np.float32(0.5)], warmup=np.float64(0.25))  # type: ignore[arg-type]
    assert optim.betas == (0.0, 0.5)
    assert [type(value) for value in (optim.lr, *optim.betas, optim.warmup)] == [float] * 4
    mask = BlockMask(count=np.int64(3))  # type: ignore[arg-type]
    assert type(mask.count) is int
    assert settle(int | None, None, "x") is None


def one_short_line(name, value):
    """The value is refused, by a message that begins with its name."""
    with pytest.raises(ConfigError) as error:
        with_overrides(presets.speech_tiny(), {name: value})
    message = str(error.value)
    assert message.startswith(name)
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("value", [10**30, 2**63, -(2**63) - 1, 10**400, 10**5000], ids=list("abcde"))
@pytest.mark.parametrize("name", ["steps", "model.transformer.dim", "loader.batch_size"])
def test_whole_numbers_beyond_64_bits_are_refused(name, value):
    """Some of them Python itself cannot turn into digits."""
    one_short_line(name, value)


@pytest.mark.parametrize("value", [1e31, 10**31, 10**400, 10**5000], ids=list("abcd"))
@pytest.mark.parametrize("name", ["optim.lr", "optim.clip_norm", "model.loss.scale", "monitor.min_std"])
def test_measures_that_no_product_can_hold_are_refused(name, value):
    one_short_line(name, value)


@pytest.mark.parametrize("preset", ["speech-tiny", "series-tiny"])
def test_seconds_whose_samples_cannot_be_counted(preset):
    """1e308 s at 16 kHz are infinitely many samples."""
    with pytest.raises(ConfigError, match=r"^inputs\.max_seconds is 1e\+308, but it must be at most 1e\+30$"):
        with_overrides(presets.NAMES[preset](), {"inputs.max_seconds": 1e308})


@pytest.mark.parametrize(
    "value", [np.zeros((40, 40)), 10**5000, "x" * 5000, "a\nb", {"a": 1}], ids=["a", "b", "c", "d", "e"]
)
@pytest.mark.parametrize("name", ["steps", "optim.betas", "optim.schedule", "loader.pad", "model.transformer", "mask"])
def test_a_wrong_value_is_told_on_one_short_line(name, value):
    one_short_line(name, value)


def test_nothing_is_checked_while_parsing():
    with unchecked():
        assert OptimConfig(lr=-1.0).lr == -1.0
    with pytest.raises(ConfigError):
        OptimConfig(lr=-1.0)


@pytest.mark.parametrize(
    ("count", "area", "aspect", "size", "good"),
    [
        (120, 16, 0.3, 224, True),
        (196, 16, 0.3, 224, True),
        (197, 16, 0.3, 224, False),
        (0, 16, 0.3, 224, False),
        (120, 190, 0.99, 224, False),  # 13 x 13 is the largest block of a grid of 14 x 14
        (120, 100, 0.99, 224, True),
        (1, 1, 1.0, 16, False),  # one patch: a block must be smaller than the grid
        (2, 16, 0.3, 32, True),
        (4, 4, 1.0, 32, False),  # only blocks of 2 x 2 would do, on a grid of 2 x 2
    ],
)
def test_block_masks_that_can_be_made(count, area, aspect, size, good):
    """Compared with what the kernel makes of a thousand tries."""
    from d2v_fast.masking import block_masks

    base = presets.vision_base()
    mask = BlockMask(count=count, min_area=area, min_aspect=aspect)
    changes = {"model.embedding.image_size": size, "mask": mask}
    side = size // 16
    if count <= side * side:
        made = block_masks(mask, (side, side), seed=1, epoch=0, sample_ids=range(1000)).rows.numel()
        assert (made > 0) == good
    if good:
        assert with_overrides(base, changes).mask == mask
    else:
        with pytest.raises(ConfigError, match=r"^mask"):
            with_overrides(base, changes)


def test_spans_longer_than_the_longest_clip():
    config = presets.speech_tiny()  # 4 s are 199 frames
    assert with_overrides(config, {"mask.length": 199}).mask.length == 199
    with pytest.raises(ConfigError, match=r"mask\.length is 201, but the longest clip .* has only"):
        with_overrides(config, {"mask.length": 201})
    with pytest.raises(ConfigError, match="nothing would be masked"):
        with_overrides(config, {"mask.probability": 0.0, "mask.min_spans": 0})


def test_the_least_length_of_a_clip_is_named_and_is_enough():
    config = presets.speech_tiny()
    with pytest.raises(ConfigError) as error:
        with_overrides(config, {"inputs.min_seconds": 0.001})
    least = float(str(error.value).rsplit(" ", 1)[1])
    assert with_overrides(config, {"inputs.min_seconds": least}).inputs.min_seconds == least


def test_sincos_positions_need_a_width_of_four_quarters():
    with pytest.raises(ConfigError, match=r"model\.transformer\.dim is 66, but with sincos .* a multiple of 4"):
        with_overrides(presets.vision_tiny(), {"model.transformer.dim": 66, "model.transformer.heads": 2})


def test_settings_that_depend_on_each_other_in_a_section():
    with pytest.raises(ConfigError, match=r"optim\.last_lr is 0\.0, .* above 0 with the tri_stage schedule"):
        OptimConfig(schedule="tri_stage")
    with pytest.raises(
        ConfigError, match=r"optim\.hold is 0\.6, but it must be at most what the warm-up of 0\.5 leaves"
    ):
        OptimConfig(warmup=0.5, hold=0.6)
    with pytest.raises(ConfigError, match=r"model\.target\.top_k is 5, but model\.transformer\.depth is only 4"):
        with_overrides(presets.vision_tiny(), {"model.target.top_k": 5})


def test_parts_of_another_modality_are_refused():
    speech = presets.speech_tiny()
    with pytest.raises(
        ConfigError, match="mask is a TokenMask, but a vision model needs a BlockMask or a InverseBlock"
    ):
        replace(presets.vision_tiny(), mask=presets.text_tiny().mask)
    with pytest.raises(ConfigError, match=r"mask is a BlockMask, but a speech model needs a SpanMask"):
        replace(speech, mask=BlockMask())
    with pytest.raises(ConfigError, match=r"inputs is a VisionInputs, but a speech model needs a SpeechInputs"):
        replace(speech, inputs=presets.vision_tiny().inputs)


def docstrings(cls: type) -> dict[str, str]:
    """Field to the string that follows it in the source, its base classes' fields included."""
    inherited = docstrings(base) if is_dataclass(base := cls.__base__) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    pairs = itertools.pairwise(body)
    return inherited | {
        node.target.id: " ".join(text.value.value.split())  # type: ignore[union-attr]
        for node, text in pairs
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def test_the_mark_and_the_docstring_of_a_field_agree():
    seen = set()

    def walk(config: Any, prefix: str = "") -> None:
        texts = docstrings(type(config))
        for field in fields(config):
            mark = field.metadata.get("may_change")
            text = texts[field.name]
            assert ("May change" in text) == (mark is not None), f"{prefix}{field.name}"
            assert ("May change when the run gets more" in text) == (mark == "with steps"), f"{prefix}{field.name}"
            if mark:
                seen.add(f"{prefix}{field.name}")
            if is_dataclass(getattr(config, field.name)):
                walk(getattr(config, field.name), f"{prefix}{field.name}.")

    for preset in presets.NAMES.values():
        walk(preset())
    assert seen == {
        *("checkpoint", "log", "monitor", "inputs.tokenizer", "precision.checkpoint_activations", "ema.anneal_steps"),
        *("loader.threads", "loader.prefetch", "loader.max_skipped", "loader.allow_roots", "distributed"),
    }


def test_may_change_knows_sections_and_fields():
    config = presets.text_tiny()
    assert may_change(config, "log.every") == "always"
    assert may_change(config, "inputs.tokenizer") == "always"
    assert may_change(config, "ema.anneal_steps") == "with steps"
    assert may_change(config, "optim.lr") is None
    assert may_change(config, "mask.kind") is None


def test_threads_come_from_the_cores(monkeypatch):
    loader = presets.vision_base().loader
    for cores, threads in ((1, 2), (2, 2), (3, 2), (8, 7), (17, 16), (64, 16)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert loader.thread_count(gpu=True) == threads
        assert loader.thread_count(gpu=False) == 2
    assert replace(loader, threads=5).thread_count(gpu=True) == 5


def test_a_step_of_too_many_micro_batches():
    with pytest.raises(ConfigError, match=r"^loader\.accumulation is 9000000000, but it must be at most 1,000,000"):
        with_overrides(presets.NAMES["vision-tiny"](), {"loader.accumulation": 9_000_000_000})
