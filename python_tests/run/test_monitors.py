from __future__ import annotations

import math
import re

import pytest
import torch

from d2v_fast.config import MonitorConfig
from d2v_fast.errors import RunStopped
from d2v_fast.run.monitors import RANK_ROWS, CollapseWatch, effective_rank, explained, mean_std

HEALTHY = {"local_std": 0.5, "pred_std": 0.4, "target_std": 0.6, "pred_rank": 20.0, "target_rank": 30.0}


def test_mean_std_written_out():
    z = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    assert mean_std(z).item() == pytest.approx((math.sqrt(4 + 1e-6) + math.sqrt(1e-6)) / 2, rel=1e-6)
    assert mean_std(z.bfloat16()).dtype == torch.float32
    assert math.isnan(mean_std(z[:1]))


def test_the_share_of_the_variance_that_is_explained():
    target = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9) + 5
    assert explained(target, target).item() == 1
    mean = target.mean(0).expand_as(target)
    assert explained(mean, target).item() == pytest.approx(0, abs=1e-6)
    assert explained((target + mean) / 2, target).item() == pytest.approx(0.75, abs=1e-6)
    assert explained(2 * mean - target, target).item() == pytest.approx(-3, abs=1e-5)
    assert explained(target.bfloat16(), target).dtype == torch.float64
    assert math.isnan(explained(target[:1], target[:1]))
    assert math.isnan(explained(torch.ones(4, 2), torch.ones(4, 2)))


def test_effective_rank_of_known_spectra():
    basis, _ = torch.linalg.qr(torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert effective_rank(basis).item() == pytest.approx(8, rel=1e-9)
    weights = torch.tensor([4.0, 2.0, 1.0, 1.0, 0, 0, 0, 0], dtype=torch.float64)
    share = [0.5, 0.25, 0.125, 0.125]
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert effective_rank(basis * weights).item() == pytest.approx(expected, rel=1e-6)
    assert effective_rank((basis * weights).T).item() == pytest.approx(expected, rel=1e-6)


def test_constant_rows_have_rank_one_and_nothing_has_none():
    assert effective_rank(torch.full((100, 16), 3.0)).item() == pytest.approx(1, abs=1e-5)
    for empty in (torch.zeros(10, 4), torch.zeros(0, 4), torch.full((5, 4), torch.nan)):
        assert math.isnan(effective_rank(empty))


def test_rank_of_many_rows_uses_some_of_all():
    # Rows of the second half point in another direction: looking at the first rows only would give 1.
    z = torch.zeros(3 * RANK_ROWS, 4)
    z[: 2 * RANK_ROWS, 0] = 1
    z[2 * RANK_ROWS :, 1] = 1
    share = [math.sqrt(2) / (1 + math.sqrt(2)), 1 / (1 + math.sqrt(2))]
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert effective_rank(z).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("local_std", 0.005, "the local features .* standard deviation 0.005 is below 0.01.*check that the inputs"),
        ("pred_std", 0.005, "the predictions are collapsing: standard deviation 0.005 is below 0.01.*Lower optim.lr"),
        ("target_std", 0.05, "the targets are collapsing: standard deviation 0.05 is below 0.1.*raise ema.start"),
        ("pred_rank", 1.2, "the predictions are collapsing: effective rank 1.2 is below 2"),
        ("target_rank", 1.9, "the targets are collapsing: effective rank 1.9 is below 2"),
    ],
)
def test_warning_names_the_layer_and_the_remedy_once(name, value, words):
    watch = CollapseWatch(MonitorConfig(warmup_steps=100))
    sick = HEALTHY | {name: value}
    assert watch.judge(sick, 99) == []
    (warning,) = watch.judge(sick, 100)
    assert re.search(words, warning)
    assert watch.judge(sick, 101) == []
    assert watch.judge(HEALTHY, 102) == []
    assert len(watch.judge(sick, 103)) == 1


def test_targets_that_lose_most_of_their_directions_are_warned_of_once():
    watch = CollapseWatch(MonitorConfig(warmup_steps=10))
    ranks = {1: 80.0, 5: 9.0, 10: 17.0, 20: 15.9, 30: 15.0, 40: 50.0, 50: 9.0, 60: None}
    told = {step: watch.judge(HEALTHY | {"target_rank": rank}, step) for step, rank in ranks.items()}
    assert [step for step, warnings in told.items() if warnings] == [20, 50]
    assert re.search("the targets are losing their directions: effective rank 15.9, after 80", told[20][0])


def test_collapsed_targets_stop_the_run():
    watch = CollapseWatch(MonitorConfig(warmup_steps=10))
    dead = HEALTHY | {"target_std": 0.001}
    assert watch.judge(dead, 9) == []
    with pytest.raises(
        RunStopped, match=r"targets have collapsed: standard deviation 0\.001 is below monitor\.abort_std"
    ):
        watch.judge(dead, 10)
    assert len(CollapseWatch(MonitorConfig(warmup_steps=10, abort_std=0)).judge(dead, 10)) == 1


def test_missing_numbers_are_not_judged():
    watch = CollapseWatch(MonitorConfig(warmup_steps=0))
    assert watch.judge(dict.fromkeys(HEALTHY), 5) == []
