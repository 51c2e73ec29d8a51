"""adamw_ema_: torch's fused AdamW and our moving average within rounding, and nothing else than these."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from d2v_fast import reference
from d2v_fast.ops import adamw_ema_, ema_update_

SHAPES = [(), (0,), (7,), (3, 0, 2), (511,), (513,), (31, 17), (65_536,), (65_537,), (2, 3, 5, 7)]
OPTIONS = {"betas": (0.9, 0.98), "eps": 1e-6}
RATES = {"lr": 1e-2, "weight_decay": 0.1}
KEPT = ("parameters", "exp_avg", "exp_avg_sq", "steps", "teacher")


def lists(shapes=SHAPES, dtype=torch.float32, done=0, seed=0):
    """Parameters, gradients, moments as after `done` steps, and teachers, by the names of the arguments."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]

    made = {name: draw() for name in ("parameters", "gradients", "exp_avg", "exp_avg_sq", "teacher")}
    made["exp_avg_sq"] = [tensor.abs() for tensor in made["exp_avg_sq"]]
    return made | {"steps": [torch.full((), float(done)) for _ in shapes]}


def copy_of(given, dtype=None):
    return {name: [x.to(dtype or x.dtype, copy=True) for x in tensors] for name, tensors in given.items()}


def torchs(given, decay, *, lr, weight_decay, betas, eps, scale=1.0, found=0.0):
    """What torch makes of the lists, in place, and the average behind it."""
    count = len(given["parameters"])
    lr, weight_decay = ([x] * count if isinstance(x, float) else x for x in (lr, weight_decay))
    gradients = [tensor.clone() for tensor in given["gradients"]]  # torch writes what it has divided
    scale, found = torch.tensor(scale), torch.tensor(found)
    for i in range(count):
        one = [[given[name][i]] for name in ("exp_avg", "exp_avg_sq")]
        given["steps"][i] += 1
        torch._fused_adamw_(
            [given["parameters"][i]], [gradients[i]], *one, [], [given["steps"][i]], lr=lr[i], beta1=betas[0],
            beta2=betas[1], weight_decay=weight_decay[i], eps=eps, amsgrad=False, maximize=False, grad_scale=scale,
            found_inf=found,
        )  # fmt: skip
        given["steps"][i] -= found
    ema_update_(given["teacher"], given["parameters"], 1.0 if found else decay)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("betas", [(0.9, 0.98), (0.3, 0.999), (0.0, 0.0)])
@pytest.mark.parametrize("decay", [0.999, 0.25])
def test_error_is_at_most_twice_that_of_torch(dtype, betas, decay, no_worse_than):
    options = {"lr": 1e-2, "weight_decay": 0.1, "betas": betas, "eps": 1e-6}
    for done, scale in ((0, 1.0), (7, 3.5)):
        given = lists(dtype=dtype, done=done)
        plain, exact = copy_of(given), copy_of(given, torch.float64)
        exact["steps"] = [tensor.clone() for tensor in given["steps"]]
        adamw_ema_(**given, decay=decay, gradient_scale=torch.tensor(scale), **options)
        torchs(plain, decay, scale=scale, **options)
        torchs(exact, decay, scale=scale, **options)
        for name in KEPT[:3] + KEPT[4:]:
            for ours, theirs, truth in zip(given[name], plain[name], exact[name], strict=True):
                no_worse_than(ours, theirs, truth)
        assert [float(x) for x in given["steps"]] == [done + 1.0] * len(SHAPES)


def test_two_hundred_steps_stay_beside_torchs():
    """Torch's own distance from float64 is the measure, over steps whose gradients depend on the parameters."""
    options = {"lr": 1e-2, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}
    runs = []
    for dtype, update in ((torch.float32, "ours"), (torch.float32, "torch"), (torch.float64, "torch")):
        given = lists([(700,)], dtype=torch.float64)
        for name in ("exp_avg", "exp_avg_sq"):
            given[name] = [torch.zeros_like(x) for x in given[name]]
        given = copy_of(given, dtype) | {"steps": [torch.zeros(())]}
        centre = torch.linspace(-1, 1, 700, dtype=dtype)
        for _ in range(200):
            given["gradients"] = [(given["parameters"][0] - centre).sin()]
            if update == "ours":
                adamw_ema_(**given, decay=0.99, **options)
            else:
                torchs(given, 0.99, **options)
        runs.append([given[name][0].double() for name in ("parameters", "teacher")])
    for ours, theirs, truth in zip(*runs, strict=True):
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max() + 1e-7
        assert (ours - truth).abs().max() < 1e-4


