import pytest
import torch

from d2v_fast.modules.block import Block
from d2v_fast.ops.attention import blocks
from d2v_fast.ops.packing import plan_packing


def copy_to_torch(block, norm_first):
    """torch's own transformer layer with the block's weights."""
    dim, hidden = block.ffn.down.weight.shape
    layer = torch.nn.TransformerEncoderLayer(
        dim, block.attention.heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    ).to(block.ffn.up.weight.dtype)
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attention.qkv.weight,
            "self_attn.in_proj_bias": block.attention.qkv.bias,
            "self_attn.out_proj.weight": block.attention.out.weight,
            "self_attn.out_proj.bias": block.attention.out.bias,
            "linear1.weight": block.ffn.up.weight,
            "linear1.bias": block.ffn.up.bias,
            "linear2.weight": block.ffn.down.weight,
            "linear2.bias": block.ffn.down.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.ffn_norm.weight,
            "norm2.bias": block.ffn_norm.bias,
        }
    )
    return layer.train()


def random_block(**options):
    torch.manual_seed(0)
    block = Block(12, 3, 20, **options).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return block


X = torch.randn(3, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm_first", [False, True])
def test_agrees_with_torchs_layer(norm_first):
    block = random_block(norm_first=norm_first)
    torch.testing.assert_close(block(X).output, copy_to_torch(block, norm_first)(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_ffn_feature_is_the_branch_before_the_residual(norm_first):
    block = random_block(norm_first=norm_first, layer_scale=0.1)
    seen = []
    block.ffn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    result = block(X)
    torch.testing.assert_close(result.ffn, seen[0] * block.ffn_scale, rtol=0, atol=0)
    if norm_first:  # the output is the residual sum itself
        h = X + block.attention_scale * block.attention(block.attention_norm(X))
        torch.testing.assert_close(result.output, h + result.ffn, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("rows", [[], [4], [0, 6, 7, 13, 20], list(range(21))])
def test_rows_give_the_same_numbers_and_gradients(norm_first, rows):
    block = random_block(norm_first=norm_first)
    index = torch.tensor(rows, dtype=torch.int64)
    whole = block(X).output.flatten(0, 1)[index]
    some = block(X, rows=index).output
    torch.testing.assert_close(some, whole, rtol=0, atol=1e-12)
    parameters = list(block.parameters())
    for a, b in zip(
        torch.autograd.grad(some.square().sum(), parameters),
        torch.autograd.grad(whole.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_drop_path_drops_whole_samples_and_rescales():
    block = random_block(norm_first=True, drop_path=0.5)
    x = X[:1].expand(400, 7, 12)
    torch.manual_seed(3)
    out = block.train()(x).output - x
    block.eval()
    h = x[:1] + 2 * block.attention(block.attention_norm(x[:1]))
    first = [torch.zeros_like(x[:1]), h - x[:1]]
    choices = [a + factor * block.ffn(block.ffn_norm(x[:1] + a)) for a in first for factor in (0, 2)]
    distance = torch.stack([(out - choice).abs().amax((1, 2)) for choice in choices])
    assert distance.min(0).values.max() < 1e-10  # each sample is one of the four
    counts = (distance < 1e-10).sum(1)
    assert (counts > 60).all()
    assert counts.sum() == 400


def test_drop_path_is_the_same_for_rows():
    block = random_block(norm_first=True, drop_path=0.5).train()
    rows = torch.tensor([1, 8, 9, 20])
    torch.manual_seed(5)
    whole = block(X).output.flatten(0, 1)[rows]
    torch.manual_seed(5)
    torch.testing.assert_close(block(X, rows=rows).output, whole, rtol=0, atol=1e-12)


def test_eval_mode_has_no_noise():
    block = random_block(dropout=0.5, attention_dropout=0.5, activation_dropout=0.5, drop_path=0.5).eval()
    assert torch.equal(block(X).output, block(X).output)
    block.train()
    assert not torch.equal(block(X).output, block(X).output)


def test_drop_path_skips_whole_packed_sequences():
    torch.manual_seed(0)
    block = Block(8, 2, 16, drop_path=0.5, norm_first=True).train()
    packing = plan_packing(torch.tensor([7, 3, 5, 6, 2, 4]), 7, torch.device("cpu"), blocks)
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
