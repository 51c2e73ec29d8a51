"""layer_targets: every pair of norms beside torch's own error, awkward channels, padding, layouts, bits, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v_fast import reference
from d2v_fast.ops import layer_targets

SINGLE = [None, "instance", "layer", "batch"]
STACKED = [("batch", "instance", "layer"), ("instance", "layer"), ("layer", "instance")]
PAIRS = (
    list(itertools.product(SINGLE, SINGLE))
    + [(norms, None) for norms in STACKED]
    + [(None, norms) for norms in STACKED]
)


def make(batch=3, frames=50, channels=70, count=3, dtype=torch.float32, seed=0):
    """Layers whose channels have means of different sizes, and half of the rows."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 1, 1, channels, generator=generator, dtype=torch.float64)
    layers = means + torch.randn(count, batch, frames, channels, generator=generator, dtype=torch.float64)
    rows = torch.randperm(batch * frames, generator=generator)[: (batch * frames + 1) // 2].sort().values
    return [layer.to(dtype) for layer in layers], rows


def exact(layers, *args, **kwargs):
    return reference.layer_targets([layer.double() for layer in layers], *args, **kwargs)


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [50, 31, 17]], ids=["full", "padded"])
@pytest.mark.parametrize(("layer_norm", "final_norm"), PAIRS, ids=str)
def test_error_is_at_most_twice_that_of_torch(dtype, layer_norm, final_norm, lengths, no_worse_than):
    layers, rows = make(dtype=dtype)
    options = {"layer_norm": layer_norm, "final_norm": final_norm}
    options["lengths"] = None if lengths is None else torch.tensor(lengths)
    whole = exact(layers, **options)
    assert whole.std() > 0.1
    for index in (rows, None):
        ours = layer_targets(layers, index, **options)
        no_worse_than(ours, reference.layer_targets(layers, index, **options), exact(layers, index, **options))
        assert not ours.requires_grad
        assert ours.is_contiguous()


def test_agrees_with_the_published_arithmetic():
    """The norms of torch.nn.functional on permuted tensors, the sum over K, then the rows."""
    layers, rows = make(frames=37, channels=24)
    by = {
        "instance": lambda x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2),
        "batch": lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2),
        "layer": lambda x: F.layer_norm(x, x.shape[-1:]),
        None: lambda x: x,
    }
    for layer_norm, final_norm in itertools.product(SINGLE, SINGLE):
        mean = by[final_norm](sum(by[layer_norm](layer) for layer in layers) / len(layers))
        ours = layer_targets(layers, rows, layer_norm=layer_norm, final_norm=final_norm)
        torch.testing.assert_close(ours, mean.flatten(0, 1)[rows], rtol=1e-5, atol=5e-6)


def test_eps_is_added_to_the_variance():
    x = torch.tensor([[[1.0], [3.0]]])
    for norm in ("instance", "batch"):
        assert layer_targets([x], layer_norm=norm, eps=3.0).flatten().tolist() == [-0.5, 0.5]
    assert layer_targets([x.view(1, 1, 2)], layer_norm="layer", eps=3.0).flatten().tolist() == [-0.5, 0.5]
    assert layer_targets([x], layer_norm="instance", eps=0.0).flatten().tolist() == [-1, 1]


@pytest.mark.parametrize("frames", [16, 17, 100, 400])
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_channels_with_a_mean_far_above_their_deviation(scale, frames, no_worse_than):
    generator = torch.Generator().manual_seed(0)
    means = scale * (1 + torch.rand(1, 1, 70, generator=generator))
    layers = [means + 0.5 * torch.randn(2, frames, 70, generator=generator) for _ in range(2)]
    for norm in ("instance", "batch"):
        ours, want = layer_targets(layers, layer_norm=norm), exact(layers, layer_norm=norm)
        no_worse_than(ours, reference.layer_targets(layers, layer_norm=norm), want)
        assert (ours - want).abs().max() < 1e-5, "torch itself loses digits here; the kernel must not"
    rows = [layer.transpose(1, 2).contiguous() for layer in layers]  # the same along the channels
    ours, want = layer_targets(rows, layer_norm="layer"), exact(rows, layer_norm="layer")
    assert (ours - want).abs().max() < 1e-5


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e4, 3e8])
def test_constant_channels_and_rows_give_zeros(constant, dtype):
    layers, _ = make(frames=39, channels=67, dtype=dtype)
    if not torch.tensor(constant, dtype=dtype).isfinite():
        pytest.skip("out of the format's range")
    for layer in layers:
        layer[..., 5] = constant
    for norm in ("instance", "batch"):
        ours = layer_targets(layers, layer_norm=norm)
        assert (ours[..., 5] == 0).all()
        assert ours[..., 6].std() > 0.3
    for layer in layers:
        layer[1, 7] = constant
    assert (layer_targets(layers, layer_norm="layer")[1, 7] == 0).all()


