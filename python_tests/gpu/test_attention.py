"""Attention over sequences of different lengths: every kernel that this machine has, against float64."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.models import build_encoder
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig
from d2v_fast.ops.attention import KERNELS, _fault, blocks
from d2v_fast.ops.packing import plan_packing, to_device

LENGTHS = [130, 7, 1, 64, 128, 33]


def usable(kernel, device, dtype, dropout=False):
    """Skips the test if the kernel does not work here, with the reason."""
    fault = _fault(kernel, device, dtype, 64, dropout, False)
    if fault:
        pytest.skip(f"{kernel}: {fault}")


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", list(KERNELS))
def test_kernels(device, kernel, low, no_worse_than):
    """Our error is at most twice that of scaled dot product attention of one sequence after the other."""
    usable(kernel, device, low)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(sum(LENGTHS), 3, 2, 64, generator=generator).to(low)
    weight = torch.randn(sum(LENGTHS), 2, 64, generator=generator)
    results = []
    for function, where, dtype in (
        (KERNELS[kernel], device, low),
        (blocks, device, low),
        (blocks, torch.device("cpu"), torch.float64),
    ):
        packing = plan_packing(torch.tensor(LENGTHS), max(LENGTHS), where, function)
        leaf = tokens.to(where, dtype).requires_grad_()
        mixed = function(*leaf.unbind(1), packing, 0.0)
        (gradient,) = torch.autograd.grad((mixed * weight.to(where)).sum(), leaf)
        results.append((mixed.detach().cpu(), gradient.cpu()))
    (ours, ours_gradient), (torchs, torchs_gradient), (exact, exact_gradient) = results
    no_worse_than(ours, torchs, exact)
    no_worse_than(ours_gradient, torchs_gradient, exact_gradient)


@pytest.mark.parametrize("kernel", ["xformers", "blocks"])
def test_dropout_drops(device, kernel):
    """Every value is 1, so an output is the share of its attention that was kept, times 1 / (1 - p)."""
    usable(kernel, device, torch.float32, dropout=True)
    packing = plan_packing(torch.tensor(LENGTHS), max(LENGTHS), device, KERNELS[kernel])
    query = torch.zeros(sum(LENGTHS), 2, 64, device=device)
    mixed = packing.kernel(query, query, torch.ones_like(query), packing, 0.25)
    assert mixed.std() > 0.05
    assert mixed[:130].mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kernel", ["varlen", "xformers", "blocks"])
def test_an_encoder_gives_the_padded_features(device, kernel):
    usable(kernel, device, torch.bfloat16)
    embedding = TextEmbedding(vocab_size=50, max_length=max(LENGTHS))
    network = TransformerConfig(dim=128, depth=2, heads=2, ffn_dim=256)
    torch.manual_seed(0)
    model = ModelConfig(embedding=embedding, transformer=network, target=TargetConfig(top_k=2))
    encoder = build_encoder(model).to(device).eval()
    tokens = torch.randint(4, 50, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0)).to(device)
    lengths = torch.tensor(LENGTHS)
    features = {}
    for name in ("sdpa", kernel):
        encoder.attention = name
        with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
            features[name] = encoder(tokens, lengths)
    valid = torch.arange(max(LENGTHS)) < lengths[:, None]
    ours, padded = (features[name].cpu()[valid].float() for name in (kernel, "sdpa"))
    torch.testing.assert_close(ours, padded, rtol=0, atol=0.1)
    assert (ours - padded).abs().mean() < 0.01
    assert not features[kernel].cpu()[~valid].any()


def test_numbers_of_the_host_are_copied_without_waiting(device):
    debug = torch.cuda.set_sync_debug_mode if device.type == "cuda" else lambda mode: None
    numbers = torch.arange(1000)
    debug("error")
    try:
        there = to_device(numbers, device)
    finally:
        debug("default")
    assert there.device == device
    assert torch.equal(there.cpu(), numbers)


def test_a_gpu_has_a_kernel(gpu):
    chosen = ops.backends()["attention"]["cuda"]
    assert chosen.implementation.rsplit(" ", 1)[1] in ("varlen", "xformers", "sdpa")
    if torch.cuda.get_device_capability(gpu) >= (8, 0) and torch.version.hip is None:
        assert chosen.implementation.endswith("varlen"), chosen.reason