@pytest.mark.parametrize("shadow", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_shadows_are_the_new_values_rounded_and_change_nothing(shadow):
    given, plain = lists(), lists()
    copies = [None if i % 3 == 0 else torch.full(x.shape, 7, dtype=shadow) for i, x in enumerate(given["parameters"])]
    averages = [None if i % 2 else x for i, x in enumerate(given["teacher"])]
    of_teacher = [None if x is None else torch.full(x.shape, 7, dtype=shadow) for x in averages]
    untouched = [x.clone() for x in given["teacher"][1::2]]
    rest = {name: tensors for name, tensors in given.items() if name != "teacher"}
    adamw_ema_(**rest, **RATES, **OPTIONS, teacher=averages, decay=0.9, shadow=copies, teacher_shadow=of_teacher)
    adamw_ema_(**plain, **RATES, **OPTIONS, decay=0.9)
    for i, copy in enumerate(copies):
        assert torch.equal(given["parameters"][i], plain["parameters"][i])
        assert copy is None or torch.equal(copy, given["parameters"][i].to(shadow))
    for i in range(0, len(SHAPES), 2):
        assert torch.equal(given["teacher"][i], plain["teacher"][i])
        assert torch.equal(of_teacher[i], given["teacher"][i].to(shadow))
    assert all(torch.equal(x, y) for x, y in zip(given["teacher"][1::2], untouched, strict=True))


def test_each_parameter_has_its_own_rate_and_weight_decay():
    rates = {"lr": [1e-3 * (i + 1) for i in range(len(SHAPES))], "weight_decay": [0.3 * (i % 2) for i in range(10)]}
    given, plain = lists(done=3), lists(done=3)
    adamw_ema_(**given, **rates, **OPTIONS, decay=0.9)
    torchs(plain, 0.9, **rates, **OPTIONS)
    for name in KEPT:
        torch.testing.assert_close(given[name], plain[name], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("found", [1.0, math.inf, math.nan])
def test_a_skipped_step_changes_no_bit(found):
    given = lists(done=2)
    given["gradients"][3] = torch.full((3, 0, 2), math.nan)
    given["gradients"][4].fill_(math.inf)
    shadow = [torch.full(x.shape, 7.0) for x in given["parameters"]]
    before = copy_of(given)
    adamw_ema_(**given, **RATES, **OPTIONS, decay=0.5, found_inf=torch.tensor(found), shadow=shadow)
    assert all(torch.equal(x, y) for name in KEPT for x, y in zip(given[name], before[name], strict=True))
    assert all((x == 7).all() for x in shadow)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ends_of_the_decay_are_exact_beside_infinities(decay):
    given = lists([(600,)])
    given["parameters"][0][::5] = math.inf
    given["teacher"][0][::7] = -math.inf
    before = given["teacher"][0].clone()
    adamw_ema_(**given, **RATES, **OPTIONS, decay=decay)
    assert torch.equal(given["teacher"][0], before if decay else given["parameters"][0])


@pytest.mark.parametrize("strided", [False, True])
def test_the_reference_agrees(strided):
    given = lists()
    if strided:
        given["exp_avg"][6] = given["exp_avg"][6].t().contiguous().t()
        given["teacher"][6] = given["teacher"][6].repeat_interleave(2, 1)[:, ::2]
    shadow = [torch.zeros(x.shape, dtype=torch.bfloat16) for x in given["parameters"]]
    expected, count = copy_of(given), len(SHAPES)
    adamw_ema_(**given, **RATES, **OPTIONS, decay=0.9, shadow=shadow)
    reference.adamw_ema_(
        **expected, lr=[1e-2] * count, weight_decay=[0.1] * count, **OPTIONS, gradient_scale=torch.ones(()),
        found_inf=torch.zeros(()), decay=0.9, shadow=[None] * count, teacher_shadow=[None] * count,
    )  # fmt: skip
    for name in KEPT:
        torch.testing.assert_close(given[name], expected[name], rtol=2e-6, atol=1e-6)
    assert all(torch.equal(x, y.bfloat16()) for x, y in zip(shadow, given["parameters"], strict=True))


def test_same_bits_for_any_number_of_threads(threads):
    results = []
    for count in [1] + [2] * 10:
        with threads(count):
            given = lists([(300_001,), (7,), (65_536,), (1,), (70_000,)])
            shadow = [torch.empty_like(x, dtype=torch.bfloat16) for x in given["parameters"]]
            adamw_ema_(**given, **RATES, **OPTIONS, decay=0.99, teacher_shadow=shadow)
            results.append([x for name in KEPT for x in given[name]] + shadow)
    assert all(torch.equal(x, y) for again in results[1:] for x, y in zip(again, results[0], strict=True))


def test_same_bits_at_every_address():
    """So a run that is continued in another process, where memory lies elsewhere, has the same bits."""

    def moved(tensor, offset):
        return torch.empty(tensor.numel() + 16)[offset:][: tensor.numel()].view(tensor.shape).copy_(tensor)

    results = []
    for offset in (0, 1, 3, 8, 13):
        given = lists([(5,), (519,), (2048,)])
        given = {name: given[name] if name == "steps" else [moved(x, offset) for x in given[name]] for name in given}
        adamw_ema_(**given, **RATES, **OPTIONS, decay=0.99)
        results.append([x for name in KEPT for x in given[name]])
    assert all(torch.equal(x, y) for again in results[1:] for x, y in zip(again, results[0], strict=True))


def wrong():
    def moved(name, change):
        def apply(given):
            given[name] = change(given[name])

        return apply

    def shared(name, other):
        def apply(given):
            given[name][6] = given[other][6].view(given[name][6].shape)

        return apply

    def put(**options):
        return lambda given: given.update(options)

    return {
        "fewer": (moved("exp_avg", lambda x: x[:-1]), ValueError, "exp_avg has 9 tensors and parameters 10"),
        "shape": (
            moved("gradients", lambda x: [*x[:2], torch.zeros(8), *x[3:]]),
            ValueError,
            r"gradients\[2\] has shape \(8,\) and parameters\[2\] \(7,\)",
        ),
        "dtype": (
            moved("gradients", lambda x: [y.double() for y in x]),
            TypeError,
            r"gradients\[0\] has dtype torch.float64 and parameters\[0\] torch.float32",
        ),
        "low": (
            moved("parameters", lambda x: [y.half() for y in x]),
            TypeError,
            r"parameters\[0\] has dtype torch.float16; use float32 or float64, and a `shadow`",
        ),
        "steps": (moved("steps", lambda x: [y.double() for y in x]), TypeError, r"steps\[0\] is .*; use a 0-dim"),
        "gradient and parameter": (
            shared("gradients", "parameters"),
            ValueError,
            r"parameters\[6\] and gradients\[6\] share memory",
        ),
        "teacher": (shared("teacher", "parameters"), ValueError, r"parameters\[6\] and teacher\[6\] share memory"),
        "moments": (shared("exp_avg", "exp_avg_sq"), ValueError, r"exp_avg\[6\] and exp_avg_sq\[6\] share memory"),
        "lonely shadow": (
            put(teacher=None, teacher_shadow=[*[None] * 9, torch.zeros(2, 3, 5, 7)]),
            ValueError,
            r"teacher_shadow\[9\] has no teacher",
        ),
        "rates": (put(lr=[0.1]), ValueError, "lr has 1 numbers and parameters 10"),
        "decay": (put(decay=1.5), ValueError, r"decay is 1.5; it must be finite and in \[0, 1\]"),
        "beta": (put(betas=(0.9, 1.0)), ValueError, r"beta2 is 1.0; it must be in \[0, 1\)"),
        "scale": (put(gradient_scale=torch.ones(1)), TypeError, "gradient_scale is a 1-dim torch.float32 tensor"),
    }


@pytest.mark.parametrize("case", list(wrong()))
def test_what_cannot_be_is_refused(case):
    change, error, message = wrong()[case]
    given = lists() | RATES | OPTIONS | {"decay": 0.5}
    for again in range(2):  # lists that were checked before, too
        change(given)
        before = [x.clone() for x in given["parameters"]]
        with pytest.raises(error, match=message):
            adamw_ema_(**given)
        assert all(torch.equal(x, y) for x, y in zip(given["parameters"], before, strict=True))
        if again == 0:
            given = lists() | RATES | OPTIONS | {"decay": 0.5}
            adamw_ema_(**given)


def test_gradients_may_be_anywhere_and_tables_are_few():
    given = lists([(5,), (6,)])
    for _ in range(3):
        given["gradients"] = [x.clone() for x in given["gradients"]]
        adamw_ema_(**given, **RATES, **OPTIONS)
    assert [float(x) for x in given["steps"]] == [3.0, 3.0]
    for n in range(1, 12):
        adamw_ema_(**lists([(n,)]), **RATES, **OPTIONS)
    assert len(importlib.import_module("d2v_fast.ops.adamw_ema")._tables) <= 4
    adamw_ema_([], [], [], [], [], **RATES, **OPTIONS)


def test_autograd_knows_what_was_changed():
    parameter = torch.nn.Parameter(torch.ones(3))
    loss = (parameter * parameter).sum()
    given = lists([(3,)]) | {"parameters": [parameter]}
    adamw_ema_(**given, **RATES, **OPTIONS, decay=0.5)
    assert parameter.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