@pytest.mark.parametrize("first", [1, 20])
def test_outliers_at_the_start(first, no_worse_than):
    """What a shift by the first row, or by the first block, would not survive."""
    layers, _ = make(frames=400, channels=32)
    for layer in layers:
        layer[:, :first] += 1e5
    for norm in ("instance", "batch"):
        ours = layer_targets(layers, layer_norm=norm)
        no_worse_than(ours, reference.layer_targets(layers, layer_norm=norm), exact(layers, layer_norm=norm))
    wide = [layer.transpose(1, 2).contiguous() for layer in layers]
    ours = layer_targets(wide, layer_norm="layer")
    no_worse_than(ours, reference.layer_targets(wide, layer_norm="layer"), exact(wide, layer_norm="layer"))


def test_nan_stays_where_it_belongs():
    layers, _ = make(batch=2, frames=20, channels=40)
    layers[1][0, 3, 7] = math.nan
    nan = {norm: layer_targets(layers, layer_norm=norm).isnan() for norm in SINGLE}
    channel, row, sample = torch.arange(40) == 7, torch.arange(20) == 3, torch.arange(2) == 0
    where = sample[:, None, None], row[None, :, None], channel[None, None, :]
    assert torch.equal(nan[None], where[0] & where[1] & where[2])
    assert torch.equal(nan["layer"], (where[0] & where[1]).expand(2, 20, 40))
    assert torch.equal(nan["instance"], (where[0] & where[2]).expand(2, 20, 40))
    assert torch.equal(nan["batch"], where[2].expand(2, 20, 40))


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final_norm", SINGLE)
@pytest.mark.parametrize("layer_norm", SINGLE)
def test_padded_frames_are_left_out_and_zero(layer_norm, final_norm):
    layers, rows = make(batch=2, frames=30, channels=20)
    lengths = torch.tensor([30, 11])
    options = {"layer_norm": layer_norm, "final_norm": final_norm, "lengths": lengths}
    plain = layer_targets(layers, **options)
    for layer in layers:
        layer[1, 11:] = math.nan
    ours = layer_targets(layers, **options)
    assert torch.equal(ours, plain), "what stands in the padding does not matter"
    assert (ours[1, 11:] == 0).all()
    assert torch.equal(layer_targets(layers, rows, **options), ours.flatten(0, 1)[rows])
    if "batch" not in (layer_norm, final_norm):
        alone = layer_targets([layer[1:, :11] for layer in layers], layer_norm=layer_norm, final_norm=final_norm)
        torch.testing.assert_close(ours[1:, :11], alone, rtol=0, atol=1e-6)


def test_full_lengths_are_no_lengths():
    layers, rows = make()
    for layer_norm, final_norm in itertools.product(SINGLE, SINGLE):
        options = {"layer_norm": layer_norm, "final_norm": final_norm}
        lengths = torch.full((3,), 50)
        assert torch.equal(
            layer_targets(layers, rows, **options, lengths=lengths), layer_targets(layers, rows, **options)
        )


# --- shapes, layouts, bits --------------------------------------------------------------------------------------------


