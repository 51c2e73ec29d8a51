"""Single files, and folders of other kinds, load without a word about what model they are of."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.interop import fairseq, shapes
from d2v_fast.models import build_encoder
from d2v_fast.run.weights import load_student, new_model

CONVERTER = Path(__file__).parents[2] / "examples" / "convert_trusted.py"
ABOUT = {
    "model": {
        "encoder_attention_heads": 2,
        "conv_feature_layers": "[(16, 10, 5)] + [(16,8,8)] * 2",
        "transformer": {"encoder": {"attention_heads": 2}},
    },
    "task": {"normalize": False},
}
"""What the configuration of a tiny speech or text run would say in fairseq."""


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def with_teacher(run, vision="beit"):
    """The state of a released file of a run, with the teacher as the released code nests it."""
    config = d2v_fast.Run(run).config.model
    state = fairseq.from_ours(checkpoint(run), config, vision=vision)
    teacher = fairseq.from_ours(d2v_fast.load(run, "teacher").state_dict(), config, part="encoder", vision=vision)
    prefix = {"speech": "encoder.", "text": "encoder.sentence_encoder.", "vision": "encoder."}[config.modality]
    if config.modality == "vision":  # which averages all, under whole names
        return state, teacher
    return state, {name[len(prefix) :]: value for name, value in teacher.items() if name.startswith(prefix)}


def checkpoint(run):
    return d2v_fast.Run(run).newest().tensors("student")


def write(path, state, teacher, form, modality):
    if form == "safetensors":
        tensors = {name: value.contiguous() for name, value in state.items()}
        tensors |= {f"_ema.{name}": value.contiguous() for name, value in teacher.items()}
        save_file(tensors, path, {"settings": json.dumps(ABOUT)})
    elif modality == "vision":
        torch.save({"model": state, "model_ema": teacher}, path)
    else:
        torch.save({"model": {**state, "_ema": teacher, "version": torch.tensor(3)}, "cfg": ABOUT}, path)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", ["speech", "text", "beit", "fairseq vision"])
def test_a_released_file_holds_student_and_teacher(kind, form, finished, tmp_path):
    modality = kind if kind in ("speech", "text") else "vision"
    run = finished(modality)
    path = tmp_path / f"model.{form}"
    write(path, *with_teacher(run, "fairseq" if kind == "fairseq vision" else "beit"), form, modality)
    for network in ("student", "teacher"):
        found, wanted = d2v_fast.load(path, network), d2v_fast.load(run, network)
        assert equal(found, wanted)
        assert found.config == wanted.config
        assert (found.heads, found.norm_first) == (wanted.heads, wanted.norm_first)
    if modality == "speech":
        assert found.inputs.normalize is False  # as the settings in the file have it
    inputs = {"speech": torch.randn(1, 4000), "text": torch.tensor([[0, 7, 9, 2]]), "vision": torch.randn(1, 3, 16, 16)}
    torch.testing.assert_close(found(inputs[modality]), wanted(inputs[modality]))
    model = new_model(d2v_fast.Run(run).config)
    load_student(model, path)
    assert equal(model.student.encoder, d2v_fast.load(run))


def test_a_file_without_a_teacher_says_so(finished, tmp_path):
    state, _ = with_teacher(finished("vision"))
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(RunError, match='has no teacher: give network="student"'):
        d2v_fast.load(tmp_path / "model.pt", "teacher")


@pytest.mark.parametrize(
    ("modality", "reason"),
    [("speech", "convolutions are not the released ones"), ("text", "does not say how many attention heads")],
)
def test_a_file_that_does_not_say_enough_is_refused(modality, reason, finished, tmp_path):
    state, _ = with_teacher(finished(modality))
    torch.save({"model": state}, tmp_path / "model.pt")
    with pytest.raises(RunError, match=f"does not say what model it is of: .*{reason}"):
        d2v_fast.load(tmp_path / "model.pt")


def test_released_shapes_say_all():
    """Of the released base models, which have heads of 64 channels."""
    config = d2v_fast.preset("speech-base").model
    with torch.device("meta"):
        state = fairseq.from_ours(build_encoder(config).state_dict(), config, part="encoder")
    found = shapes.model_of(state, {})
    assert (found.embedding, found.transformer.heads) == (config.embedding, 12)


def test_weights_inside_of_a_folder_are_of_the_model_of_the_folder(finished, tmp_path):
    run = finished("text")
    out = d2v_fast.export(run, "hf", tmp_path / "model", network="teacher")
    assert equal(d2v_fast.load(out / "model.safetensors"), d2v_fast.load(run, "teacher"))


@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize(
    ("modality", "overrides"),
    [
        ("speech", {"model.transformer.layer_scale": 0.1}),
        ("vision", {"model.embedding.positions": "sincos"}),
        ("text", {"model.transformer.norm_first": True}),
        ("series", {}),
        ("spectrogram", {}),
    ],
)
def test_a_folder_with_our_modelling_file_loads(modality, overrides, facts, finished, tmp_path):
    run = finished(modality, **overrides)
    out = d2v_fast.export(run, "hf", tmp_path / "model", network="teacher")
    if not facts:
        (out / "d2v_fast.json").unlink()
    found, wanted = d2v_fast.load(out), d2v_fast.load(run, "teacher")
    assert equal(found, wanted)
    assert found.config == wanted.config
    if facts and modality != "text":
        assert found.inputs == wanted.inputs
    model = new_model(d2v_fast.Run(run).config)
    load_student(model, out)
    assert equal(model.student.encoder, wanted)


def test_a_folder_of_timm_loads(finished, tmp_path):
    run = finished("vision")
    out = d2v_fast.export(run, "timm", tmp_path / "model")
    for place in (out, out / "model.safetensors"):
        found, wanted = d2v_fast.load(place).state_dict(), d2v_fast.load(run).state_dict()
        assert {name for name in found if not torch.equal(found[name], wanted[name])} <= {"embedding.mask_token"}
    assert d2v_fast.load(out).inputs == d2v_fast.load(run).inputs


def test_our_own_weights_as_a_file_start_a_run(finished):
    run = finished("vision")
    model = new_model(d2v_fast.Run(run).config)
    load_student(model, d2v_fast.Run(run).newest().folder / "student.safetensors")
    assert all(torch.equal(value, checkpoint(run)[name]) for name, value in model.student.state_dict().items())


def converter():
    spec = importlib.util.spec_from_file_location("convert_trusted", CONVERTER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_converter_wrote_is_read(finished, tmp_path, monkeypatch, capsys):
    """A file as fairseq writes it, with objects of classes that are not installed here."""
    run, path = finished("speech"), tmp_path / "model.pt"
    state, teacher = with_teacher(run)
    gone = types.ModuleType("gone_library")
    for name in ("DictConfig", "AnyNode", "Namespace"):
        setattr(gone, name, type(name, (), {"__module__": "gone_library"}))
    monkeypatch.setitem(sys.modules, "gone_library", gone)

    def node(value):
        made = gone.DictConfig() if isinstance(value, dict) else gone.AnyNode()
        if isinstance(value, dict):
            made._content, made._metadata = {key: node(each) for key, each in value.items()}, None
        else:
            made._val = value
        return made

    torch.save({"model": {**state, "_ema": teacher}, "cfg": node(ABOUT), "args": gone.Namespace()}, path)
    monkeypatch.delitem(sys.modules, "gone_library")
    with pytest.raises(RunError, match=r"examples/convert_trusted\.py"):
        d2v_fast.load(path)
    safe = tmp_path / "model.safetensors"
    monkeypatch.setattr(sys, "argv", ["convert_trusted.py", str(path), str(safe)])
    with pytest.raises(SystemExit, match="A pickle may be a program"):
        converter().main()
    assert not safe.exists()
    monkeypatch.setattr(sys, "argv", ["convert_trusted.py", str(path), str(safe), "--trust"])
    converter().main()
    assert capsys.readouterr().out == f"{safe}: {len(state) + len(teacher)} tensors\n"
    for network in ("student", "teacher"):
        assert equal(d2v_fast.load(safe, network), d2v_fast.load(run, network))
    assert d2v_fast.load(safe).inputs.normalize is False
    with pytest.raises(FileExistsError):
        converter().main()


def test_the_converter_imports_nothing_of_the_library():
    assert "import d2v_fast" not in CONVERTER.read_text()
    assert "from d2v_fast" not in CONVERTER.read_text()


@pytest.mark.parametrize("spelled", ["__import__('os')", "[(1, 2)]", "(1, 2, 3)", "[(1,2,3)]; x", "[(1,2,3)]*10000"])
def test_settings_in_a_file_are_not_evaluated(spelled, finished, tmp_path):
    state, _ = with_teacher(finished("speech"))
    torch.save({"model": state, "cfg": {"conv_feature_layers": spelled}}, tmp_path / "model.pt")
    with pytest.raises(RunError, match="which is no list of"):
        d2v_fast.load(tmp_path / "model.pt")
