"""The teacher follows the student whatever replaces parameter objects, and what is shared stays shared."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from d2v_fast.models import Data2Vec
from d2v_fast.models.config import TeacherConfig

AVERAGES = ["all", "transformer", "layers"]


def clones(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def load_all(model):
    model.load_state_dict(clones(model), assign=True)
    return model


def load_parts(model):
    model.student.load_state_dict(clones(model.student), assign=True)
    model.teacher.load_state_dict(clones(model.teacher), assign=True)
    return model


def load_encoder(model):
    model.student.encoder.load_state_dict(clones(model.student.encoder), assign=True)
    return model


def load_inside(model):
    around = nn.ModuleDict({"pair": model})
    around.load_state_dict(clones(around), assign=True)
    return model


def teacher_from_student(model):
    """The teacher's tensors are the student's memory then."""
    model.teacher.load_state_dict(model.student.encoder.state_dict(), assign=True)
    return model


def teacher_is_student(model):
    state = model.student.encoder.state_dict(keep_vars=True)
    model.teacher.load_state_dict(state, assign=True)
    for value in model.student.parameters():
        value.requires_grad_(True)
    return model


def empty(model):
    state = clones(model)
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def replaced(model):
    for encoder in (model.student.encoder, model.teacher):
        encoder.blocks[1] = copy.deepcopy(encoder.blocks[1])
    return model


CHANGES = [
    load_all,
    load_parts,
    load_encoder,
    load_inside,
    teacher_from_student,
    teacher_is_student,
    empty,
    replaced,
    copy.deepcopy,
    lambda model: pickle.loads(pickle.dumps(model)),
    lambda model: model.double().float(),
]


@pytest.mark.parametrize("averages", AVERAGES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_teacher_follows_new_parameters(small, config, batch, averages, change):
    model = small.perturb(Data2Vec(replace(config, teacher=TeacherConfig(averages=averages))))
    empty.buffers = {name: value.clone() for name, value in model.teacher.named_buffers()}
    shared = shared_names(model)
    model.update_teacher(0.5)  # the lists are kept now
    expected = model(batch).loss
    model = change(model)
    if change not in (teacher_from_student, teacher_is_student):
        assert torch.equal(model(batch).loss, expected)
    model.update_teacher(1.0)
    assert shared_names(model) == shared
    assert {name for name, value in model.teacher.named_parameters() if value.requires_grad} == shared
    assert all(value.requires_grad for value in model.student.parameters())
    with torch.no_grad():
        for value in model.student.parameters():
            value.add_(1.0)
    before = clones(model.teacher)
    model.update_teacher(0.0)
    student = model.student.encoder.state_dict()
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, student[name]), name
        assert name in shared or not torch.equal(value, before[name])


def shared_names(model):
    student = dict(model.student.encoder.named_parameters())
    return {name for name, value in model.teacher.named_parameters() if value is student[name]}


@pytest.mark.parametrize("averages", ["transformer", "layers"])
def test_what_is_shared_is_shared_as_soon_as_it_is_loaded(small, config, averages):
    model = Data2Vec(replace(config, teacher=TeacherConfig(averages=averages)))
    shared = shared_names(model)
    assert shared
    assert shared_names(load_all(model)) == shared
    assert shared_names(load_inside(model)) == shared
    assert shared_names(model.to("meta").to_empty(device="cpu")) == shared


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_weight_that_the_student_computes_is_followed_as_it_is_used(small, config, batch):
    model = small.perturb(Data2Vec(config))
    model.update_teacher(0.5)
    part = model.student.encoder.blocks[0].ffn.up
    parametrize.register_parametrization(part, "weight", Double())
    for _ in range(2):
        model(batch).loss.backward()
        with torch.no_grad():
            part.parametrizations.weight.original.add_(1.0)
        model.update_teacher(0.0)
        assert torch.equal(model.teacher.blocks[0].ffn.up.weight, part.weight)
        assert not model.teacher.blocks[0].ffn.up.weight.requires_grad
    parametrize.remove_parametrizations(part, "weight")
    with torch.no_grad():
        part.weight.add_(1.0)
    model.update_teacher(0.0)
    assert torch.equal(model.teacher.blocks[0].ffn.up.weight, part.weight)


def test_both_may_be_parametrized(small, config):
    model = small.perturb(Data2Vec(config))
    model.update_teacher(0.5)
    parts = [encoder.blocks[0].ffn.up for encoder in (model.student.encoder, model.teacher)]
    for part in parts:
        parametrize.register_parametrization(part, "weight", Double())
    model.update_teacher(0.0)
    assert torch.equal(parts[0].weight, parts[1].weight)
    assert parts[0].parametrizations.weight.original is not parts[1].parametrizations.weight.original


def test_what_cannot_be_followed_is_refused(small):
    model = Data2Vec(small.configs["speech"])
    model.update_teacher(0.5)
    parametrize.register_parametrization(model.student.encoder.embedding.projection, "weight", Double())
    with pytest.raises(RuntimeError, match=r"embedding\.projection\.weight has nothing to follow in the student"):
        model.update_teacher(0.5)
    model = Data2Vec(small.configs["vision"])
    parametrize.register_parametrization(model.teacher.blocks[0].ffn.up, "weight", Double())
    with pytest.raises(RuntimeError, match=r"blocks\.0\.ffn\.up\.parametrizations\.weight\.original has nothing"):
        model.update_teacher(0.5)
