"""With several processes a step has the gradient that it has with one."""

from __future__ import annotations

import numpy as np
import pytest
import rank_jobs
import torch
from rank_checks import QUIET, close
from torch import nn

from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.training.distributed import gradients
from d2v_fast.training.distributed.gradients import buckets
from d2v_fast.training.trainer import may_cut


def compare(together, size, config, data, out):
    (whole,) = together(1, rank_jobs.gradients, config, data, out)
    parts = together(size, rank_jobs.gradients, config, data, out)
    for part in parts:
        assert part.kind == whole.kind == "result", part.value
        close(whole.value, part.value)
    # All processes have the same bits.
    assert all(np.array_equal(parts[0].value[1][name], value) for name, value in parts[-1].value[1].items())


@pytest.mark.parametrize(("modality", "size"), [("vision", 2), ("speech", 3), ("text2", 2)])
def test_whole_micro_batches_with_all_noise(together, make_config, make_data, tmp_path, modality, size):
    """Dropout, layer drop and the decoder's noise are those of the micro-batch, whoever computes it."""
    config = make_config(modality, loader={"accumulation": 4 if size == 2 else 3})
    compare(together, size, config, make_data(modality), tmp_path / "run")


@pytest.mark.parametrize(
    ("modality", "size", "accumulation"), [("vision", 3, 2), ("speech", 4, 1), ("series", 2, 1), ("text", 4, 2)]
)
def test_micro_batches_that_are_cut(together, make_config, make_data, tmp_path, modality, size, accumulation):
    """The micro-batches have 3 samples: pieces are uneven, and where there are 4 of them one is empty."""
    config = make_config(modality, model=QUIET, loader={"accumulation": accumulation, "batch_size": max(3, size)})
    compare(together, size, config, make_data(modality), tmp_path / "run")


def test_samples_that_depend_on_their_neighbours_are_not_cut(make_config):
    config = make_config("series")
    assert config.loader.pad  # and counted in the targets' statistics, as in the released code
    assert not may_cut(config)
    apart = with_overrides(config, {"model.target.exclude_padding": True})
    assert may_cut(apart)
    assert not may_cut(with_overrides(apart, {"model.target.layer_norm": ("batch",)}))
    text = make_config("text", model={"target": {"layer_norm": ("instance",)}})  # whose rows are always filled up
    assert not may_cut(text)
    assert may_cut(with_overrides(text, {"model.target.layer_norm": ("layer",)}))


def test_processes_that_cannot_share_a_step_are_refused_before_anything_is_written(
    together, make_config, make_data, tmp_path
):
    config = make_config("vision", loader={"accumulation": 1, "batch_size": 1})
    first, second = together(2, rank_jobs.train, config, make_data("vision"), tmp_path / "run")
    for answer in (first, second):
        assert answer.value[0] == ConfigError.__name__
        assert "Start 1 processes, or a new run whose loader.accumulation is a multiple of 2" in answer.value[1]
    assert not (tmp_path / "run").exists()


def test_buckets_keep_the_order_and_are_cut_by_size_and_format(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 100)
    sizes = [(20, torch.float32), (5, torch.float32), (5, torch.float32), (3, torch.float64), (40, torch.float64)]
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in sizes]
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    found = [[numbers[id(one)] for one in bucket] for bucket in buckets(parameters)]
    assert found == [[0, 1], [2], [3, 4]]
