"""Packing: which token goes where and back, with extra tokens, subsets and a bias."""

from __future__ import annotations

import pytest
import torch

from d2v_fast.ops.attention import blocks
from d2v_fast.ops.packing import plan_kept, plan_packing, to_device

CPU = torch.device("cpu")
LENGTHS = ([7, 3, 5], [1, 7, 7], [7], [2, 0, 6, 1], [7, 7])


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


def test_a_subset_of_each_sequence():
    packing = plan_kept(torch.tensor([1, 3, 8, 9, 11]), 3, 4, CPU, blocks)
    assert packing.lengths == [2, 0, 3]
    assert packing.starts.tolist() == [0, 2, 2, 5]
    assert packing.rows(torch.tensor([3, 9])).tolist() == [1, 3]
    x = torch.randn(3, 4, 2)
    assert torch.equal(packing.pack(x)[0], x.flatten(0, 1)[[1, 3, 8, 9, 11]])
    whole = packing.unpack(packing.pack(x)).flatten(0, 1)
    assert torch.equal(whole[[1, 3, 8, 9, 11]], x.flatten(0, 1)[[1, 3, 8, 9, 11]])
    assert whole[[0, 2, 4, 5, 6, 7, 10]].eq(0).all()


def test_extra_tokens_stand_before_every_sequence():
    packing = plan_kept(torch.tensor([1, 3, 8]), 3, 4, CPU, blocks, extra=2)
    assert packing.lengths == [4, 2, 3]
    assert packing.starts.tolist() == [0, 4, 6, 9]
    x, extra = torch.arange(12.0).view(3, 4, 1), torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    packed = packing.pack(x, extra)
    assert packed.flatten().tolist() == [-1, -2, 1, 3, -1, -2, -1, -2, 8]
    assert packing.rows(torch.tensor([8, 1])).tolist() == [8, 2]
    assert packing.unpack(packed).flatten().tolist() == [0, 1, 0, 3, 0, 0, 0, 0, 8, 0, 0, 0]
    assert packing.spread(torch.tensor([5.0, 6.0, 7.0]).view(3, 1, 1)).flatten().tolist() == [5] * 4 + [6] * 2 + [7] * 3
    assert packing.grid().tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10]
    packed.sum().backward()
    assert extra.grad.flatten().tolist() == [3, 3]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_a_bias_is_gathered_at_the_kept_tokens(extra, samples):
    kept = torch.tensor([1, 3, 4, 8, 9, 11])
    packing = plan_kept(kept, 3, 4, CPU, blocks, extra)
    bias = torch.randn(samples, 2, extra + 4, extra + 4, requires_grad=True)
    gathered = packing.with_bias(bias).bias
    weight = torch.zeros(gathered.shape)
    total = 0
    for n in range(3):
        places = torch.cat([torch.arange(extra), kept[kept // 4 == n] % 4 + extra])
        length = len(places)
        part = bias[n if samples > 1 else 0][:, places[:, None], places]
        assert torch.equal(gathered[n, :, :length, :length], part)
        own = torch.randn(part.shape)
        weight[n, :, :length, :length] = own
        total = total + (part * own).sum()
    ours, theirs = (torch.autograd.grad(value, bias)[0] for value in ((gathered * weight).sum(), total))
    torch.testing.assert_close(ours, theirs)


def test_rows_that_were_not_kept_are_refused():
    packing = plan_kept(torch.tensor([1, 3, 8]), 3, 4, CPU, blocks)
    for rows, message in (([1, 2], r"rows\[1\] is 2, a token that was not kept"), ([11], r"rows\[0\] is 11")):
        with pytest.raises(ValueError, match=message):
            packing.rows(torch.tensor(rows))


@pytest.mark.parametrize(
    ("kept", "kind", "message"),
    [
        ([1, 12], IndexError, r"kept\[1\] is 12, outside of the 12 flat positions"),
        ([3, 1], IndexError, r"kept\[1\] is 1 after 3: kept must be ascending"),
        ([1, 1], IndexError, "ascending and unique"),
        ([1.0], ValueError, r"must be int64 \[K\].* got torch.float32"),
        ([[1]], ValueError, r"got torch.int64 \[1, 1\]"),
    ],
)
def test_kept_tokens_that_cannot_be(kept, kind, message):
    with pytest.raises(kind, match=message):
        plan_kept(torch.tensor(kept), 3, 4, CPU, blocks)


def test_kept_tokens_on_the_device_are_not_read():
    with pytest.raises(ValueError, match="kept is on meta; packing needs it on the CPU"):
        plan_kept(torch.ones(2, device="meta", dtype=torch.int64), 3, 4, CPU, blocks)
