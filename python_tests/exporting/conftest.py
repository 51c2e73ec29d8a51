"""A finished run of each modality, trained once."""

from __future__ import annotations

import pytest
from finetunings import make_finetuning, pretrained
from tiny_runs import _config
from tuned_runs import tuned

from d2v_fast.training.trainer import Data2VecTrainer

__all__ = ["finished", "make_finetuning", "pretrained", "tuned"]


@pytest.fixture(scope="session")
def finished(make_data, tmp_path_factory):
    """(modality, **overrides) to the folder of a run of two steps, vision with the shape of the released models."""
    made = {}
    released = {"vision": {"model.transformer.key_bias": False, "model.transformer.norm_eps": 1e-6}}

    def make(modality, **overrides):
        overrides = released.get(modality, {}) | overrides
        key = (modality, str(overrides))
        if key not in made:
            out = tmp_path_factory.mktemp("runs") / f"{modality}-run"
            config = _config(modality, steps=2, **overrides)
            made[key] = Data2VecTrainer(config, data=make_data(modality), out=out).fit()
        return made[key]

    return make
