"""data2vec 2.0: released files load without settings, and the modelling file computes what our encoder computes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_runs import _config
from torch import nn

import d2v_fast
from d2v_fast.errors import RunError
from d2v_fast.finetuning.heads import OutputHead
from d2v_fast.finetuning.imported import finetuned_of
from d2v_fast.interop import fairseq2, folders, foreign, programs
from d2v_fast.interop.trained import Trained
from d2v_fast.models import Data2Vec, build_encoder
from d2v_fast.models.config import DecoderConfig, TransformerConfig
from d2v_fast.run.weights import load_student

MODALITIES = ("speech", "vision", "text")
ABOUT = {
    "model": {
        "num_heads": 2,
        "norm_eps": 1e-6,
        "modalities": {"audio": {"feature_encoder_spec": "[(16, 10, 5)] + [(16, 8, 8)] + [(16,8,8)]"}},
    }
}
EXTRA = {"speech": 0, "vision": 0, "text": 0, "series": 2, "spectrogram": 1}


def config_of(modality, extra=None):
    """A tiny model of data2vec 2.0 with a prenet."""
    first = _config(modality).model
    network = TransformerConfig(
        dim=32,
        depth=3,
        heads=2,
        ffn_dim=64,
        prenet=1,
        norm_eps=1e-6,
        extra_tokens=EXTRA[modality] if extra is None else extra,
    )
    changes = {"speech": {"alibi": True}, "series": {"alibi": True}, "vision": {"positions": "sincos"}}
    layers = 2 if modality == "text" else 1
    head = DecoderConfig(dim=16, layers=2, kernel=3, groups=4, projection_layers=layers)
    embedding = replace(first.embedding, **changes.get(modality, {}))
    return replace(first, embedding=embedding, transformer=network, head=head)


def model_of(config):
    """With weights that are all away from their start."""
    torch.manual_seed(0)
    model = Data2Vec(config)
    for parameter in model.parameters():
        parameter.detach().add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def released(model, config):
    """The content of a released file: the student, and the teacher under the names that the released code gives it."""
    state = fairseq2.from_ours(model.student.state_dict(), config)
    teacher = fairseq2.from_ours(
        {name: value + 1 for name, value in model.student.encoder.state_dict().items()}, config, part="encoder"
    )
    root = {"speech": "AUDIO", "vision": "IMAGE", "text": "TEXT"}[config.modality]
    if config.modality == "text":  # the list of blocks by itself
        teacher = {name[len("blocks.") :]: value for name, value in teacher.items() if name.startswith("blocks.")}
    elif config.modality == "speech":  # without the shared front end
        front = (f"modality_encoders.{root}.local_encoder.", f"modality_encoders.{root}.project_features.")
        teacher = {name: value for name, value in teacher.items() if not name.startswith(front)}
    if config.modality == "vision":
        side = config.embedding.image_size // config.embedding.patch_size
        state[f"modality_encoders.{root}.fixed_positional_encoder.positions"] = torch.zeros(1, side * side, 32)
    return state, teacher


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_released_file_loads_and_starts_a_run(modality, tmp_path):
    config = config_of(modality)
    model = model_of(config)
    state, teacher = released(model, config)
    path = tmp_path / "base.pt"
    torch.save({"model": {**state, "_ema": teacher}, "cfg": ABOUT}, path)
    encoder = d2v_fast.load(path)
    assert equal(encoder.state_dict(), model.student.encoder.state_dict())
    assert (encoder.config, encoder.heads, encoder.encodes_kept) == (config.embedding, 2, True)
    averaged = d2v_fast.load(path, "teacher").state_dict()
    apart = {name: value for name, value in averaged.items() if not torch.equal(value, encoder.state_dict()[name])}
    assert all(torch.equal(value, encoder.state_dict()[name] + 1) for name, value in apart.items())
    alone = {
        "text": ("blocks.1.", "blocks.2."),
        "speech": ("blocks.", "norm.", "positions.", "alibi."),
        "vision": ("",),
    }
    assert apart.keys() == {name for name in averaged if name.startswith(alone[modality])}
    new = Data2Vec(config)
    load_student(new, path)
    assert equal(new.student.state_dict(), model.student.state_dict())


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_fine_tuned_file_gives_its_encoder(modality, tmp_path):
    config = config_of(modality)
    model = model_of(config)
    state, _ = released(model, config)
    wrapper = {"speech": "w2v_encoder.w2v_model.", "vision": "model.", "text": "model."}[modality]
    state = {f"{wrapper}{name}": value for name, value in state.items() if ".decoder." not in name}
    head = {"speech": "w2v_encoder.proj", "vision": "head", "text": "classification_heads.mnli.dense"}[modality]
    state |= {f"{head}.weight": torch.zeros(5, 32), f"{head}.bias": torch.zeros(5)}
    if modality == "vision":
        state |= {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
    torch.save({"model": state, "cfg": ABOUT}, tmp_path / "tuned.pt")
    assert equal(d2v_fast.load(tmp_path / "tuned.pt").state_dict(), model.student.encoder.state_dict())


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_a_fine_tuned_file_answers(modality, tmp_path):
    """The classes are those of fairseq's own head, written out: of the mean of the patches, or of the first token."""
    config = config_of(modality)
    model = model_of(config)
    state, _ = released(model, config)
    state = {f"model.{name}": value for name, value in state.items() if ".decoder." not in name}
    norm, hidden, output = (nn.LayerNorm(32, eps=1e-6), nn.Linear(32, 32), nn.Linear(32, 3))
    nn.init.normal_(norm.weight)
    parts = {"fc_norm": norm, "head": output}
    if modality == "text":
        parts = {"classification_heads.mnli.dense": hidden, "classification_heads.mnli.out_proj": output}
    for name, part in parts.items():
        state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    path = tmp_path / "tuned.pt"
    torch.save({"model": state, "cfg": ABOUT}, path)
    with pytest.raises(RunError, match=r"3 outputs, and does not say what they are called; labels\.txt"):
        finetuned_of(path)
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    found, tensors, _ = finetuned_of(path)
    assert found.task.classes == ("cat", "dog", "owl")
    encoder = d2v_fast.load(path)
    batch = programs.example(encoder, programs.shape_of(config.embedding), 2, 9)
    with torch.no_grad():
        tokens = encoder(*batch[:1])
        wanted = output(norm(tokens.mean(1))) if modality == "vision" else output(torch.tanh(hidden(tokens[:, 0])))
        head = OutputHead(found.head, 32, config.transformer.depth, 3)
        head.load_state_dict({name[5:]: value for name, value in tensors.items() if name.startswith("head.")})
        torch.testing.assert_close(head.eval()(tokens, [], None), wanted, rtol=1e-5, atol=1e-5)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(RunError, match="3 outputs, and 2 names are given"):
        finetuned_of(path)


