"""A pair with sequences of different lengths: what is packed, and that it changes no result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2v_fast.models import Data2Vec
from d2v_fast.models.config import TargetConfig


def padded_batch(small, modality, lengths, views=1):
    """Three samples of other lengths (in tokens); text gets padding tokens, speech noise behind its end."""
    width = small.tokens[modality]
    valid = torch.arange(width) < torch.tensor(lengths)[:, None]
    batch = small.make_batch(modality, views=views)
    mask = batch.mask & valid.repeat_interleave(views, 0)
    batch = replace(batch, mask=mask, rows=mask.flatten().nonzero().flatten())
    if modality == "speech":
        return replace(batch, lengths=torch.tensor(lengths) * 8 + 8)  # 8 samples a frame, receptive field of 12
    pad = torch.where(valid, batch.inputs, 1)
    masked = torch.where(valid.repeat_interleave(views, 0), batch.masked_inputs, 1)
    return replace(batch, inputs=pad, masked_inputs=masked, lengths=torch.tensor(lengths))


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("lengths", [(10, 7, 3), (10, 10, 10), (1, 9, 10)], ids=str)
@pytest.mark.parametrize("kind", ["speech", "text"])
def test_packed_sequences_give_the_padded_loss_and_gradients(small, kind, lengths, views):
    if kind == "speech":
        lengths = tuple(length + 2 if length == 10 else length for length in lengths)
    config = small.configs[kind]
    if kind == "speech":
        config = replace(config, target=TargetConfig(top_k=2, exclude_padding=True))
    model = small.perturb(Data2Vec(config)).double()
    batch = padded_batch(small, kind, lengths, views)
    if kind == "speech":
        batch = replace(batch, inputs=batch.inputs.double())
    results = {}
    for attention in ("sdpa", "blocks"):
        for encoder in (model.student.encoder, model.teacher):
            encoder.attention = attention
        model.zero_grad()
        output = model(batch)
        output.loss.backward()
        grads = [value.grad.clone() for value in model.student.parameters()]
        results[attention] = (output.loss.detach(), output.target, output.prediction.detach(), *grads)
    for packed, padded in zip(results["blocks"], results["sdpa"], strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-11)


def test_padding_is_left_out_where_it_counts_for_nothing(small, monkeypatch):
    """Released speech targets count padded frames in their statistics: then the teacher computes them."""
    tokens = {}
    batch = padded_batch(small, "speech", (12, 7, 3))
    for name, target in (("counted", TargetConfig(top_k=2)), ("left out", TargetConfig(top_k=2, exclude_padding=True))):
        model = Data2Vec(replace(small.configs["speech"], target=target))
        for part, encoder in (("student", model.student.encoder), ("teacher", model.teacher)):
            encoder.blocks[0].register_forward_hook(
                lambda module, inputs, output, key=(name, part): tokens.update({key: list(inputs[0].shape[:2])})
            )
        model(batch)
    assert tokens["counted", "teacher"] == [3, 12]
    assert tokens["counted", "student"] == tokens["left out", "student"] == tokens["left out", "teacher"] == [1, 22]


@pytest.mark.parametrize("kind", ["speech", "text"])
def test_masked_padding_is_refused(small, kind):
    batch = padded_batch(small, kind, (10, 7, 3))
    mask = batch.mask.clone()
    mask[2, 3] = True
    batch = replace(batch, mask=mask, rows=mask.flatten().nonzero().flatten())
    with pytest.raises(ValueError, match="mask masks padding"):
        Data2Vec(small.configs[kind])(batch)


def test_packed_activations_can_be_computed_again(small):
    model, batch = small.perturb(Data2Vec(small.configs["text"])), padded_batch(small, "text", (10, 7, 3))
    results = []
    for again in (False, True):
        model.student.encoder.checkpoint_activations = again
        model.zero_grad()
        model(batch).loss.backward()
        results.append([value.grad.clone() for value in model.student.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_compiled_pair_computes_the_padding(small):
    """A graph has fixed shapes; the result is the same."""
    torch._dynamo.reset()
    model, batch = small.perturb(Data2Vec(small.configs["text"])), padded_batch(small, "text", (10, 7, 3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch).loss, model(batch).loss, rtol=1e-5, atol=0)


def test_full_sequences_need_no_mask(small, monkeypatch):
    model = Data2Vec(small.configs["text"])
    biases = []
    model.student.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: biases.append(inputs[1]))
    model(padded_batch(small, "text", (10, 10, 10)))
    assert biases == [None]
