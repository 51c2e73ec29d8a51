from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from d2v_fast import presets
from d2v_fast.config import OptimConfig, PrecisionConfig
from d2v_fast.errors import RunError
from d2v_fast.models import Data2Vec
from d2v_fast.training.precision import LossScale
from d2v_fast.training.update import Averages, Update, is_vector

ONE = torch.ones(())


def build(config: OptimConfig, seed: int = 0, scale: float = 1.0, **options) -> tuple[nn.Module, Update]:
    torch.manual_seed(seed)
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})
    model.class_token = nn.Parameter(torch.ones(2))
    model.mask_token = nn.Parameter(torch.ones(2))
    model.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    loss_scale = LossScale(PrecisionConfig(), torch.device("cpu"))
    loss_scale.value.fill_(scale)
    return model, Update(model.named_parameters(), None, config, loss_scale, **options)


@pytest.fixture(params=[True, False], ids=["one pass", "torch"])
def make(request):
    return functools.partial(build, one_pass=request.param)


def set_gradients(model: nn.Module, value: float) -> float:
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)
            count += parameter.numel()
    return abs(value) * count**0.5


def test_step_is_adamw_written_out(make):
    config = OptimConfig(lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    model, optimizer = make(config)
    expected = {name: p.detach().double().clone() for name, p in optimizer.named.items()}
    m = v = 0.0
    for step, (lr, g) in enumerate([(0.1, 0.5), (0.05, -1.0), (0.2, 0.25)], start=1):
        norm_expected = set_gradients(model, g)
        norm, found_inf = optimizer.step(lr, ONE)
        assert found_inf == 0
        assert norm.item() == pytest.approx(norm_expected, rel=1e-6)
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        for value in expected.values():
            value -= lr * 0.01 * value
            value -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)) ** 0.5 + 1e-6)
    for name, parameter in optimizer.named.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], atol=1e-6, rtol=1e-5)
        assert parameter.grad is None
    assert torch.equal(model.frozen, torch.ones(2))


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (100.0, 1.0), (0.5, None)])
def test_clipping_and_unscaling_happen_in_the_step(make, clip, factor):
    """The first moment after one step is (1 - beta1) times the gradient that the update used."""
    model, optimizer = make(OptimConfig(clip_norm=clip), scale=1024.0)
    true_norm = set_gradients(model, 2.0 * 1024.0) / 1024.0
    norm, _ = optimizer.step(1e-3, ONE)
    assert norm.item() == pytest.approx(true_norm, rel=1e-6)
    used = 2.0 * (0.5 / true_norm if factor is None else factor)
    moment = optimizer.state()["exp_avg.linear.weight"]
    torch.testing.assert_close(moment, torch.full((2, 3), 0.1 * used), rtol=1e-5, atol=0)


@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_non_finite_step_changes_nothing(make, where, value, clip):
    model, optimizer = make(OptimConfig(clip_norm=clip))
    set_gradients(model, 1.0)
    optimizer.step(0.1, ONE)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = {name: value.clone() for name, value in optimizer.state().items()}
    set_gradients(model, 1.0)
    if where == "gradient":
        model.mask_token.grad[1] = value
    loss = torch.tensor(value) if where == "loss" else ONE
    _, found_inf = optimizer.step(0.1, loss)
    assert found_inf == 1
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(torch.equal(state[name], value) for name, value in optimizer.state().items())
    assert optimizer.state()["step.linear.weight"] == 1
    set_gradients(model, 1.0)
    optimizer.step(0.1, ONE)
    assert not torch.equal(before["linear.weight"], model["linear"].weight)


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_weight_decay_groups(make, decay_vectors):
    model, optimizer = make(OptimConfig(weight_decay=0.5, decay_vectors=decay_vectors))
    set_gradients(model, 0.0)
    model["norm"].bias.data.fill_(1.0)
    model["linear"].bias.data.fill_(1.0)
    before = {name: p.detach().clone() for name, p in optimizer.named.items()}
    optimizer.step(0.1, ONE)
    decayed = {name for name, p in optimizer.named.items() if torch.allclose(p, before[name] * 0.95)}
    matrices = {"linear.weight", "mask_token"}
    vectors = {"linear.bias", "norm.weight", "norm.bias", "class_token"}
    assert decayed == (matrices | vectors if decay_vectors else matrices)


def test_a_parameter_without_gradient_keeps_its_momentum(make):
    """A dropped layer moves on as if its gradient were zero, so a resumed run cannot differ from a running one."""
    model, optimizer = make(OptimConfig(weight_decay=0.0))
    set_gradients(model, 1.0)
    optimizer.step(0.1, ONE)
    before = model.mask_token.detach().clone()
    set_gradients(model, 1.0)
    model.mask_token.grad = None
    optimizer.step(0.1, ONE)
    assert not torch.equal(model.mask_token, before)
    assert optimizer.state()["step.mask_token"] == 2


def test_state_round_trip_continues_with_the_same_bits(make):
    model, optimizer = make(OptimConfig())
    set_gradients(model, 0.3)
    optimizer.step(0.1, ONE)
    other_model, other = make(OptimConfig())
    other_model.load_state_dict(model.state_dict())
    other.load_state({name: value.clone() for name, value in optimizer.state().items()})
    for m, o in ((model, optimizer), (other_model, other)):
        set_gradients(m, -0.7)
        o.step(0.05, ONE)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other_model.parameters(), strict=True))
    with pytest.raises(RunError, match="has no step for class_token: it belongs to another model"):
        other.load_state({})


