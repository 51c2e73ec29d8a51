"""data2vec 2.0: what is built, how it starts, what the teacher follows, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from d2v_fast.errors import ConfigError
from d2v_fast.masking import Masks
from d2v_fast.models import Data2Vec, DecoderConfig, TeacherConfig
from d2v_fast.models.config import LossConfig

DECODER = DecoderConfig(dim=12, layers=2, kernel=3, groups=4, input_dropout=0.0)
AVERAGES = {"speech": "transformer", "vision": "all", "text": "layers"}


@pytest.fixture
def second(small, modality):
    """(**options of the transformer) to a configuration of data2vec 2.0."""

    def make(loss=0.0, **options):
        config = small.configs[modality]
        embedding = {"speech": {"alibi": True}, "vision": {"positions": "sincos"}, "text": {}}[modality]
        network = {"norm_first": False, "layer_scale": None, "key_bias": True} | options
        return replace(
            config,
            embedding=replace(config.embedding, **embedding),
            transformer=replace(config.transformer, **network),
            head=DECODER,
            loss=LossConfig(class_token=loss),
            teacher=TeacherConfig(averages=AVERAGES[modality]),
        )

    return make


def make_batch(small, modality, views=2):
    batch = replace(small.make_batch(modality, views=views), masked_inputs=None)
    return replace(batch, kept=Masks(batch.mask, batch.rows).kept)


def test_there_is_no_mask_token_and_no_head(second, modality):
    model = Data2Vec(second(extra_tokens=1))
    names = dict(model.student.named_parameters())
    assert not [name for name in names if "mask_token" in name or name.startswith("head.")]
    assert "encoder.extra_tokens" in names
    assert ("encoder.alibi.scale" in names) == (modality == "speech")
    kind = torch.nn.Conv2d if modality == "vision" else torch.nn.Conv1d
    assert all(isinstance(layer, kind) for layer in model.student.decoder.convolutions)


def test_weights_start_as_released(second, modality):
    config = second(dim=64, ffn_dim=256, extra_tokens=40)
    torch.manual_seed(3)
    student = Data2Vec(replace(config, head=replace(DECODER, dim=64, groups=1))).student
    for block in student.encoder.blocks:
        for linear in (block.attention.qkv, block.attention.out, block.ffn.up, block.ffn.down):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert linear.bias.eq(0).all()
    assert student.encoder.extra_tokens.std().item() == pytest.approx(1, rel=0.1)
    weight, bias = student.decoder.projection[0].weight, student.decoder.projection[0].bias
    bound = 1 / math.sqrt(64)  # torch's own: uniform in +- 1 / sqrt(inputs)
    if modality == "text":
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert bias.eq(0).all()
    else:
        assert 0.97 * bound < weight.abs().max() <= bound
        assert bias.ne(0).any()
    bound = 1 / math.sqrt(64 * 3 ** (2 if modality == "vision" else 1))
    assert 0.97 * bound < student.decoder.convolutions[1].weight.abs().max() <= bound
    embedding = student.encoder.embedding
    if modality == "speech":
        assert student.encoder.alibi.scale.eq(1).all()
        assert embedding.projection.bias.ne(0).any()
    if modality == "vision":
        bound = math.sqrt(6 / (64 + 2 * 3 * 3))  # Xavier, of the matrix
        assert 0.97 * bound < embedding.patches.weight.abs().max() <= bound
        assert 0.7 < embedding.class_token.std() < 1.3


def test_the_teacher_follows_what_the_released_code_averages(second, modality):
    model = Data2Vec(second(extra_tokens=1, prenet=1))
    own = {name for name, value in model.teacher.named_parameters() if not value.requires_grad}
    every = {name for name, _ in model.teacher.named_parameters()}
    shared = {name for name in every if name.startswith("embedding.")}
    if modality == "speech":  # all but the convolutional front end and its projection
        assert own == every - shared
        assert {"alibi.scale", "norm.weight", "extra_tokens", "positions.convolutions.0.weight"} <= own
    elif modality == "vision":
        assert own == every
    else:  # the blocks; the embedding, with its norm, is the student's
        assert own == every - shared
        assert {name.split(".")[0] for name in own} == {"blocks", "extra_tokens"}
    following = model.averaged()[0]
    assert len(following) == len(own)
    with torch.no_grad():
        for value in model.student.encoder.parameters():
            value.add_(1.0)
    model.update_teacher(0.75)
    theirs = dict(model.student.encoder.named_parameters())
    for name, value in model.teacher.named_parameters():
        gap = theirs[name] - value
        torch.testing.assert_close(gap, torch.full_like(gap, 0.75 if name in own else 0.0), atol=1e-6, rtol=0)


def test_teacher_sees_the_whole_sample_once_and_prenet_features_are_no_targets(second, small, modality, monkeypatch):
    model = Data2Vec(second(prenet=1)).train()
    seen = []
    original = model.teacher.forward_layers
    monkeypatch.setattr(
        model.teacher, "forward_layers", lambda local, *a, **o: (seen.append((local, o)), original(local, *a, **o))[1]
    )
    batch = make_batch(small, modality, views=3)
    output = model(batch)
    ((local, options),) = seen
    assert options["last"] == 2  # of three blocks, one of which is the prenet
    assert not local.requires_grad
    if modality != "vision":  # the student's own features, without its dropout
        assert torch.equal(local, model.student.encoder.embed(batch.inputs))
    assert len(local) == 3
    assert output.losses["regression"].count == len(batch.rows)


def test_drop_path_leaves_the_prenet_alone(second):
    blocks = Data2Vec(second(prenet=1, drop_path=0.4)).student.encoder.blocks
    assert [block.drop_path for block in blocks] == [0, 0, 0.4]


@pytest.mark.parametrize("norm_first", [False, True])
def test_branches_of_zero_leave_the_tokens_as_they_are(second, small, modality, norm_first):
    """Both residuals are there in either form; the released code loses them where norms come first."""
    model = Data2Vec(second(norm_first=norm_first, extra_tokens=1)).double().eval()
    encoder = model.student.encoder
    with torch.no_grad():
        for block in encoder.blocks:
            for linear in (block.attention.out, block.ffn.down):
                linear.weight.zero_()
                linear.bias.zero_()
    batch = make_batch(small, modality)
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    local = encoder.embed(inputs)
    entered = []
    encoder.blocks[0].register_forward_pre_hook(lambda m, a: entered.append(a[0]))
    layers = encoder.encode_kept(local, mask=batch.mask, kept=batch.kept)
    x = entered[0]
    assert layers.extra.shape == (6, len(encoder.extra()), 16)
    found = torch.cat([layers.output.flatten(), layers.extra.flatten()]).sort().values
    wanted = encoder.norm(x) if norm_first else F.layer_norm(x, (16,))
    torch.testing.assert_close(found, wanted.flatten().sort().values, atol=1e-4, rtol=0)


def test_the_class_token_loss_is_a_mean_over_views(second, small, modality):
    """Twice the same samples, or twice as many views: the loss stays; the released sum would double."""
    config = second(loss=2.0, extra_tokens=0 if modality == "vision" else 1)
    model = Data2Vec(replace(config, head=replace(DECODER, noise=0.0))).eval()
    batch = make_batch(small, modality)
    assert model.counts(batch) == {"regression": len(batch.rows), "class_token": 6}
    width = batch.mask.numel()
    twice = replace(
        batch,
        inputs=torch.cat([batch.inputs] * 2),
        mask=torch.cat([batch.mask] * 2),
        rows=torch.cat([batch.rows, batch.rows + width]),
        kept=torch.cat([batch.kept, batch.kept + width]),
        sample_ids=torch.arange(6),
    )
    one, other = model(batch), model(twice)
    for name, loss in one.losses.items():
        assert other.losses[name].count == 2 * loss.count
        assert other.losses[name].sum.item() == pytest.approx(2 * loss.sum.item(), rel=1e-4)
    part = one.losses["class_token"]
    assert part.weight == 2.0
    assert one.loss.item() == pytest.approx(
        (one.losses["regression"].sum / len(batch.rows) + 2.0 * part.sum / 6).item(), rel=1e-6
    )


def test_a_class_token_loss_needs_a_token(second, modality):
    if modality == "vision":
        second(loss=1.0)
    else:
        with pytest.raises(ConfigError, match=r"loss\.class_token is 1\.0, but there is no token.*extra_tokens to 1"):
            second(loss=1.0)
    second(loss=1.0, extra_tokens=1)


def test_tokens_that_are_no_grid_are_refused(second, small, modality, monkeypatch):
    model = Data2Vec(second())
    monkeypatch.setattr(model.student.encoder, "shape", lambda tokens: (tokens // 7, 7))
    with pytest.raises(ValueError, match=r"1\d tokens are no grid of \d x 7.*whole rows"):
        model(make_batch(small, modality))


def test_a_batch_without_kept_tokens_is_refused(second, small, modality):
    model = Data2Vec(second())
    batch = make_batch(small, modality)
    with pytest.raises(ValueError, match="the batch has no kept positions"):
        model(replace(batch, kept=None))
    with pytest.raises(ValueError, match=r"takes no masked_inputs"):
        model(replace(batch, masked_inputs=batch.inputs.repeat_interleave(2, 0)))
    with pytest.raises(IndexError, match="kept"):
        model(replace(batch, kept=batch.kept.flip(0)))


@pytest.mark.parametrize("attention", ["blocks", "sdpa"])
def test_views_of_different_lengths_do_not_touch_each_other(second, small, modality, attention):
    """Each view alone, with the tokens that it keeps, gives what it gives beside the others."""
    model = Data2Vec(second(extra_tokens=1, prenet=1)).double().eval()
    encoder, batch = model.student.encoder, make_batch(small, modality)
    encoder.attention = attention
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    local, width = encoder.embed(inputs).detach(), batch.mask.shape[1]
    kept = batch.kept[batch.kept != batch.kept[1]]  # another number of each
    together = encoder.encode_kept(local, mask=batch.mask, kept=kept)
    for row in range(len(batch.mask)):
        own = kept[kept // width == row]
        alone = encoder.encode_kept(
            local[row // 2 : row // 2 + 1], mask=batch.mask[row : row + 1], kept=own - row * width
        )
        torch.testing.assert_close(together.output[kept // width == row], alone.output, atol=1e-12, rtol=0)
        torch.testing.assert_close(together.extra[row], alone.extra[0], atol=1e-12, rtol=0)


def test_a_graph_computes_everything_and_gives_the_same(second, small, modality):
    torch._dynamo.reset()
    model = Data2Vec(second(extra_tokens=1)).double().eval()
    encoder, batch = model.student.encoder, make_batch(small, modality)
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    local = encoder.embed(inputs).detach()
    compiled = torch.compile(encoder.encode_kept, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        ours, wanted = (f(local, mask=batch.mask, kept=batch.kept) for f in (compiled, encoder.encode_kept))
    torch.testing.assert_close(ours.output, wanted.output, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.extra, wanted.extra, atol=1e-12, rtol=0)
