"""ema_update_: exact ends, error beside torch's own, refusals, and that no bit depends on threads or layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v_fast import reference
from d2v_fast.ops import ema_update_

SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (31, 17), (1024,), (1025,), (65_600,), (65_601,), (2, 3, 5, 7)]


def lists(shapes=SHAPES, teacher=torch.float32, student=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
        for dtype in (teacher, student)
    )


@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.9999, 0.999, 0.6, 0.5, 0.3, 1e-4])
def test_error_is_at_most_twice_that_of_torch(dtype, teacher_dtype, decay, no_worse_than):
    teacher, student = lists(teacher=teacher_dtype, student=dtype)
    before = [tensor.clone() for tensor in teacher]
    ema_update_(teacher, student, decay)
    for ours, mean, sample in zip(teacher, before, student, strict=True):
        torchs = torch.lerp(mean, sample.to(teacher_dtype), 1 - decay)
        exact = mean.double() + (1 - decay) * (sample.double() - mean.double())
        no_worse_than(ours, torchs, exact)


def test_weight_is_taken_in_float64():
    # From 0 towards 1 the teacher becomes the weight itself; 1 - float32(0.9999) is off by 1.7e-4 of it.
    for decay in (0.9999, torch.tensor(0.9999, dtype=torch.float64)):
        teacher, student = [torch.zeros(100)], [torch.ones(100)]
        ema_update_(teacher, student, decay)
        assert torch.equal(teacher[0], torch.full((100,), 1 - 0.9999))


def awkward(dtype):
    """Values that arithmetic would not bring through: infinities, NaN, signed zeros, extremes."""
    info = torch.finfo(dtype)
    return torch.tensor(
        [math.inf, -math.inf, math.nan, 0.0, -0.0, info.max, -info.max, info.tiny, info.tiny / 4, 1e-3], dtype=dtype
    )


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float64])
def test_decay_zero_copies_bit_for_bit(teacher_dtype):
    student = awkward(teacher_dtype).repeat(11)
    teacher = student.roll(3).clone()
    ema_update_([teacher], [student], 0.0)
    assert torch.equal(bits(teacher), bits(student))


@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float64])
def test_decay_one_changes_nothing(dtype, teacher_dtype):
    teacher = awkward(teacher_dtype).repeat(11)
    before, student = teacher.clone(), awkward(dtype).repeat(11).roll(3)
    shadow = torch.zeros_like(teacher)
    ema_update_([teacher], [student], 1.0, [shadow])
    assert torch.equal(bits(teacher), bits(before))
    assert torch.equal(bits(shadow), bits(before)), "the shadow follows the teacher at decay 1 too"


def test_decay_zero_copies_low_precision_exactly(dtype):
    teacher, student = lists(student=dtype)
    ema_update_(teacher, student, 0.0)
    for mean, sample in zip(teacher, student, strict=True):
        assert torch.equal(mean, sample.float())


@pytest.mark.parametrize("decay", [0.9, 0.2])
def test_nan_and_infinity_propagate(decay):
    teacher = torch.tensor([math.nan, 1.0, math.inf, 1.0, 2.0])
    student = torch.tensor([1.0, math.nan, 1.0, -math.inf, 3.0])
    ema_update_([teacher], [student], decay)
    assert teacher[:2].isnan().all()
    assert not teacher[2:4].isfinite().any()
    assert teacher[4].item() == pytest.approx(2 + (1 - decay))


@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.99, 1.0])
def test_shadow_is_the_new_teacher_rounded(dtype, teacher_dtype, decay):
    teacher, student = lists(teacher=teacher_dtype, student=torch.bfloat16)
    shadow = [torch.full_like(tensor, 7, dtype=dtype) for tensor in teacher]
    without = [tensor.clone() for tensor in teacher]
    ema_update_(teacher, student, decay, shadow)
    ema_update_(without, student, decay)
    for mean, copy, alone in zip(teacher, shadow, without, strict=True):
        assert torch.equal(mean, alone), "the shadow must not change the teacher"
        assert torch.equal(copy, mean.to(dtype))


def test_ten_thousand_steps_do_not_drift():
    generator = torch.Generator().manual_seed(0)
    teacher, exact = torch.zeros(64), torch.zeros(64, dtype=torch.float64)
    plain = teacher.clone()
    decay = torch.tensor(0.999, dtype=torch.float64)
    for _ in range(10_000):
        student = torch.randn(64, generator=generator)
        ema_update_([teacher], [student], decay)
        plain.lerp_(student, 1 - 0.999)
        exact += (1 - 0.999) * (student.double() - exact)
    assert exact.abs().max() > 0.01
    drift = (teacher.double() - exact).abs().max()
    assert drift <= 2 * (plain.double() - exact).abs().max() + 1e-9
    assert drift < 1e-6


def test_a_constant_student_is_reached():
    teacher = torch.zeros(5)
    student = torch.tensor([1.0, -3.0, 1e-3, 1e4, 0.1])
    for _ in range(2000):
        ema_update_([teacher], [student], 0.97)
    torch.testing.assert_close(teacher, student, rtol=3e-6, atol=0)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 13), max_size=3).map(tuple), max_size=6),
    decay=st.floats(0, 1),
    offset=st.integers(0, 3),
    student=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    with_shadow=st.booleans(),
)
def test_any_list_of_shapes_agrees_with_the_reference(shapes, decay, offset, student, with_shadow):
    def odd(tensor):  # the same tensor at an odd address
        buffer = torch.zeros(tensor.numel() + offset, dtype=tensor.dtype)
        view = buffer[offset:].view(tensor.shape)
        view.copy_(tensor)
        return view

    teacher, samples = ([odd(tensor) for tensor in tensors] for tensors in lists(shapes, student=student))
    expected = [tensor.clone() for tensor in teacher]
    shadow = [odd(torch.zeros(shape, dtype=torch.bfloat16)) for shape in shapes] if with_shadow else None
    ema_update_(teacher, samples, decay, shadow)
    reference.ema_update_(expected, samples, decay)
    for index, (ours, theirs) in enumerate(zip(teacher, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        if shadow is not None:
            assert torch.equal(shadow[index], ours.bfloat16())


def test_non_contiguous_tensors(dtype):
    (teacher,), (student,) = lists([(17, 33)], student=dtype)
    shadow = torch.zeros(17, 33, dtype=torch.bfloat16)
    plain, plain_shadow = teacher.clone(), shadow.clone()
    ema_update_([plain], [student], 0.9, [plain_shadow])
    columns = torch.zeros(33, 17).t().copy_(teacher)  # transposed
    strided = torch.zeros(17, 66, dtype=torch.bfloat16)[:, ::2]
    ema_update_([columns], [student.t().contiguous().t()], 0.9, [strided])
    assert torch.equal(columns, plain)
    assert torch.equal(strided, plain_shadow)


def test_same_bits_for_any_number_of_threads_and_every_run(threads):
    shapes = [(300_001,), (7,), (65_600,), (1,), (70_000,)]
    results = []
    for count in [1] + [2] * 20:
        with threads(count):
            teacher, student = lists(shapes, student=torch.bfloat16)
            shadow = [torch.empty_like(tensor, dtype=torch.float16) for tensor in teacher]
            ema_update_(teacher, student, 0.99, shadow)
            results.append(torch.cat([*teacher, *shadow]))
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_views_of_one_buffer_and_interleaved_views_are_fine():
    buffer = torch.zeros(10)
    ema_update_([buffer[:4], buffer[4:]], [torch.ones(4), torch.ones(6)], 0.5)
    assert torch.equal(buffer, torch.full((10,), 0.5))
    grid = torch.zeros(4, 6)
    ema_update_([grid[:, ::2], grid[:, 1::2]], [torch.ones(4, 3), torch.full((4, 3), 2.0)], 0.5)
    assert torch.equal(grid, torch.tensor([0.5, 1.0]).repeat(4, 3))


def test_a_student_may_stand_twice():
    student = torch.ones(3)
    teacher = [torch.zeros(3), torch.zeros(3)]
    ema_update_(teacher, [student, student], 0.0)
    assert torch.equal(teacher[0], teacher[1])


def overlapping():
    a, b, flat = torch.zeros(4), torch.zeros(4), torch.zeros(9)
    grid = torch.zeros(4, 6)
    return {
        "tied": ([a, torch.zeros(1), a], [b, torch.zeros(1), torch.zeros(4)], None, r"teacher\[0\] and teacher\[2\]"),
        "student": ([a, b], [torch.zeros(4), a], None, r"teacher\[0\] and student\[1\]"),
        "one byte": ([flat[:5], flat[4:8]], [torch.zeros(5), torch.zeros(4)], None, r"teacher\[0\] and teacher\[1\]"),
        "shadow": ([flat[:4]], [torch.zeros(4)], [flat[3:7]], r"teacher\[0\] and shadow\[0\]"),
        "shadow and student": ([a], [flat[:4]], [flat[2:6]], r"shadow\[0\] and student\[0\]"),
        "other dtype": (
            [a],
            [torch.zeros(4, dtype=torch.bfloat16)],
            [a.view(torch.bfloat16)[4:]],
            r"teacher\[0\] and shadow\[0\]",
        ),
        "interleaved": ([grid[:, ::2]], [grid[:, :3]], None, r"teacher\[0\] and student\[0\]"),
        "expanded": ([torch.zeros(1).expand(4)], [b], None, r"elements of teacher\[0\]"),
    }


@pytest.mark.parametrize("case", list(overlapping()))
def test_overlapping_bytes_are_refused(case):
    teacher, student, shadow, names = overlapping()[case]
    with pytest.raises(ValueError, match=names + " share memory"):
        ema_update_(teacher, student, 0.5, shadow)
    assert not any(tensor.any() for tensor in teacher), "nothing was written"


@pytest.mark.parametrize("decay", [-1e-9, 1 + 1e-9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_decay_out_of_range_is_refused(decay, as_tensor):
    with pytest.raises(ValueError, match=r"decay is .*\[0, 1\]"):
        ema_update_([torch.zeros(2)], [torch.ones(2)], torch.tensor(decay, dtype=torch.float64) if as_tensor else decay)


def test_decay_tensor_must_be_a_float64_scalar():
    for decay in (torch.tensor(0.9), torch.tensor([0.9], dtype=torch.float64)):
        with pytest.raises(TypeError, match="0-dim float64"):
            ema_update_([torch.zeros(2)], [torch.ones(2)], decay)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_low_precision_teacher_is_refused(low):
    with pytest.raises(TypeError, match=r"teacher\[1\] has dtype .*shadow"):
        ema_update_([torch.zeros(2), torch.zeros(2, dtype=low)], [torch.ones(2)] * 2, 0.5)


def test_lengths_shapes_and_dtypes_that_differ_are_refused():
    two = [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(ValueError, match="student has 1 tensors and teacher 2"):
        ema_update_(two, [torch.ones(2)], 0.5)
    with pytest.raises(ValueError, match="shadow has 0 tensors and teacher 2"):
        ema_update_(two, [torch.ones(2), torch.ones(3)], 0.5, [])
    with pytest.raises(ValueError, match=r"student\[1\] has shape \(1, 3\) and teacher\[1\] \(3,\)"):
        ema_update_(two, [torch.ones(2), torch.ones(1, 3)], 0.5)
    with pytest.raises(TypeError, match=r"student\[0\] has dtype torch.int64"):
        ema_update_(two, [torch.ones(2, dtype=torch.int64), torch.ones(3)], 0.5)


def test_the_same_tensors_with_another_shape_or_format_are_looked_at_again():
    """What is kept from call to call depends on all that the kernel and the checks look at."""
    teacher, student = torch.zeros(6), torch.arange(6.0)
    lists = [teacher], [student]
    ema_update_(*lists, 0.0)
    assert torch.equal(teacher, student)
    teacher.resize_(4)
    with pytest.raises(ValueError, match=r"student\[0\] has shape \(6,\) and teacher\[0\] \(4,\)"):
        ema_update_(*lists, 0.0)
    student.resize_(4)
    teacher.resize_(6)[4:] = -1
    teacher.resize_(4)
    student += 1
    ema_update_(*lists, 0.0)
    assert teacher.resize_(6).tolist() == [1, 2, 3, 4, -1, -1]

    square, sample = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ema_update_([square], [sample], 0.0)
    square.t_()  # the same memory, now in the other order
    ema_update_([square], [sample], 0.0)
    assert torch.equal(square, sample)
    bits = torch.ones(4)
    with pytest.raises(ValueError, match="share memory"):
        ema_update_([square], [square], 0.0)
    ema_update_([bits], [torch.zeros(4)], 0.0)
    with pytest.raises(TypeError, match="0-dim float64"):
        ema_update_([bits], [torch.zeros(4)], torch.tensor(0.0))


def test_kept_tables_are_few():
    from d2v_fast.ops import ema

    for n in range(1, 30):
        ema_update_([torch.zeros(n)], [torch.ones(n)], 0.5)
    assert len(ema._tables) <= 8


def test_empty_lists():
    ema_update_([], [], 0.5)
    ema_update_([], [], 0.5, [])


def test_parameters_and_autograd():
    """Parameters are updated without a graph, and what autograd saved of the teacher is known to be stale."""
    teacher, student = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(3))
    loss = (teacher * teacher).sum()
    ema_update_([teacher], [student], 0.5)
    assert torch.equal(teacher.detach(), torch.full((3,), 0.5))
    assert teacher.grad_fn is None
    assert student.grad is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