def test_heads_that_are_not_computed_here_are_refused(tmp_path):
    config = config_of("text")
    state, _ = released(model_of(config), config)
    head = {"dense.weight": torch.zeros(32, 32), "dense.bias": torch.zeros(32)}
    head |= {"out_proj.weight": torch.zeros(1, 32), "out_proj.bias": torch.zeros(1)}
    state |= {f"classification_heads.sts.{name}": value for name, value in head.items()}
    torch.save({"model": state, "cfg": ABOUT}, tmp_path / "tuned.pt")
    with pytest.raises(RunError, match="does not say in which unit"):
        finetuned_of(tmp_path / "tuned.pt")


def test_older_names_and_shapes(tmp_path):
    config = config_of("speech")
    model = model_of(config)
    state, _ = released(model, config)
    state["modality_encoders.AUDIO.alibi_scale"] = state["modality_encoders.AUDIO.alibi_scale"][0]
    state["modality_encoders.AUDIO.encoder_mask"] = torch.zeros(3)
    torch.save({"model": state, "cfg": ABOUT}, tmp_path / "old.pt")
    assert equal(d2v_fast.load(tmp_path / "old.pt").state_dict(), model.student.encoder.state_dict())


def test_what_is_missing_is_named(tmp_path):
    config = config_of("text")
    state, _ = released(model_of(config), config)
    del state["blocks.0.norm1.bias"]
    torch.save({"model": state, "cfg": ABOUT}, tmp_path / "cut.pt")
    with pytest.raises(RunError, match=r"missing: blocks\.0\.norm1\.bias"):
        d2v_fast.load(tmp_path / "cut.pt")
    with pytest.raises(RunError, match="it has 3 blocks, the model has 2"):
        foreign.weights(tmp_path / "cut.pt", _config("text").model)


def exact(encoder, batch):
    values = [value.double() if value.is_floating_point() else value for value in batch]
    with torch.no_grad():
        return encoder.double()(*values)


@pytest.mark.parametrize("extra", [None, 3])
@pytest.mark.parametrize("modality", [*MODALITIES, "series", "spectrogram"])
def test_the_modelling_file_computes_the_same(modality, extra, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed (extra export)")
    from d2v_fast.interop.modeling_d2v_fast import D2vFastModel

    config = config_of(modality, extra)
    encoder = model_of(config).student.encoder
    trained = Trained(encoder=encoder, network=encoder, config=config, inputs=_config(modality).inputs)
    folders.write_hf(tmp_path, trained)
    theirs, info = D2vFastModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    shape = programs.shape_of(config.embedding)
    batch = programs.example(encoder, shape, 3, shape.sizes[1])
    ours = exact(encoder, batch)
    mask = {"attention_mask": torch.arange(batch[0].shape[1]) < batch[1][:, None]} if len(batch) == 2 else {}
    given = batch[0].double() if batch[0].is_floating_point() else batch[0]
    with torch.no_grad():
        found = theirs.eval()(**{theirs.main_input_name: given}, **mask).last_hidden_state
    valid = torch.ones(ours.shape[:2], dtype=torch.bool)
    if len(batch) == 2:
        valid = torch.arange(ours.shape[1]) < encoder.token_lengths(batch[1])[:, None]
    assert (found - ours)[valid].abs().max() <= 1e-10 * ours[valid].abs().max()
    again = d2v_fast.load(tmp_path)
    assert equal(again.state_dict(), encoder.float().state_dict())
    assert again.encodes_kept
    assert again.config == encoder.config


def test_transformers_own_classes_and_timm_have_no_room_for_it(tmp_path, caplog):
    pytest.importorskip("transformers", reason="transformers is not installed (extra export)")
    config = config_of("text")
    encoder = build_encoder(config).eval()
    folders.write_hf(tmp_path, Trained(encoder=encoder, network=encoder, config=config, inputs=_config("text").inputs))
    assert "transformers has no data2vec 2.0" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["second"] is True


@pytest.mark.parametrize("modality", ["vision", "text", pytest.param("speech", marks=pytest.mark.long)])
def test_it_becomes_a_program(modality, tmp_path):
    config = config_of(modality, 2 if modality == "text" else 0)
    encoder = model_of(config).student.encoder
    trained = Trained(encoder=encoder, network=encoder, config=config, inputs=_config(modality).inputs)
    programs.write_torch(tmp_path, trained)  # which compares it with the encoder
    assert (tmp_path / "model.pt2").exists()
