"""The CUDA kernels on the CPU against d2v_fast.reference, on torch tensors through their C interface."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from cuda_cpu_build import ROOT

from d2v_fast import reference

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
LOW = [torch.float32, torch.bfloat16, torch.float16]
H100, SMALL = 227 << 10, 6 << 10  # bytes of shared memory; in the small one no more than some dozen frames fit


class Targets(ctypes.Structure):
    """struct LayerTargets of csrc/cpu/kernels.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("layers", "strides", "rows", "lengths", "out")],
        *[(name, ctypes.c_int64) for name in ("layer_count", "batch", "frames", "channels", "count")],
        *[(name, ctypes.c_int64) for name in ("dtype", "layer_norm", "final_norm", "views")],
        ("eps", ctypes.c_double),
    ]


@pytest.fixture(scope="module")
def library(builder):
    if why := builder.missing("library"):
        pytest.skip(why)
    sources = [ROOT / "csrc/cuda/ema.cu", ROOT / "csrc/cuda/layer_targets.cu", Path(__file__).with_name("library.cpp")]
    library = ctypes.CDLL(str(builder.build("library", sources)))
    library.ema.restype = library.layer_targets.restype = ctypes.c_char_p
    return library


@pytest.fixture
def ema(library):
    """ema(teacher, student, decay, shadow): in place."""

    def run(teacher, student, decay, shadow=None):
        table = torch.zeros(len(teacher), 7, dtype=torch.int64)
        for row, tensors in zip(
            table, zip(teacher, student, shadow or [None] * len(teacher), strict=True), strict=True
        ):
            row[3] = tensors[0].numel()
            for column, tensor in enumerate(tensors):
                if tensor is not None:
                    row[column], row[4 + column] = tensor.data_ptr(), CODES[tensor.dtype]
        error = library.ema(
            ctypes.c_void_p(table.data_ptr()), ctypes.c_int64(len(teacher)), ctypes.byref(ctypes.c_double(decay))
        )
        assert error is None

    return run


@pytest.fixture
def targets(library):
    """targets(layers, rows, lengths, shared=bytes): the result, or raises RuntimeError."""

    def run(layers, rows=None, lengths=None, *, shared=H100, layer_norm=1, final_norm=0, dtype=None):
        library.choose(ctypes.c_uint64(len(layers)), shared)
        batch, frames, channels = layers[0].shape
        count = batch * frames if rows is None else len(rows)
        out = torch.full((count, channels), torch.nan)
        pointers = torch.tensor([layer.data_ptr() for layer in layers])
        strides = torch.tensor([layer.stride()[:2] for layer in layers])
        given = Targets(
            pointers.data_ptr(),
            strides.data_ptr(),
            None if rows is None else rows.data_ptr(),
            None if lengths is None else lengths.data_ptr(),
            out.data_ptr(),
            *(len(layers), batch, frames, channels, count),
            *(CODES[dtype or layers[0].dtype], layer_norm, final_norm, 1),
            1e-5,
        )
        error = library.layer_targets(ctypes.byref(given))
        if error is not None:
            raise RuntimeError(error.decode())
        return out if rows is not None else out.view(batch, frames, channels)

    return run


def test_conversions_of_the_simulator(library):
    generator = torch.Generator().manual_seed(1)
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    both = torch.cat([halves.view(torch.bfloat16).float(), halves.view(torch.float16).float()])
    near = [both.nextafter(torch.tensor(torch.inf)), both.nextafter(torch.tensor(-torch.inf))]
    between = (both.sort().values[:-1].double() + both.sort().values[1:].double()).div(2).float()
    anything = torch.randint(-(2**31), 2**31 - 1, (1 << 18,), generator=generator).to(torch.int32).view(torch.float32)
    x = torch.cat([both, *near, between, anything])
    bits = [torch.empty(len(x), dtype=torch.int16) for _ in range(2)]
    back = [torch.empty(len(x)) for _ in range(2)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*bits, *back)]
    library.convert(ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(len(x)), *pointers)
    for dtype, ours, again in zip((torch.bfloat16, torch.float16), bits, back, strict=True):
        expected = x.to(dtype)
        number = ~expected.isnan()
        assert torch.equal(ours[number], expected.view(torch.int16)[number])
        assert ours.view(dtype)[~number].isnan().all()
        assert torch.equal(again[number], expected.float()[number])
        assert again[~number].isnan().all()


@pytest.mark.parametrize("student_dtype", CODES, ids=str)
@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float64], ids=str)
def test_ema(teacher_dtype, student_dtype, ema, no_worse_than):
    torch.manual_seed(1)
    shapes = [(3, 5), (), (0,), (40, 26), (1027,)]
    for decay in (0.999, 0.9999, 0.25):
        student = [torch.randn(shape).to(student_dtype) for shape in shapes]
        teacher = [torch.randn(shape, dtype=torch.float64).to(teacher_dtype) for shape in shapes]
        shadow = [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, [*LOW, *LOW], strict=False)]
        torchs, exact = [t.clone() for t in teacher], [t.double() for t in teacher]
        reference.ema_update_(torchs, student, decay)
        reference.ema_update_(exact, [s.double() for s in student], decay)
        ema(teacher, student, decay, shadow)
        for ours, theirs, right, copy in zip(teacher, torchs, exact, shadow, strict=True):
            no_worse_than(ours, theirs, right)
            assert torch.equal(copy, ours.to(copy.dtype))


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ema_ends_are_exact(decay, ema):
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-45, 3e38, 0.1, 0.2])
    teacher, student = special.clone(), special.flip(0).clone()
    expected = (teacher if decay else student).clone()
    ema([teacher], [student], decay)
    assert torch.equal(teacher.view(torch.int32), expected.view(torch.int32))


