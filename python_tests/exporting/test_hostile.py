"""Whatever stands in a file of others: refused with a reason on every road, and nothing runs or is written."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tuned_runs import _data, samples_of

import d2v_fast
from d2v_fast.commands import cli
from d2v_fast.errors import RunError
from d2v_fast.finetuning import load as load_finetuned
from d2v_fast.finetuning.finetune import Finetuning, settle
from d2v_fast.training.trainer import Data2VecTrainer

pytest.importorskip("transformers", reason="transformers is not installed (extra export)")


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def pretrain(source, run, out):
    Data2VecTrainer(d2v_fast.Run(run).config, data=samples_of("speech"), out=out, init_from=source)


ROADS = {
    "load": lambda source, run, out: d2v_fast.load(source),
    "the teacher": lambda source, run, out: d2v_fast.load(source, "teacher"),
    "init_from": pretrain,
    "finetune": lambda source, run, out: Finetuning(
        settle(source, "classify", {"steps": 2}, out), _data("classify", "speech"), out, device="cpu"
    ),
    "predict": lambda source, run, out: load_finetuned(source),
    "embed": lambda source, run, out: d2v_fast.embed(source, samples_of("speech"), out=out),
    "probe": lambda source, run, out: d2v_fast.probe(source, samples_of("speech", 24), labels=[0, 1] * 12, draws=10),
    "export": lambda source, run, out: d2v_fast.export(source, "hf", out),
}


@pytest.fixture(scope="module")
def model(tuned, tmp_path_factory):
    """A fine-tuned run, and its export."""
    run = tuned("classify", "speech", **{"head.norm": False})
    return run, d2v_fast.export(run, "hf", tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def folder(model, tmp_path):
    """A copy of the export."""
    place = tmp_path / "given"
    place.mkdir()
    for file in model[1].iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def refused(road, source, pretrained, tmp_path):
    """The reason; nothing but what was given may be there afterwards."""
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(RunError) as caught:
        ROADS[road](source, pretrained("speech"), tmp_path / "out.npy" if road == "embed" else tmp_path / "out")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("where", ["a file", "a folder"])
@pytest.mark.parametrize("road", ROADS)
def test_code_in_a_file_does_not_run(road, where, folder, pretrained, tmp_path):
    victim = tmp_path / "victim"
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin" if where == "a folder" else tmp_path / "model.pt"
    torch.save({"model": {"post_extract_proj.weight": torch.zeros(2, 2)}, "cfg": Hostile(victim)}, path)
    reason = refused(road, folder if where == "a folder" else path, pretrained, tmp_path)
    assert not victim.exists()
    assert "weights_only=False" not in reason
    if road != "export":
        assert "holds code, which is not run" in reason
        assert "examples/convert_trusted.py" in reason


@pytest.mark.parametrize("road", [road for road in ROADS if road != "export"])
def test_a_modelling_file_is_not_imported(road, folder, pretrained, tmp_path):
    victim = tmp_path / "victim"
    for name in ("modeling_d2v_fast.py", "configuration_d2v_fast.py", "evil.py"):
        (folder / name).write_text(f"open({str(victim)!r}, 'w')")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(settings | {"auto_map": {"AutoConfig": "evil.A", "AutoModel": "evil.B"}})
    )
    ROADS[road](folder, pretrained("speech"), tmp_path / "out.npy" if road == "embed" else tmp_path / "out")
    assert not victim.exists()


def change(folder, make):
    state = load_file(folder / "model.safetensors")
    make(state)
    save_file(state, folder / "model.safetensors")


NAME = "data2vec_audio.encoder.layer_norm.bias"
WRONG = {
    "missing": (lambda state: state.pop(NAME), r"missing: encoder\.layer_norm\.bias"),
    "another shape": (lambda state: state.update({NAME: torch.zeros(31)}), r"norm\.bias has shape \[31\]"),
    "not finite": (lambda state: state.update({NAME: torch.full((32,), torch.nan)}), "values that are not finite"),
    "more": (lambda state: state.update({"data2vec_audio.odd": torch.zeros(2)}), "unexpected: odd"),
    "more blocks": (
        lambda state: state.update({"data2vec_audio.encoder.layers.7.layer_norm.bias": torch.zeros(32)}),
        "it has 8 blocks, the model has 2",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("road", ["load", "init_from", "finetune", "predict", "embed", "probe"])
def test_wrong_tensors_are_named_on_every_road(road, wrong, folder, pretrained, tmp_path):
    make, reason = WRONG[wrong]
    change(folder, make)
    assert re.search(reason, refused(road, folder, pretrained, tmp_path))


@pytest.mark.parametrize("road", ["load", "init_from", "finetune", "predict"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_cut_off_is_refused(name, road, folder, pretrained, tmp_path):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    reason = refused(road, folder, pretrained, tmp_path)
    assert "cannot be read" in reason


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(4, 4).to_sparse_csr(),
        torch.empty(2**40, device="meta"),
    ],
    ids=["expanded", "sparse", "csr", "meta"],
)
def test_tensors_that_are_more_than_the_file_are_refused(tensor, tmp_path):
    torch.save({"cls_token": tensor}, tmp_path / "model.pt")
    with pytest.raises(RunError, match="is no plain tensor"):
        d2v_fast.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", "[" * 100_000, "cannot be read"),
        ("config.json", "[]", "cannot be read"),
        ("config.json", '{"model_type": "data2vec-audio", "hidden_size": -1}', "cannot be used"),
        ("config.json", '{"model_type": "d2v_fast"}', "'hidden_size' is missing"),
        ("d2v_fast.json", "{}", "d2v_fast.json cannot be used"),
        ("d2v_fast.json", '{"config": {"inputs": {"kind": "os.system"}}}', "d2v_fast.json cannot be used"),
        ("d2v_fast.json", "[" * 100_000, "d2v_fast.json cannot be used"),
    ],
)
def test_settings_that_cannot_be_used_are_named(name, content, reason, folder):
    (folder / name).write_text(content)
    with pytest.raises(RunError, match=reason):
        d2v_fast.load(folder)


def test_a_number_of_labels_makes_no_table(folder):
    settings = json.loads((folder / "config.json").read_text())
    del settings["id2label"], settings["label2id"]
    (folder / "config.json").write_text(json.dumps(settings | {"num_labels": 10**12}))
    assert d2v_fast.load(folder).config.modality == "speech"


def test_the_commands_say_it_in_one_line(folder, tmp_path, capsys):
    change(folder, WRONG["not finite"][0])
    np.save(tmp_path / "clip.npy", np.zeros(8000, np.float32))
    for arguments in (
        ["predict", folder, "--data", tmp_path, "--out", tmp_path / "out.jsonl"],
        ["embed", folder, "--data", tmp_path, "--out", tmp_path / "out.npy"],
        ["export", folder, "--to", "hf", "--out", tmp_path / "out"],
    ):
        with pytest.raises(SystemExit):
            cli.main([*map(str, arguments)])
        errors = capsys.readouterr().err
        assert len(errors.splitlines()) == 1, errors
        assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npy", "given"]