@given(
    batch=st.sampled_from([1, 2, 5]),
    frames=st.sampled_from([1, 2, 15, 16, 17, 31, 53]),
    channels=st.sampled_from([1, 3, 15, 16, 17, 63, 64, 65, 127, 191, 257]),
    count=st.integers(1, 12),
    layer_norm=st.sampled_from(SINGLE),
    final_norm=st.sampled_from([None, "layer", "instance"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["plain", "time first", "strided", "odd offset", "channels apart", "expanded"]),
    masked=st.sampled_from(["all", "none", "one", "some", "absent"]),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_shape_and_layout(
    batch, frames, channels, count, layer_norm, final_norm, dtype, layout, masked, padded, seed
):
    plain, some = make(batch, frames, channels, count, dtype, seed)
    everything = torch.arange(batch * frames)
    rows = {"all": everything, "none": everything[:0], "one": everything[-1:], "some": some, "absent": None}[masked]
    lengths = torch.randint(1, frames + 1, (batch,)) if padded else None
    if layout == "expanded":
        plain = [layer[:1].expand(batch, -1, -1).contiguous() for layer in plain]
    layers = {
        "plain": lambda x: x,
        "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": lambda x: F.pad(x, (3, 5, 1, 2))[:, 1 : frames + 1, 3 : channels + 3],
        "odd offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
        "channels apart": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "expanded": lambda x: x[:1].expand(batch, -1, -1),
    }[layout]
    options = {"layer_norm": layer_norm, "final_norm": final_norm, "lengths": lengths}
    before = [layer.clone() for layer in plain]
    ours = layer_targets([layers(x) for x in plain], rows, **options)
    assert torch.equal(ours, layer_targets(plain, rows, **options)), "the layout changes no bit"
    assert all(torch.equal(a, b) for a, b in zip(plain, before, strict=True)), "the layers are read only"
    want = exact(plain, rows, **options)
    assert ours.shape == want.shape
    # Each norm may enlarge the rounding of the one before by 1 / sqrt(eps).
    tolerance = 3e-5 if final_norm is None else 1e-2
    torch.testing.assert_close(ours.double(), want, rtol=0, atol=tolerance if dtype != torch.float64 else 1e-10)


@pytest.mark.parametrize("frames", [5000, 70_000])
def test_sequences_that_fill_the_cache_and_that_do_not_fit(frames, no_worse_than):
    layers, _ = make(2, frames, 33, 2)
    rows = torch.arange(0, 2 * frames, 7)
    for norm in (None, "layer"):
        ours = layer_targets(layers, rows, final_norm=norm)
        no_worse_than(
            ours, reference.layer_targets(layers, rows, final_norm=norm), exact(layers, rows, final_norm=norm)
        )


def test_empty_dimensions():
    for shape in ((0, 4, 3), (2, 0, 3), (2, 4, 0)):
        for norm in ("instance", "layer"):
            ours = layer_targets([torch.zeros(shape)] * 2, layer_norm=norm, final_norm=norm)
            assert ours.shape == shape
    none = torch.zeros(0, dtype=torch.int64)
    assert layer_targets([torch.zeros(0, 4, 3)], none).shape == (0, 3)


def test_one_frame_has_no_variance():
    layers, _ = make(frames=1)
    assert torch.equal(layer_targets(layers), torch.zeros(3, 1, 70))


@pytest.mark.parametrize("channels", [65, 768])
@pytest.mark.parametrize(
    ("layer_norm", "final_norm"), [("instance", None), ("instance", "layer"), ("layer", "layer"), ("batch", "instance")]
)
def test_same_bits_for_any_threads_and_every_run(layer_norm, final_norm, channels, dtype, threads):
    layers, rows = make(3, 40, channels, 4, dtype)
    lengths = torch.tensor([40, 23, 9])
    options = {"layer_norm": layer_norm, "final_norm": final_norm, "lengths": lengths}
    with threads(1):
        first = layer_targets(layers, rows, **options)
    for count in (2, 3, 2, 7) * 5:
        with threads(count):
            assert torch.equal(layer_targets(layers, rows, **options), first)


# --- as torch sees it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norms", [(["instance"], []), (["layer"], ["layer"]), ([], ["instance", "layer"]), (["batch"], [])]
)
def test_opcheck(norms, dtype):
    layers, rows = make(2, 6, 20, 2, dtype)
    for index, lengths in ((rows, None), (None, torch.tensor([6, 2]))):
        torch.library.opcheck(torch.ops.d2v_fast.layer_targets.default, (layers, index, lengths, *norms, 1e-5))


def test_no_gradient_flows():
    layers, rows = make()
    layers[1].requires_grad_()
    assert not layer_targets(layers, rows).requires_grad
    assert not layer_targets([layer * 2 for layer in layers], rows, layer_norm="layer").requires_grad


def test_other_devices_run_plain_torch():
    layers = [torch.zeros(2, 5, 4, device="meta", dtype=torch.bfloat16)] * 2
    rows = torch.zeros(3, dtype=torch.int64, device="meta")
    ours = layer_targets(layers, rows, layer_norm=("batch", "layer"), final_norm="instance")
    assert (ours.shape, ours.dtype, ours.device.type) == ((3, 4), torch.float32, "meta")


X = torch.zeros(2, 5, 4)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "layers is empty; give at least one", lambda: layer_targets([])),
        (ValueError, r"layers\[0\] has shape \(5, 4\); every layer must be \[B, T, C\]", lambda: layer_targets([X[0]])),
        (ValueError, r"layers\[1\] has shape \(2, 4, 4\)", lambda: layer_targets([X, X[:, :4]])),
        (TypeError, r"layers\[1\] has dtype torch.float16.*convert", lambda: layer_targets([X, X.half()])),
        (TypeError, r"layers\[0\] has dtype torch.int64; use float32", lambda: layer_targets([X.long()])),
        (ValueError, r"layers\[1\] is on meta.*move one", lambda: layer_targets([X, X.to("meta")])),
        (ValueError, 'layer_norm is .group.; use "instance"', lambda: layer_targets([X], layer_norm="group")),
        (ValueError, "final_norm is .*; use", lambda: layer_targets([X], final_norm=("layer", "rms"))),
        (TypeError, "rows has dtype torch.bool.*int64", lambda: layer_targets([X], torch.zeros(10, dtype=torch.bool))),
        (ValueError, r"rows has shape \(2, 5\)", lambda: layer_targets([X], torch.zeros(2, 5, dtype=torch.int64))),
        (ValueError, "rows is on meta", lambda: layer_targets([X], torch.zeros(1, dtype=torch.int64, device="meta"))),
        (IndexError, r"rows\[1\] is 10, outside of the 10", lambda: layer_targets([X], torch.tensor([0, 10]))),
        (IndexError, r"rows\[0\] is -1", lambda: layer_targets([X], torch.tensor([-1, 1]))),
        (IndexError, r"rows\[1\] is 3 after 3.*unique", lambda: layer_targets([X], torch.tensor([3, 3]))),
        (IndexError, r"rows\[2\] is 1 after 4.*ascending", lambda: layer_targets([X], torch.tensor([3, 4, 1]))),
        (TypeError, "lengths has dtype torch.int32", lambda: layer_targets([X], lengths=torch.tensor([5, 5]).int())),
        (ValueError, r"lengths has shape \(3,\).*B = 2", lambda: layer_targets([X], lengths=torch.tensor([5, 5, 5]))),
        (ValueError, r"lengths\[1\] is 0; .*leave out", lambda: layer_targets([X], lengths=torch.tensor([5, 0]))),
        (ValueError, r"lengths\[0\] is 6; .*T = 5", lambda: layer_targets([X], lengths=torch.tensor([6, 5]))),
        (ValueError, r"lengths\[0\] is -1", lambda: layer_targets([X], lengths=torch.tensor([-1, 5]))),
        (ValueError, "eps is -1", lambda: layer_targets([X], eps=-1.0)),
        (ValueError, "eps is nan", lambda: layer_targets([X], eps=math.nan)),
    ],
)
def test_refusals_name_the_argument_and_the_remedy(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "norms", [("instance", None), ("layer", None), (None, "layer"), ("batch", "instance")], ids=str
)
def test_rows_of_several_views_have_the_targets_of_their_sample(norms):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(3, 9, 20, generator=generator) for _ in range(3)]
    options = dict(zip(("layer_norm", "final_norm"), norms, strict=True))
    whole = layer_targets(layers, **options)
    for views in (1, 2, 5):
        rows = (torch.rand(3 * views * 9, generator=generator) < 0.6).nonzero().flatten()
        ours = layer_targets(layers, rows, views=views, **options)
        expected = whole.repeat_interleave(views, 0).flatten(0, 1)[rows]
        assert torch.equal(ours, expected)
    with pytest.raises(ValueError, match="views is 0"):
        layer_targets(layers, rows, views=0)
