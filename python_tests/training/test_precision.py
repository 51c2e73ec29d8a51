from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2v_fast.config import PrecisionConfig
from d2v_fast.errors import ConfigError
from d2v_fast.ops.front_layer import earlier_front_layer
from d2v_fast.ops.fused_attention import earlier_attention
from d2v_fast.ops.linear import _torch_alone
from d2v_fast.ops.norm_gelu import earlier_norm_gelu, earlier_norm_gelu_of_gpus
from d2v_fast.training.precision import LossScale, autocast, check_attention, products

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_sets_the_format_of_products(name, dtype):
    with autocast(PrecisionConfig(autocast=name), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_float16_needs_cuda():
    with pytest.raises(ConfigError, match=r"precision\.autocast is 'float16', which needs CUDA.*bfloat16 or float32"):
        autocast(PrecisionConfig(autocast="float16"), CPU)


def test_loss_scale_halves_on_overflow_and_doubles_after_many_good_steps():
    scale = LossScale(PrecisionConfig(autocast="float16"), CPU)
    good, bad = torch.zeros(()), torch.ones(())
    assert scale.value == 65536
    scale.update(bad)
    assert scale.value == 32768
    for _ in range(LossScale.GROW - 1):
        scale.update(good)
    assert scale.value == 32768
    restored = LossScale(PrecisionConfig(autocast="float16"), CPU)
    restored.load_state(scale.state())
    for one in (scale, restored):
        one.update(good)
        assert one.value == 65536
        assert one.good_steps == 0


def test_other_formats_are_not_scaled():
    scale = LossScale(PrecisionConfig(autocast="bfloat16"), CPU)
    scale.update(torch.ones(()))
    assert scale.value == 1


def test_rules_of_older_runs():
    told = []
    for numerics in (2, 3, 4, 5):
        with products(numerics):
            assert earlier_norm_gelu_of_gpus.on == earlier_front_layer.on
            switches = (earlier_attention.on, earlier_norm_gelu.on, earlier_front_layer.on)
            told.append((len(_torch_alone.get()), *switches))
    assert told == [(2, True, True, True), (1, True, True, True), (0, False, False, True), (0, False, False, False)]


def test_a_kernel_for_attention_that_does_not_work_is_refused(make_config):
    check_attention(make_config("speech"), CPU)
    check_attention(make_config("speech", precision={"attention": "sdpa"}), CPU)
    with pytest.raises(ConfigError, match=r"precision\.attention is 'varlen', which does not work here: it "):
        check_attention(make_config("speech", precision={"attention": "varlen"}), CPU)
    wanted = {"attention": "varlen"}
    for modality, positions in (("speech2", {}), ("vision2", {"positions": "relative"})):  # a bias in a packed row
        config = make_config(modality, model={"embedding": positions}, precision=wanted)
        with pytest.raises(ConfigError, match="'varlen', which does not work here: it takes no bias on the scores"):
            check_attention(replace(config, model=without_dropout(config.model)), CPU)
    config = make_config("vision2", precision=wanted)
    with pytest.raises(ConfigError, match="'varlen', which does not work here: it needs a GPU"):
        check_attention(replace(config, model=without_dropout(config.model)), CPU)


def without_dropout(model):
    return replace(model, transformer=replace(model.transformer, attention_dropout=0.0))
