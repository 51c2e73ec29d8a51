"""An encoder that sees a subset of the tokens: as if it ran on the subset alone; padding is the same mechanism."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2v_fast.models import build_encoder

KINDS = ["speech", "vision, relative", "vision, sincos", "text"]
KERNELS = ["blocks", "sdpa"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make(small, kind, **options):
    """An encoder in float64, local features of three rows and the kept tokens, some of each row."""
    modality = kind.split(",")[0]
    config = small.configs[modality]
    if kind.endswith("sincos"):
        config = replace(config, embedding=replace(config.embedding, positions="sincos"))
    config = replace(config, transformer=replace(config.transformer, **options))
    torch.manual_seed(0)
    encoder = small.perturb(build_encoder(config)).double()
    inputs = small.make_batch(modality).inputs
    width = small.tokens[modality]
    kept = torch.tensor([0, 2, 3, 7, width + 1, *range(2 * width + 3, 3 * width)])
    local = encoder.embed(inputs if modality == "text" else inputs.double()).detach().requires_grad_()
    return encoder, local, kept


def alone(encoder, local, kept, mask=None):
    """The blocks on each row's kept tokens, one row after the other: [K, C] of the output, and of two layers."""
    x = local
    if mask is not None:
        x = torch.where(mask.unsqueeze(2), encoder.embedding.get_parameter("mask_token"), x)
    x, bias = encoder.place(x, None)
    width, parts = local.shape[1], []
    extra = 0 if encoder.extra() is None else len(encoder.extra())
    for n in range(len(local)):
        own = kept[kept // width == n] % width
        places = torch.cat([torch.arange(extra), own + extra])
        scores = None if bias is None else bias[:, :, places[:, None], places]
        layers = (encoder.run(x[n : n + 1, own], scores, last=2, feature=feature) for feature in ("ffn", "block"))
        ffn, block = layers
        parts.append([block.output[0], *(part[0] for part in (*ffn.features, *block.features))])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("attention", KERNELS)
def test_a_subset_gives_what_it_gives_alone(small, kind, attention, norm_first):
    encoder, local, kept = make(small, kind, norm_first=norm_first)
    encoder.attention = attention
    mask = None
    if kind != "text":
        mask = torch.rand(local.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.3
    expected = alone(encoder, local, kept, mask)
    layers = [encoder.forward_layers(local, mask=mask, kept=kept, last=2, feature=f) for f in ("ffn", "block")]
    ours = [layers[1].output, *layers[0].features, *layers[1].features]
    dropped = torch.ones(local.shape[0] * local.shape[1], dtype=torch.bool).index_fill(0, kept, False)
    leaves = [local, *encoder.blocks.parameters()]
    weight = torch.randn(len(kept), 16, dtype=torch.float64)
    for value, wanted in zip(ours, expected, strict=True):
        assert value.shape == local.shape
        torch.testing.assert_close(value.flatten(0, 1)[kept], wanted, rtol=0, atol=1e-12)
        assert value.flatten(0, 1)[dropped].eq(0).all()
    for parameter in ("positions.table", "embedding.class_token"):
        if parameter in dict(encoder.named_parameters()):
            leaves.append(encoder.get_parameter(parameter))
    grads = [
        torch.autograd.grad((value * weight).sum(), leaves, allow_unused=True)
        for value in (ours[0].flatten(0, 1)[kept], expected[0])
    ]
    for one, other in zip(*grads, strict=True):
        assert one is not None or other is None
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("attention", KERNELS)
def test_rows_are_counted_in_whole_sequences(small, kind, attention):
    encoder, local, kept = make(small, kind)
    encoder.attention = attention
    whole = encoder.forward_layers(local, kept=kept).output
    rows = kept[[1, 4, 6]]
    some = encoder.forward_layers(local, kept=kept, rows=rows).output
    torch.testing.assert_close(some, whole.flatten(0, 1)[rows], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"rows\[0\] is 1, a token that was not kept"):
        encoder.forward_layers(local, kept=kept, rows=torch.tensor([1]))


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("kind", ["speech", "text"])
def test_padding_is_a_subset(small, kind, attention):
    encoder, local, _ = make(small, kind)
    encoder.attention = attention
    width = local.shape[1]
    lengths = torch.tensor([width, 4, 7])
    valid = torch.arange(width) < lengths[:, None]
    kept = valid.flatten().nonzero().flatten()
    padded = encoder.forward_layers(local, lengths).output
    subset = encoder.forward_layers(local, lengths, kept=kept).output
    torch.testing.assert_close(subset[valid], padded[valid], rtol=0, atol=1e-12)
    if attention == "blocks":
        assert torch.equal(subset, padded)
    leaves = [local, *encoder.blocks.parameters()]
    grads = [torch.autograd.grad(value[valid].square().sum(), leaves) for value in (padded, subset)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    # Some of the valid tokens: positions still see the whole row.
    fewer = kept[::2]
    x, _ = encoder.place(local, valid)
    expected = [encoder.run(x[n : n + 1, fewer[fewer // width == n] % width]).output[0] for n in range(3)]
    ours = encoder.forward_layers(local, lengths, kept=fewer).output.flatten(0, 1)[fewer]
    torch.testing.assert_close(ours, torch.cat(expected), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=rf"kept\[1\] is {width + 4}, token 4 of row 1, which is padding"):
        encoder.forward_layers(local, lengths, kept=torch.tensor([0, width + 4]))


def test_everything_kept_is_everything(small, kind):
    encoder, local, _ = make(small, kind)
    every = torch.arange(local.shape[0] * local.shape[1])
    for attention in KERNELS:
        encoder.attention = attention
        ours = encoder.forward_layers(local, kept=every).output
        torch.testing.assert_close(ours, encoder.forward_layers(local).output, rtol=0, atol=1e-12)


def test_a_row_may_keep_nothing(small, kind):
    encoder, local, kept = make(small, kind)
    width = local.shape[1]
    kept = kept[kept // width != 1]
    for attention in KERNELS:
        encoder.attention = attention
        output = encoder.forward_layers(local, kept=kept).output
        assert output[1].eq(0).all()
        torch.testing.assert_close(output.flatten(0, 1)[kept], alone(encoder, local, kept)[0], rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(output.square().sum(), local)
        assert gradient.isfinite().all()


def test_the_blocks_see_the_kept_tokens_only(small, kind):
    encoder, local, kept = make(small, kind)
    shapes = []
    encoder.blocks[0].register_forward_hook(lambda module, inputs, output: shapes.append(list(inputs[0].shape)))
    encoder.forward_layers(local, kept=kept)
    assert shapes == [[1, len(kept) + (3 if "vision" in kind else 0), 16]]


def test_noise_goes_with_a_bias_and_a_subset(small, kind):
    encoder, local, kept = make(small, kind, dropout=0.1, attention_dropout=0.2, drop_path=0.3)
    encoder.train()
    for attention in KERNELS:
        encoder.attention = attention
        outputs = []
        for again in (False, True):
            encoder.checkpoint_activations = again
            torch.manual_seed(0)
            output = encoder.forward_layers(local, kept=kept).output
            outputs.append([output, *torch.autograd.grad(output.square().sum(), [local, *encoder.blocks.parameters()])])
        assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
        torch.manual_seed(1)
        assert not torch.equal(encoder.forward_layers(local, kept=kept).output, outputs[0][0])


def test_kernels_without_a_bias_are_refused_by_name(small):
    encoder, local, kept = make(small, "vision, relative")
    encoder.attention = "varlen"
    with pytest.raises(ValueError, match="'varlen', which does not work here: it takes no bias"):
        encoder.forward_layers(local, kept=kept)


def test_a_compiled_encoder_computes_everything(small, kind):
    """A graph has fixed shapes; the result at the kept tokens is the same, for another number of them too."""
    torch._dynamo.reset()
    encoder, local, kept = make(small, kind)
    compiled = torch.compile(encoder.forward_layers, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for subset in (kept, kept[:-2]):
            rows = subset[::2]
            ours = compiled(local, kept=subset, rows=rows).output
            wanted = encoder.forward_layers(local, kept=subset, rows=rows).output
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
