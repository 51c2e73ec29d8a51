"""Against values worked out by hand from data2vec.md 1.8, 1.10 and 2.1."""

from __future__ import annotations

import math

import pytest

from d2v_fast import presets
from d2v_fast.config import EmaConfig, OptimConfig
from d2v_fast.training.schedules import ema_decay, learning_rate, share_of_start, too_short


def test_tri_stage_of_the_speech_recipe():
    # 400,000 steps in 3/90/7 %: W = 12,000, H = 360,000, D = 28,000; from and to a hundredth of 5e-4.
    config = OptimConfig(lr=5e-4, schedule="tri_stage", warmup=0.03, hold=0.9, first_lr=0.01, last_lr=0.01)

    def rate(step: int) -> float:
        return learning_rate(config, step, 400_000)

    assert rate(0) == pytest.approx(5e-6, rel=1e-12)
    assert rate(6_000) == pytest.approx((5e-6 + 5e-4) / 2, rel=1e-12)
    assert rate(11_999) < 5e-4
    assert rate(12_000) == rate(371_999) == 5e-4
    assert rate(372_000) == pytest.approx(5e-4, rel=1e-12)
    assert rate(386_000) == pytest.approx(5e-5, rel=1e-12)  # half of the decay: a tenth
    assert rate(400_000) == pytest.approx(5e-6, rel=1e-12)
    assert rate(500_000) == pytest.approx(5e-6, rel=1e-12)


def test_cosine_of_the_text_recipe():
    config = OptimConfig(lr=2e-4, schedule="cosine", warmup=0.01)

    def rate(step: int) -> float:
        return learning_rate(config, step, 1_000_000)

    assert rate(0) == 0.0
    assert rate(5_000) == pytest.approx(1e-4, rel=1e-12)
    assert rate(10_000) == 2e-4
    assert rate(10_000 + 990_000 // 4) == pytest.approx(1e-4 * (1 + math.sqrt(0.5)), rel=1e-9)
    assert rate(505_000) == pytest.approx(1e-4, rel=1e-9)
    assert rate(999_999) < 1e-11


def test_linear_to_a_floor():
    config = OptimConfig(lr=2e-3, schedule="linear", warmup=0.2, last_lr=0.5)
    rates = [learning_rate(config, step, 100) for step in (0, 10, 20, 60, 100)]
    assert rates == pytest.approx([0.0, 1e-3, 2e-3, 1.5e-3, 1e-3], rel=1e-12)


def test_cosine_with_a_floor():
    config = OptimConfig(lr=2e-3, warmup=0.0, last_lr=0.005)
    assert learning_rate(config, 0, 100) == 2e-3
    assert learning_rate(config, 100, 100) == pytest.approx(1e-5, rel=1e-9)
    assert learning_rate(config, 50, 100) == pytest.approx((2e-3 + 1e-5) / 2, rel=1e-9)


def test_shares_are_not_cut_by_rounding_errors():
    # 0.29 * 100 is 28.999999999999996 in float64.
    config = OptimConfig(lr=1.0, warmup=0.29)
    assert learning_rate(config, 28, 100) == pytest.approx(28 / 29)
    assert learning_rate(config, 29, 100) == 1.0


def test_a_run_that_is_all_warm_up():
    assert learning_rate(OptimConfig(lr=1.0, warmup=1.0), 3, 4) == 0.75


def test_ema_decay_is_indexed_by_the_update():
    config = EmaConfig(start=0.9, end=0.99, anneal_steps=10)
    assert ema_decay(config, 0) == 0.99 - (0.99 - 0.9) * (1 - 1 / 10)  # 0.909, as the released code has it
    assert ema_decay(config, 4) == pytest.approx(0.945, rel=1e-12)
    assert ema_decay(config, 8) == pytest.approx(0.981, rel=1e-12)
    assert ema_decay(config, 9) == ema_decay(config, 10_000) == 0.99
    assert ema_decay(EmaConfig(start=0.1, end=0.9998, anneal_steps=0), 0) == 0.9998


def test_a_run_too_short_for_its_teacher_says_how_much_stays_random():
    ema = EmaConfig(start=0.9, end=0.99, anneal_steps=10)
    product = math.prod(ema_decay(ema, step) for step in range(30))
    assert share_of_start(ema, 30) == pytest.approx(product, rel=1e-12)
    assert share_of_start(ema, 3) == pytest.approx(math.prod(ema_decay(ema, step) for step in range(3)), rel=1e-12)
    assert share_of_start(EmaConfig(start=0.0, end=0.9), 5) == 0
    assert share_of_start(EmaConfig(start=1.0, end=1.0, anneal_steps=0), 1000) == 1
    assert too_short(ema, 30) is None
    assert too_short(EmaConfig(), 0) is None  # nothing is trained
    assert "at the end 95% of it will still be its random start" in (too_short(EmaConfig(), 50) or "")


@pytest.mark.parametrize("name", presets.NAMES)
def test_no_preset_is_too_short_for_its_teacher(name):
    config = presets.preset(name)
    assert too_short(config.ema, config.steps) is None
