"""The Triton route of data2vec 2.0: the operations on CPU tensors, their kernels in the strict interpreter."""

from __future__ import annotations

import cases
import pytest
import torch
import triton_interpreter
from d2v_fast.kernels import launch
from pretending import registered_for_gpus

ATTENTION = ["attend", "attend_backward_queries", "attend_backward_keys"]


@pytest.fixture(autouse=True)
def gpu(pretended, monkeypatch):
    pretended.with_triton(triton_interpreter.launch, [])
    monkeypatch.setattr(launch, "attention_tile", lambda size, dim: launch.AttentionTile(32, 16, 32, 4))
    with registered_for_gpus():
        yield pretended


@pytest.mark.parametrize("dtype", cases.LOW, ids=str)
def test_restore(dtype, gpu):
    cases.restored(dtype)
    assert gpu.launches == ["restore"] * 4


@pytest.mark.parametrize(("size", "kernel"), [((9,), 3), ((9,), 4), ((4, 3), 3)], ids=str)
def test_decoder_layers(size, kernel, gpu):
    for dtype in cases.LOW:
        cases.decoder_layers(dtype, size, kernel)
    assert gpu.launches == ["finish", "unfinish"] * 6
    cases.decoder_layers(torch.float64, size, kernel)
    assert len(gpu.launches) == 12


@pytest.mark.parametrize("hidden", [False, True])
def test_attention(hidden, gpu):
    for dtype in cases.LOW:
        cases.attention(dtype, hidden=hidden)
    assert gpu.launches == ATTENTION * 3


def test_wide_heads_and_float64_are_plain_torchs(gpu):
    cases.attention(torch.float64, hidden=True)
    cases.attention(torch.float32, hidden=False, dim=launch.LARGEST_HEAD + 4)
    assert gpu.launches == []


def test_without_triton_plain_torch_serves(gpu):
    gpu.routes(triton=False)
    cases.restored(torch.bfloat16)
    cases.decoder_layers(torch.bfloat16, (4, 3), 3)
    cases.attention(torch.float32, hidden=True)
    assert gpu.launches == []
