"""Attention: whole, with a bias, packed; and the choice of a kernel with faked availability."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import pytest
import torch
from torch._subclasses import FakeTensorMode

from d2v_fast import ops, reference
from d2v_fast.modules.attention import Attention
from d2v_fast.ops.attention import KERNELS, block_diagonal_mask, blocks, choose
from d2v_fast.ops.fused_attention import earlier_attention
from d2v_fast.ops.packing import Packing, plan_kept, plan_packing

CPU = torch.device("cpu")
LENGTHS = ([7, 3, 5], [1, 7, 7], [7], [2, 0, 6, 1], [7, 7])
module = importlib.import_module("d2v_fast.ops.attention")


@pytest.fixture(autouse=True)
def forget_choices():
    module._fault.cache_clear()
    yield
    module._fault.cache_clear()


def pack(lengths, width=7):
    return plan_packing(torch.tensor(lengths), width, CPU, blocks)


@pytest.mark.parametrize("kind", ["none", "padding", "positions", "positions of each"])
def test_is_the_softmax_of_the_products(kind):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 7, 3, 4, generator=generator, dtype=torch.float64)
    bias = None
    if kind == "padding":
        bias = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None, :]
    elif kind != "none":
        bias = torch.randn(2 if "each" in kind else 1, 3, 7, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        ops.attention(query, key, value, bias), reference.attention(query, key, value, bias), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ["blocks", "sdpa"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize(
    "kept", [[1, 3, 4, 8, 9, 11], [0, 2, 5, 6, 8, 9], [0, 1, 2, 3, 8]], ids=["some", "equal", "none"]
)
def test_kernels_are_attention_with_a_block_diagonal_bias(name, extra, samples, kept):
    """Values and gradients, of the bias too; three sequences of width 4."""
    packing = plan_kept(torch.tensor(kept), 3, 4, CPU, KERNELS[name], extra)
    size = sum(packing.lengths)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, size, 3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(max(samples, 1), 2, extra + 4, extra + 4, generator=generator, dtype=torch.float64)
    bias.requires_grad_()
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(packing.lengths))
    places = [[*range(extra), *(extra + k % 4 for k in kept if k // 4 == n)] for n in range(3)]
    flat = torch.tensor([place for own in places for place in own])
    scores = (bias.expand(3, -1, -1, -1) if samples else bias.expand(3, -1, -1, -1) * 0)[
        owner[:, None], :, flat[:, None], flat
    ]
    whole = scores.permute(2, 0, 1).masked_fill(owner[:, None] != owner, -torch.inf).unsqueeze(0)
    packed = ops.attention(*tokens.unbind(2), packing.with_bias(bias) if samples else packing)
    expected = reference.attention(*tokens.unbind(2), whole)
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-12)
    weight = torch.randn(packed.shape, generator=generator, dtype=torch.float64)
    leaves = [tokens, bias] if samples else [tokens]
    for one, other in zip(
        torch.autograd.grad((packed * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["blocks", "sdpa"])
def test_kernels_drop_weights_together_with_a_bias(name):
    """Every value is 1, so an output is the share of its attention that was kept, times 1 / (1 - p)."""
    torch.manual_seed(0)
    packing = plan_packing(torch.tensor([300, 200]), 300, CPU, KERNELS[name]).with_bias(torch.zeros(1, 2, 300, 300))
    query = torch.zeros(500, 2, 4)
    mixed = packing.kernel(query, query, torch.ones_like(query), packing, 0.25)
    assert mixed.mean().item() == pytest.approx(1, abs=0.02)
    assert mixed.std() > 0.02


@pytest.mark.parametrize("name", ["varlen", "xformers"])
def test_kernels_that_take_no_bias_say_so(name):
    packing = replace(pack([7, 3, 5]), bias=torch.zeros(3, 2, 7, 7))
    x = torch.randn(15, 2, 4)
    if name == "varlen":
        pytest.importorskip("torch.nn.attention.varlen")
    with pytest.raises(ValueError, match="takes no bias"):
        KERNELS[name](x, x, x, packing, 0.0)
    with pytest.raises(ValueError, match=f"'{name}', which does not work here: it takes no bias on the scores"):
        choice(name, bias=True)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_blocks_are_attention_with_a_block_diagonal_mask(lengths):
    packing = pack(lengths)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), 2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("qhd,khd->hqk", q, k) / 2
    weights = scores.masked_fill(owner[:, None] != owner, -torch.inf).softmax(-1)
    torch.testing.assert_close(blocks(q, k, v, packing, 0.0), torch.einsum("hqk,khd->qhd", weights, v))


@pytest.mark.parametrize("lengths", LENGTHS[:3], ids=str)
def test_packed_attention_and_its_gradients_are_those_of_padded_rows(lengths):
    torch.manual_seed(0)
    module = Attention(8, 2).double()
    x = torch.randn(len(lengths), 7, 8, dtype=torch.float64, requires_grad=True)
    packing = pack(lengths)
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    weight = torch.randn(int(valid.sum()), 8, dtype=torch.float64)
    padded = module(x, valid[:, None, None, :])[valid]
    packed = module(packing.pack(x), packing)[0]
    torch.testing.assert_close(packed, padded)
    wanted = torch.autograd.grad((padded * weight).sum(), [x, *module.parameters()])
    ours = torch.autograd.grad((packed * weight).sum(), [x, *module.parameters()])
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# --- the choice -------------------------------------------------------------------------------------------------------


def choice(wanted="auto", device="cuda", dtype=torch.bfloat16, dropout=False, bias=False):
    return choose(wanted, torch.device(device), dtype, 64, dropout=dropout, bias=bias)


@pytest.fixture
def gpu(monkeypatch):
    """gpu(varlen=..., xformers=...): what a machine with a GPU says when the kernels are tried; "" means they work."""

    def make(**faults):
        def fault(name, device, dtype, head_dim, dropout, bias):
            if device.type == "cuda":
                if bias:
                    return "it takes no bias on the scores"
                return "it has no dropout" if name == "varlen" and dropout else faults[name]
            return original(name, device, dtype, head_dim, dropout, bias)

        original = module._fault
        monkeypatch.setattr(module, "_fault", fault)

    original_clear = module._fault.cache_clear
    yield make
    monkeypatch.undo()
    original_clear()


def test_on_a_gpu_the_first_kernel_that_works(gpu):
    gpu(varlen="", xformers="")
    assert choice() == ("varlen", "no work is done on padding")
    assert choice(dropout=True) == ("xformers", "varlen: it has no dropout; no work is done on padding")


def test_on_a_gpu_a_bias_leaves_padded_rows(gpu):
    gpu(varlen="", xformers="")
    name, reason = choice(bias=True)
    assert (name, reason) == (
        "sdpa",
        "varlen: it takes no bias on the scores; xformers: it takes no bias on the scores",
    )


def test_on_a_gpu_without_any(gpu):
    gpu(varlen="only supports Ampere GPUs or newer", xformers="not installed (xformers)")
    name, reason = choice()
    assert name == "sdpa"
    assert reason == "varlen: only supports Ampere GPUs or newer; xformers: not installed (xformers)"
    assert choice("sdpa") == ("sdpa", "it was asked for")
    with pytest.raises(ValueError, match=r"precision.attention is 'xformers', which does not work here: not installed"):
        choice("xformers")


def test_on_a_cpu_our_own_serves():
    for dropout in (False, True):
        for bias in (False, True):
            assert choice(device="cpu", dtype=torch.float32, dropout=dropout, bias=bias).name == "fused"
            assert choice(device="cpu", dtype=torch.float64, dropout=dropout, bias=bias).name == "blocks"


def test_a_run_that_began_without_it_keeps_torchs():
    with earlier_attention():
        assert choice(device="cpu", dtype=torch.float32).name == "blocks"
        assert choice(device="cpu", dtype=torch.float32, dropout=True).name == "blocks"
    assert choice(device="cpu", dtype=torch.float32).name == "fused"


def test_on_a_cpu_those_for_a_gpu_are_refused():
    for name in ("varlen", "xformers"):
        with pytest.raises(
            ValueError, match=f"'{name}', which does not work here: it needs a GPU, not cpu. Use 'auto'"
        ):
            choice(name, device="cpu")


def test_other_devices_compute_the_padding():
    assert choice(device="meta") == ("sdpa", "no kernel for packed sequences on meta")


def test_a_kernel_is_tried_once_and_moves_no_noise(monkeypatch):
    calls = []

    def broken(query, key, value, packing, dropout):
        calls.append((query.shape, query.dtype, packing.lengths, dropout))
        torch.rand(3)
        raise RuntimeError("no kernel for this head\nand much more")

    monkeypatch.setitem(KERNELS, "blocks", broken)
    torch.manual_seed(3)
    with torch.inference_mode():
        for _ in range(2):
            with earlier_attention():
                chosen = choice(device="cpu", dtype=torch.bfloat16, dropout=True)
    assert chosen == ("sdpa", "blocks: no kernel for this head")
    assert calls == [((8, 2, 64), torch.bfloat16, [3, 5], 0.1)]
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)


def test_varlen_refuses_dropout_and_gets_the_sums_of_the_lengths(monkeypatch):
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    seen = []
    monkeypatch.setattr(varlen, "varlen_attn", lambda *arguments: seen.append(arguments[3:]) or arguments[0])
    x, packing = torch.randn(15, 2, 4), pack([7, 3, 5])
    assert KERNELS["varlen"](x, x, x, packing, 0.0) is x
    assert seen == [(packing.starts, packing.starts, 7, 7)]
    with pytest.raises(ValueError, match=r"no dropout, got 0\.1"):
        KERNELS["varlen"](x, x, x, packing, 0.1)


def test_varlen_takes_the_arguments_that_it_gets():
    """The operator itself, on fake tensors of a GPU, which have shapes and no numbers."""
    pytest.importorskip("torch.nn.attention.varlen")
    with FakeTensorMode():
        tokens = torch.empty(15, 3, 2, 64, device="cuda", dtype=torch.bfloat16)
        starts = torch.empty(4, device="cuda", dtype=torch.int32)
        packing = Packing([7, 3, 5], 7, torch.empty(15, device="cuda", dtype=torch.int64), starts, KERNELS["varlen"])
        mixed = packing.kernel(*tokens.unbind(1), packing, 0.0)
    assert (list(mixed.shape), mixed.dtype, mixed.device.type) == ([15, 2, 64], torch.bfloat16, "cuda")


@dataclass
class _Sequences:
    seqstart: torch.Tensor
    seqstart_py: list[int]


@dataclass
class _Mask:
    """What BlockDiagonalMask of xformers has."""

    q_seqinfo: _Sequences
    k_seqinfo: _Sequences

    @classmethod
    def from_seqlens(cls, lengths, *, device):
        assert device == CPU, "made on a GPU it would be copied there, and the host would wait"
        sums = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        return cls(*(_Sequences(torch.tensor(sums, dtype=torch.int32), sums) for _ in range(2)))


def test_xformers_gets_a_block_diagonal_mask(monkeypatch):
    modules = {name: ModuleType(name) for name in ("xformers", "xformers.ops", "xformers.ops.fmha",
                                                   "xformers.ops.fmha.attn_bias")}  # fmt: skip
    seen = {}

    def attention(query, key, value, attn_bias, p):
        seen.update(shape=query.shape, bias=attn_bias, p=p)
        return value

    modules["xformers.ops"].memory_efficient_attention = attention
    modules["xformers.ops.fmha.attn_bias"].BlockDiagonalMask = _Mask
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    packing = pack([7, 3, 5])
    mask = block_diagonal_mask(packing)
    assert mask.q_seqinfo.seqstart is packing.starts
    assert mask.k_seqinfo.seqstart is packing.starts
    assert mask.q_seqinfo.seqstart_py == packing.starts.tolist() == [0, 7, 10, 15]
    x = torch.randn(15, 2, 4)
    assert torch.equal(KERNELS["xformers"](x, x, x + 1, packing, 0.2), x + 1)
    assert (seen["shape"], seen["p"]) == ((1, 15, 2, 4), 0.2)
    assert isinstance(seen["bias"], _Mask)


@pytest.mark.parametrize("lengths", [[7, 3, 5], [7], [1, 7, 7]])
def test_the_mask_of_xformers_keeps_sequences_apart(lengths):
    """The package itself, whose kernels need a GPU but whose masks do not."""
    pytest.importorskip(
        "xformers.ops.fmha.attn_bias", reason='xformers is not installed (pip install "d2v_fast[xformers]")'
    )
    packing = pack(lengths)
    mask = block_diagonal_mask(packing)
    assert mask.q_seqinfo.seqstart is packing.starts
    assert mask.q_seqinfo.max_seqlen == mask.k_seqinfo.max_seqlen == max(lengths)
    size = sum(lengths)
    query, key, value = torch.randn(3, size, 2, 8, dtype=torch.float64)
    rows = (x.transpose(0, 1) for x in (query, key, value))
    bias = mask.materialize((size, size), dtype=torch.float64)
    wanted = torch.nn.functional.scaled_dot_product_attention(*rows, attn_mask=bias).transpose(0, 1)
    torch.testing.assert_close(blocks(query, key, value, packing, 0.0), wanted)


def test_backends_name_a_kernel_for_each_device():
    told = ops.backends()["attention"]
    assert told["cpu"].implementation == "our own; packed sequences: fused"
    if not torch.cuda.is_available():
        assert told["cuda"].implementation.endswith("packed sequences: sdpa")
        assert told["cuda"].reason == "no GPU here to try varlen and xformers on"