def test_ema_over_many_steps_loses_nothing(ema):
    teacher, exact, student = torch.zeros(37), torch.zeros(37, dtype=torch.float64), torch.ones(37)
    for _ in range(200):
        ema([teacher], [student], 0.9999)
        exact += (1 - 0.9999) * (1 - exact)
    assert (teacher / exact - 1).abs().max() < 2e-6  # 1 - 0.9999 taken in float32 is off by 1.7e-4


def test_ema_table_of_a_tensor_beyond_31_bits(library):
    size, chunk = 3 * 2**31 + 5, 16384
    tensor = torch.tensor([1 << 40, 1 << 41, 1 << 42, size, *(CODES[d] for d in (torch.float32, *LOW[1:]))])
    library.chunk_count.restype = ctypes.c_int64
    given = ctypes.c_void_p(tensor.data_ptr()), ctypes.c_int64(1)
    count = library.chunk_count(*given)
    table = torch.zeros(count, 4, dtype=torch.int64)
    library.fill_chunks(*given, ctypes.c_void_p(table.data_ptr()))
    starts = torch.arange(0, size, chunk)
    for column, (start, width) in enumerate(((1 << 40, 4), (1 << 41, 2), (1 << 42, 2))):
        assert torch.equal(table[:, column], start + width * starts)
    sizes = table[:, 3] & 0xFFFFFFFF
    assert torch.equal(sizes, (size - starts).clamp(max=chunk))


@pytest.mark.parametrize("shared", [H100, SMALL])
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_targets(dtype, shared, targets, no_worse_than):
    torch.manual_seed(1)
    for mean in (0.0, 30.0):
        layers = [(torch.randn(3, 130, 21) * (k + 0.5) + mean * torch.randn(21)).to(dtype) for k in range(3)]
        rows = torch.rand(3 * 130).lt(0.5).nonzero().flatten()
        for given, lengths in ((rows, None), (None, torch.tensor([130, 1, 77])), (rows, torch.tensor([5, 130, 64]))):
            exact = reference.layer_targets([layer.double() for layer in layers], given, lengths=lengths)
            theirs = reference.layer_targets(layers, given, lengths=lengths)
            no_worse_than(targets(layers, given, lengths, shared=shared), theirs, exact)


def test_targets_of_transposed_layers(targets):
    torch.manual_seed(2)
    layers = [torch.randn(50, 2, 16).transpose(0, 1) for _ in range(2)]
    expected = reference.layer_targets(layers)
    torch.testing.assert_close(targets(layers), expected, rtol=1e-6, atol=1e-6)


def test_an_outlier_as_the_first_frame_costs_no_digits(targets, no_worse_than):
    torch.manual_seed(3)
    layer = torch.randn(1, 300, 8)
    layer[:, 0] = 1e4
    exact = reference.layer_targets([layer.double()])
    no_worse_than(targets([layer]), reference.layer_targets([layer]), exact)


def test_constant_channels_give_zeros(targets):
    assert torch.equal(targets([torch.full((2, 20, 8), 7.0)]), torch.zeros(2, 20, 8))


def test_a_nan_stays_in_its_sample_and_channel(targets):
    torch.manual_seed(4)
    layers = [torch.randn(2, 40, 16) for _ in range(2)]
    layers[0][1, 39, 5] = torch.nan
    bad = torch.zeros(2, 40, 16, dtype=torch.bool)
    bad[1, :, 5] = True
    assert torch.equal(targets(layers).isnan(), bad)


def test_no_rows(targets):
    assert targets([torch.randn(2, 9, 8)], torch.zeros(0, dtype=torch.int64)).shape == (0, 8)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (65, {}, "1 to 64 layers"),
        (1, {"layer_norm": 2}, "instance norm of the layers, without a final norm"),
        (1, {"final_norm": 2}, "instance norm of the layers, without a final norm"),
        (1, {"dtype": torch.float64}, "float32, bfloat16 and float16"),
    ],
)
def test_what_is_refused(count, options, message, targets):
    with pytest.raises(RuntimeError, match=message):
        targets([torch.zeros(1, 2, 8)] * count, **options)


def test_shared_memory_is_allowed_once_for_each_device(targets, library):
    # Set for each launch, a smaller size of another thread could come between the setting and a launch.
    def launch(frames, shared):
        targets([torch.randn(1, frames, 8)], shared=shared)

    launch(5, H100)
    before = library.raised()
    for frames in (400, 20, 3000):  # the last one takes more than a kernel may without asking
        launch(frames, H100)
    assert library.raised() == before
    for frames in (5, 400):
        launch(frames, 100 << 10)  # another device
    assert library.raised() == before + 1
    launch(3000, H100)
    assert library.raised() == before + 1
