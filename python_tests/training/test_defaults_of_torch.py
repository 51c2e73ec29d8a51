"""The surrounding program's default dtype and default device decide nothing: not a bit of a run is another one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from d2v_fast.evaluation import extract
from d2v_fast.models import Data2Vec
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import load, new_model

MODALITIES = ["speech", "vision", "text"]


@pytest.fixture(params=["float64", "bfloat16", "meta"])
def default(request):
    """Sets another default; "meta" is where tensors go that nobody has said the place of."""

    def change():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield change
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_run_is_the_same(make_config, train, tmp_path, assert_same_run, default, modality):
    padded = {"speech": {"loader": {"pad": True}}, "text": {"inputs": {"packed": False}}}.get(modality, {})
    loader = {"holdout": 0.25} | padded.get("loader", {})
    config = make_config(modality, steps=4, log={"validate_every": 2}, **padded | {"loader": loader})
    plain = train(config, tmp_path / "plain", device="cpu")
    default()
    changed = train(config, tmp_path / "changed", device="cpu")
    assert_same_run(plain, changed, 4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_run_is_continued_and_its_features_are_the_same(make_config, train, make_data, tmp_path, default, modality):
    config = make_config(modality, steps=3)
    run = train(config, tmp_path / "run", device="cpu")
    samples = make_data(modality)
    array = not hasattr(samples, "suffix")
    wanted = extract(load(run), samples, config.inputs) if array else None
    default()
    train(make_config(modality, steps=4), run, device="cpu")
    train(config, tmp_path / "again", device="cpu")
    encoder = load(tmp_path / "again")
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}
    if array:
        assert (extract(encoder, samples, config.inputs) == wanted).all()


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_pair_is_float32(make_config, modality, dtype):
    torch.manual_seed(0)
    plain = Data2Vec(make_config(modality).model)
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        other = Data2Vec(make_config(modality).model)
    finally:
        torch.set_default_dtype(torch.float32)
    for (name, value), theirs in zip(other.named_parameters(), plain.parameters(), strict=True):
        assert value.dtype == torch.float32, name
        assert torch.equal(value, theirs), name


MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_modes_of_the_caller_decide_nothing(make_config, train, tmp_path, assert_same_run, mode, dtype):
    fields = {"loader": {"holdout": 0.25}, "log": {"validate_every": 2}, "precision": {"autocast": dtype}}
    config = make_config("vision", steps=3, **fields)
    plain = train(config, tmp_path / "plain", device="cpu")
    with MODES[mode]():
        train(make_config("vision", steps=2, **fields), tmp_path / "grown")
        changed = train(config, tmp_path / "changed", device="cpu")
        train(config, tmp_path / "grown", device="cpu")
    assert_same_run(plain, changed, 3)
    assert Run(tmp_path / "grown").checkpoints()[-1] == 3


def test_weights_are_the_same_when_threads_build_at_once(make_config):
    config = make_config("vision")
    wanted = new_model(config).state_dict()
    with ThreadPoolExecutor(4) as pool:
        for model in pool.map(new_model, [config] * 16):
            assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
