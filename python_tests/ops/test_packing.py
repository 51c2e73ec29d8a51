"""Packing: which token goes where and back, the choice of a kernel with faked availability, equal attention."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch._subclasses import FakeTensorMode

from d2v_fast.modules.attention import Attention
from d2v_fast.modules.block import Block
from d2v_fast.ops import packed_attention
from d2v_fast.ops.packed_attention import KERNELS, block_diagonal_mask, blocks, choose
from d2v_fast.ops.packing import Packing, plan_packing, to_device

CPU = torch.device("cpu")
LENGTHS = ([7, 3, 5], [1, 7, 7], [7], [2, 0, 6, 1], [7, 7])


@pytest.fixture(autouse=True)
def forget_choices():
    packed_attention._fault.cache_clear()
    yield
    packed_attention._fault.cache_clear()


def pack(lengths, width=7):
    return plan_packing(torch.tensor(lengths), width, CPU, blocks)


def test_places_of_tokens():
    packing = pack([2, 0, 3], width=4)
    assert packing.lengths == [2, 0, 3]
    assert packing.index.tolist() == [0, 1, 8, 9, 10]
    assert packing.starts.tolist() == [0, 2, 2, 5]
    assert packing.starts.dtype == torch.int32
    assert packing.rows(torch.tensor([1, 8, 10])).tolist() == [1, 2, 4]
    assert packing.spread(torch.tensor([5.0, 6.0, 7.0]).view(3, 1, 1)).tolist() == [[[5.0], [5.0], [7.0], [7.0], [7.0]]]


def test_a_length_beyond_the_width_is_the_width():
    assert pack([9, 3], width=4).lengths == [4, 3]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_there_and_back_again(lengths):
    packing = pack(lengths)
    x = torch.randn(len(lengths), 7, 3, requires_grad=True)
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    packed = packing.pack(x)
    assert torch.equal(packed, x[valid][None])
    whole = packing.unpack(packed)
    assert torch.equal(whole, torch.where(valid[:, :, None], x, 0.0))
    (whole * 2).sum().backward()
    assert torch.equal(x.grad, valid[:, :, None].expand_as(x) * 2.0)
    rows = valid.flatten().nonzero().flatten()[::2]
    assert torch.equal(packed[0].index_select(0, packing.rows(rows)), x.flatten(0, 1)[rows])


def test_lengths_on_the_device_are_not_read():
    with pytest.raises(ValueError, match="lengths are on meta; packing needs them on the CPU"):
        plan_packing(torch.ones(2, device="meta", dtype=torch.int64), 3, CPU, blocks)


class _HostTensor:
    """Notes what is asked of a tensor on the host that is to go to a GPU."""

    is_cpu = True

    def __init__(self, asked=()):
        self.asked = [*asked]

    def pin_memory(self):
        return _HostTensor([*self.asked, "pinned"])

    def to(self, device, *, non_blocking):
        return [*self.asked, (device.type, non_blocking)]


def test_copies_to_a_gpu_come_from_pinned_memory():
    assert to_device(_HostTensor(), torch.device("cuda", 0)) == ["pinned", ("cuda", True)]
    assert to_device(_HostTensor(), CPU) == [("cpu", True)]


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


def test_drop_path_skips_whole_sequences():
    torch.manual_seed(0)
    block = Block(8, 2, 16, drop_path=0.5, norm_first=True).train()
    packing = pack([7, 3, 5, 6, 2, 4])
    x = torch.randn(1, 27, 8)
    rows = torch.arange(0, 27, 2)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        whole = block(x, packing)
        torch.manual_seed(seed)
        some = block(x, packing, rows)
        torch.testing.assert_close(some.output, whole.output[0].index_select(0, rows))
        untouched = [bool((part == own).all()) for part, own in
                     zip(whole.output[0].split(packing.lengths), x[0].split(packing.lengths), strict=True)]  # fmt: skip
        mixed = [bool((part == own).all(1).any()) for part, own in
                 zip(whole.output[0].split(packing.lengths), x[0].split(packing.lengths), strict=True)]  # fmt: skip
        assert untouched == mixed, "a sequence is left alone as a whole or not at all"
        seen.update(untouched)
    assert seen == {True, False}


# --- the choice -------------------------------------------------------------------------------------------------------


def choice(wanted="auto", device="cuda", dtype=torch.bfloat16, dropout=False):
    return choose(wanted, torch.device(device), dtype, 64, dropout=dropout)


@pytest.fixture
def gpu(monkeypatch):
    """gpu(varlen=..., xformers=...): what a machine with a GPU says when the kernels are tried; "" means they work."""

    def make(**faults):
        def fault(name, device, dtype, head_dim, dropout):
            if device.type == "cuda":
                return "it has no dropout" if name == "varlen" and dropout else faults[name]
            return original(name, device, dtype, head_dim, dropout)

        original = packed_attention._fault
        monkeypatch.setattr(packed_attention, "_fault", fault)

    original_clear = packed_attention._fault.cache_clear
    yield make
    monkeypatch.undo()
    original_clear()


def test_on_a_gpu_the_first_kernel_that_works(gpu):
    gpu(varlen="", xformers="")
    assert choice() == ("varlen", "no work is done on padding")
    assert choice(dropout=True) == ("xformers", "varlen: it has no dropout; no work is done on padding")


def test_on_a_gpu_without_any(gpu):
    gpu(varlen="only supports Ampere GPUs or newer", xformers="not installed (xformers)")
    name, reason = choice()
    assert name == "sdpa"
    assert reason == "varlen: only supports Ampere GPUs or newer; xformers: not installed (xformers)"
    assert choice("sdpa") == ("sdpa", "it was asked for")
    with pytest.raises(ValueError, match=r"precision.attention is 'xformers', which does not work here: not installed"):
        choice("xformers")


def test_on_a_cpu_one_sequence_after_the_other():
    assert choice(device="cpu", dtype=torch.float32).name == "blocks"
    assert choice(device="cpu", dtype=torch.float32, dropout=True).name == "blocks"
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
    backends = packed_attention.backends()
    assert backends["cpu"].name == "blocks"
    if not torch.cuda.is_available():
        assert backends["cuda"] == ("sdpa", "no GPU here to try varlen and xformers on")
