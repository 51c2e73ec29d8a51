"""What an export wrote comes back: by `load`, and as the start of another run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.interop import fairseq
from d2v_fast.training.trainer import Data2VecTrainer

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra export)")


def start(run, data, out, init_from):
    """The student of a new run with the configuration of an old one."""
    return Data2VecTrainer(d2v_fast.Run(run).config, data=data, out=out, init_from=init_from).model


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_a_folder_of_transformers_loads_as_the_same_encoder(modality, finished, tmp_path):
    run = finished(modality)
    out = d2v_fast.export(run, "hf", tmp_path / "model", network="teacher")
    encoder, wanted = d2v_fast.load(out), d2v_fast.load(run, "teacher")
    assert equal(encoder, wanted)
    assert encoder.config.modality == modality
    sample = {"speech": torch.randn(9000), "vision": torch.zeros(3, 20, 30, dtype=torch.uint8), "text": "the teacher"}
    both = [network.features([sample[modality]]) for network in (encoder, wanted)]
    assert torch.equal(*(torch.as_tensor(features[0]) for features in both))


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_a_run_starts_from_a_folder_of_transformers(modality, finished, make_data, tmp_path):
    run = finished(modality)
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    model = start(run, make_data(modality), tmp_path / "new", out)
    fresh = start(run, make_data(modality), tmp_path / "new", None)
    assert equal(model.student.encoder, d2v_fast.load(run))
    assert equal(model.student.head, fresh.student.head)
    assert not equal(model.student.encoder, fresh.student.encoder)
    assert list(model.teacher.parameters())[-1].equal(list(model.student.encoder.parameters())[-1])


def test_a_run_starts_from_a_folder_of_timm(finished, make_data, tmp_path):
    run = finished("vision")
    out = d2v_fast.export(run, "timm", tmp_path / "model")
    model = start(run, make_data("vision"), tmp_path / "new", out)
    found, wanted = model.student.encoder.state_dict(), d2v_fast.load(run).state_dict()
    assert {name for name in found if not torch.equal(found[name], wanted[name])} <= {"embedding.mask_token"}


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_run_starts_from_a_file_of_fairseq_with_its_head(modality, form, finished, make_data, tmp_path):
    run = finished(modality)
    wanted = start(run, make_data(modality), tmp_path / "new", run).student
    state = fairseq.from_ours(wanted.state_dict(), d2v_fast.Run(run).config.model)
    path = tmp_path / f"model.{form}"
    if form == "pt":
        torch.save({"model": state | {"_ema": {}}, "cfg": {"name": "data2vec"}}, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert equal(start(run, make_data(modality), tmp_path / "other", path).student, wanted)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def hostile(path, victim):
    torch.save({"model": {"cls_token": torch.zeros(1)}, "args": Hostile(victim)}, path)


def test_a_hostile_file_is_refused_on_every_road_and_does_nothing(finished, make_data, tmp_path):
    run, victim = finished("vision"), tmp_path / "victim"
    hostile(tmp_path / "model.pt", victim)
    torch.load(tmp_path / "model.pt", weights_only=False)  # it is one
    assert victim.exists()
    victim.unlink()
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    (out / "model.safetensors").unlink()
    hostile(out / "pytorch_model.bin", victim)
    for road in (
        lambda: start(run, make_data("vision"), tmp_path / "new", tmp_path / "model.pt"),
        lambda: start(run, make_data("vision"), tmp_path / "new", out),
        lambda: d2v_fast.load(out),
        lambda: d2v_fast.export(out, "hf", tmp_path / "again"),
    ):
        with pytest.raises(RunError) as caught:
            road()
        assert not victim.exists()
        assert "weights_only=False" not in str(caught.value)
    with pytest.raises(RunError, match="holds code, which is not run"):
        d2v_fast.load(out)
    assert not (tmp_path / "new").exists()


def change(folder, name, make):
    """Change one tensor of a folder; None deletes it."""
    state = load_file(folder / "model.safetensors")
    value = make(state.pop(name) if name in state else None)
    save_file(state if value is None else state | {name: value}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("layernorm.bias", lambda _: None, r"missing: layernorm\.bias"),
        ("layernorm.odd", lambda _: torch.zeros(3), r"unexpected: layernorm\.odd"),
        ("layernorm.bias", lambda _: torch.zeros(31), r"norm\.bias has shape \[31\], this model \[32\]"),
        ("layernorm.bias", lambda x: x * torch.nan, r"layernorm\.bias has values that are not finite"),
        ("encoder.layer.2.lambda_1", lambda _: torch.zeros(32), "it has 3 blocks, the model has 2"),
    ],
)
def test_wrong_tensors_are_named(name, make, reason, finished, make_data, tmp_path):
    run = finished("vision")
    out = d2v_fast.export(run, "hf", tmp_path / "model")
    change(out, name, make)
    with pytest.raises(RunError, match=reason):
        d2v_fast.load(out)
    with pytest.raises(RunError, match=reason):
        start(run, make_data("vision"), tmp_path / "new", out)
    assert not (tmp_path / "new").exists()


def test_another_modality_is_refused(finished, make_data, tmp_path):
    out = d2v_fast.export(finished("text"), "hf", tmp_path / "model")
    with pytest.raises(RunError, match=r"missing: .*unexpected: embeddings\."):
        start(finished("vision"), make_data("vision"), tmp_path / "new", out)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(name, finished, tmp_path):
    out = d2v_fast.export(finished("speech"), "hf", tmp_path / "model")
    if name == "pytorch_model.bin":
        torch.save(load_file(out / "model.safetensors"), out / name)
        (out / "model.safetensors").unlink()
        assert d2v_fast.load(out).config.modality == "speech"
    content = (out / name).read_bytes()
    (out / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"cannot be read|damaged"):
        d2v_fast.load(out)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "llama"}, "type 'llama', not one of data2vec-audio"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2; models here have 1"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_hidden_layers": 10**9}, "it has 2 blocks, the model has 1000000000"),
        ({"vocab_size": 10**12}, r"embedding\.tokens\.weight has shape \[300, 32\], this model \[1000000000000, 32\]"),
        ({"hidden_size": "wide"}, "config.json cannot be used"),
    ],
)
def test_settings_of_another_model_are_refused(changes, reason, finished, tmp_path):
    out = d2v_fast.export(finished("text"), "hf", tmp_path / "model")
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(RunError, match=reason):
        d2v_fast.load(out)


def test_an_index_names_files_of_its_folder_only(finished, tmp_path):
    out = d2v_fast.export(finished("text"), "hf", tmp_path / "model")
    shutil.move(out / "model.safetensors", out / "part-1.safetensors")
    index = out / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    assert d2v_fast.load(out).config.modality == "text"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(RunError, match="which is no file of this folder"):
        d2v_fast.load(out)


def test_there_is_no_initial_network(finished, tmp_path):
    out = d2v_fast.export(finished("text"), "hf", tmp_path / "model")
    with pytest.raises(RunError, match="there is no initial network"):
        d2v_fast.load(out, "initial")
