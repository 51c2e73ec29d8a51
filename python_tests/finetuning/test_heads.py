"""Pooling, weighted layers, the text head, and learning rates by layer."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import _config

from d2v_fast.finetuning.config import OutputConfig
from d2v_fast.finetuning.heads import FinetunedNetwork, OutputHead, layer_rates, lin_softmax
from d2v_fast.models import build_encoder

TOKENS = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)


def make(**fields):
    torch.manual_seed(0)
    return OutputHead(OutputConfig(**fields), 4, 2, 5).eval()


def test_the_mean_leaves_padding_out():
    head = make()
    lengths = torch.tensor([3, 1])
    pooled = head.pool(TOKENS, lengths)
    assert torch.equal(pooled, torch.stack([TOKENS[0].mean(0), TOKENS[1, 0]]))
    broken = TOKENS.clone()
    broken[1, 1:] = float("nan")  # what stands at padded positions means nothing
    assert torch.equal(head.pool(broken, lengths), pooled)
    assert torch.equal(head.pool(TOKENS, None), TOKENS.mean(1))


def test_the_first_token():
    assert torch.equal(make(pooling="first").pool(TOKENS, None), TOKENS[:, 0])


def test_the_sum_over_layers_begins_with_their_mean_and_is_learned():
    head = make(layers="weighted", norm=False)
    layers = [TOKENS, TOKENS * 3]
    expected = head.output(TOKENS.mean(1) * 2)
    torch.testing.assert_close(head(torch.full_like(TOKENS, torch.nan), layers, None), expected)
    head(TOKENS, layers, None).square().sum().backward()
    assert (head.layer_weights.grad != 0).all()


def test_the_block_without_the_norm_of_the_encoder():
    """The head of BEiT's fine-tuning: its norm, after the mean, takes the place of the encoder's."""
    torch.manual_seed(0)
    encoder = build_encoder(_config("vision").model).eval()
    network = FinetunedNetwork(encoder, OutputHead(OutputConfig(layers="block"), 32, 2, 5).eval())
    pictures = torch.randn(2, 3, 16, 16)
    block = encoder.forward_layers(encoder.embed(pictures), last=1).features[0]
    expected = network.head.output(network.head.norm(block.mean(1)))
    torch.testing.assert_close(network(pictures), expected)
    network(pictures).sum().backward()
    assert [name for name, p in encoder.named_parameters() if not p.requires_grad] == ["norm.weight", "norm.bias"]


def test_the_text_head_written_out():
    head = make(pooling="first", hidden=True, norm=False)
    names = [name for name, _ in head.named_parameters()]
    assert names == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
    expected = head.output(torch.tanh(head.hidden(TOKENS[:, 0])))
    assert torch.equal(head(TOKENS, [], None), expected)
    head.config = OutputConfig(dropout=0.5)
    assert torch.equal(head(TOKENS, [], None), head(TOKENS, [], None))  # in eval mode


def test_rates_are_those_of_beit():
    """0.5 ** (L + 1 - layer): the patches are layer 0, block i layer i + 1; norm and shared bias are not scaled."""
    encoder = build_encoder(_config("vision").model)
    rates = layer_rates(encoder, 0.5)
    assert rates["embedding.class_token"] == rates["embedding.mask_token"] == 0.5**3
    assert {rate for name, rate in rates.items() if name.startswith("embedding.")} == {0.5**3}
    assert {rate for name, rate in rates.items() if name.startswith("blocks.0.")} == {0.5**2}
    assert {rate for name, rate in rates.items() if name.startswith("blocks.1.")} == {0.5}
    others = {name for name, _ in encoder.named_parameters()} - rates.keys()
    assert others == {"norm.weight", "norm.bias", "positions.table"}
    encoder.embedding.requires_grad_(False)
    assert not any(name.startswith("embedding.") for name in layer_rates(encoder, 0.5))
    assert layer_rates(encoder, 1.0) == {}


@pytest.mark.parametrize("modality", ["speech", "text", "series"])
def test_every_parameter_of_a_post_norm_encoder_is_below_or_in_the_blocks(modality):
    encoder = build_encoder(_config(modality).model)
    rates = layer_rates(encoder, 0.5)
    assert rates.keys() == {name for name, _ in encoder.named_parameters()}
    assert {rate for name, rate in rates.items() if not name.startswith("blocks.")} == {0.5**3}


def test_linear_softmax_is_the_sum_of_squares_over_the_sum():
    outputs = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p = outputs.sigmoid()
    torch.testing.assert_close(lin_softmax(outputs, None).sigmoid(), p.square().sum(1) / p.sum(1))
    lengths = torch.tensor([7, 1, 4])
    found = lin_softmax(outputs, lengths)
    torch.testing.assert_close(found[1], outputs[1, 0])  # of one token its own
    torch.testing.assert_close(found[2], lin_softmax(outputs[2:, :4], None)[0])
    broken = outputs.clone().requires_grad_()
    lin_softmax(broken, lengths).sum().backward()
    assert (broken.grad[1, 1:] == 0).all()
    assert torch.isfinite(broken.grad).all()
    far = torch.tensor([[[200.0], [190.0]], [[-200.0], [-190.0]]])  # where a sum of probabilities is exactly 1 or 0
    assert torch.isfinite(lin_softmax(far, None)).all()
    assert lin_softmax(far, None)[:, 0].sign().tolist() == [1, -1]


def test_outputs_are_pooled_by_linear_softmax():
    head = make(pooling="lin_softmax")
    expected = lin_softmax(head.output(head.norm(TOKENS)), None)
    torch.testing.assert_close(head(TOKENS, [], None), expected)