def test_weight_decay_of_the_vision_model_is_that_of_the_published_code():
    config = presets.vision_base().model
    with torch.device("meta"):
        student = Data2Vec(config).student
    spared = {name for name, value in student.named_parameters() if is_vector(name, value)}
    decayed = {name for name, _ in student.named_parameters()} - spared
    # The patch projection, the mask token, the bias table and the head; four matrices in each block.
    assert len(decayed) == 4 + 4 * config.transformer.depth
    assert {"encoder.embedding.mask_token", "encoder.positions.table"} <= decayed
    assert "encoder.embedding.class_token" in spared


def test_a_parameter_has_its_own_rate(make):
    """With rate r a step is what a step of learning rate r * lr is for it, weight decay included."""
    config = OptimConfig(lr=0.1, weight_decay=0.1, decay_vectors=False)
    (model, _), (slow, of_slow) = make(config), make(config)
    rates = {"linear.weight": 0.5, "linear.bias": 0.25}
    optimizer = Update(
        model.named_parameters(),
        None,
        config,
        LossScale(PrecisionConfig(), torch.device("cpu")),
        rates,
        one_pass=of_slow.one_pass,
    )
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for m in (model, slow):
        set_gradients(m, 0.5)
    optimizer.step(0.1, ONE)
    of_slow.step(0.05, ONE)
    assert torch.equal(model.linear.weight, slow.linear.weight)
    moved, half = (m.norm.weight - start["norm.weight"] for m in (model, slow))
    torch.testing.assert_close(moved, 2 * half, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        model.linear.bias - start["linear.bias"], 0.5 * (slow.linear.bias - start["linear.bias"]), rtol=1e-5, atol=1e-8
    )
    with pytest.raises(ValueError, match=r"rates names frozen, which are no parameters that are trained"):
        Update(model.named_parameters(), None, config, LossScale(PrecisionConfig(), torch.device("cpu")), {"frozen": 1})


def test_a_parameter_that_is_held_stays_and_begins_afterwards(make):
    config = OptimConfig(weight_decay=0.1)
    model, optimizer = make(config)
    fresh, first = make(config)
    before = model.linear.weight.detach().clone()
    held = {"linear.weight", "linear.bias"}
    set_gradients(model, 0.5)
    model.linear.weight.grad = model.linear.bias.grad = None
    optimizer.step(0.1, ONE, held=held)
    assert torch.equal(model.linear.weight, before)
    state = optimizer.state()
    assert [name for name in state if "linear" in name] == []
    again = make(config)[1]
    with pytest.raises(RunError, match=r"no step for linear\.weight"):
        again.load_state(state)
    again.load_state(state, held)
    for m, update in ((model, optimizer), (fresh, first)):
        set_gradients(m, 0.25)
        update.step(0.1, ONE)
    assert torch.equal(model.linear.weight, fresh.linear.weight)  # as if this were its first step
    assert not torch.equal(model.norm.weight, fresh.norm.weight)


def averaged(one_pass):
    """A model with averages of its parameters, of one that is frozen and of another tensor; three steps of it."""
    config = OptimConfig(weight_decay=0.1, decay_vectors=False, clip_norm=1.0)
    model = build(config)[0]
    other = torch.ones(2)
    sources = [*model.parameters(), other]
    averages = Averages([torch.full_like(x.detach(), 0.5) for x in sources], sources)
    scale = LossScale(PrecisionConfig(), torch.device("cpu"))
    return model, averages, Update(model.named_parameters(), averages, config, scale, one_pass=one_pass)


def test_averages_follow_the_new_parameters_and_stay_in_skipped_steps():
    results = []
    for one_pass in (True, False):
        model, averages, update = averaged(one_pass)
        assert update.one_pass == one_pass
        for value, decay in ((0.5, 0.9), (torch.nan, 0.9), (-1.0, 0.6), (0.25, None)):
            set_gradients(model, value)
            before = [x.clone() for x in averages.averages]
            expected = [x.double() for x in before]
            update.step(0.1, ONE, decay)
            if value == value and decay is not None:
                pairs = zip(expected, averages.sources, strict=True)
                expected = [decay * x + (1 - decay) * y.detach().double() for x, y in pairs]
            for ours, exact in zip(averages.averages, expected, strict=True):
                torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-7)
                assert (value == value and decay is not None) or torch.equal(ours.double(), exact)
        results.append([*averages.averages, *model.parameters()])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
def test_either_way_continues_what_the_other_began(first):
    model, _, update = averaged(first)
    other_model, _, other = averaged(not first)
    for m, u in ((model, update), (other_model, other)):
        set_gradients(m, 0.5)
        u.step(0.1, ONE, 0.9)
    assert update.state().keys() == other.state().keys()
    assert all(
        x.dtype == y.dtype and x.shape == y.shape
        for x, y in zip(update.state().values(), other.state().values(), strict=True)
    )
    other_model.load_state_dict(model.state_dict())
    other.load_state(update.state())
    for m, u in ((model, update), (other_model, other)):
        set_gradients(m, -0.25)
        u.step(0.1, ONE, 0.9)
    for x, y in zip(model.parameters(), other_model.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    assert update.state()["step.linear.weight"] == other.state()["step.linear.weight"] == 2


def test_other_formats_than_float32_are_torchs():
    model = nn.Linear(3, 2, dtype=torch.float64)
    scale = LossScale(PrecisionConfig(), torch.device("cpu"))
    assert not Update(model.named_parameters(), None, OptimConfig(), scale).one_pass
