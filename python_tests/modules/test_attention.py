import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modules.attention import Attention


def written_out(module, x, bias=None):
    """Softmax attention by definition, in float64."""
    n, s, c = x.shape
    heads = module.heads
    weight = module.qkv.weight
    b = module.qkv.bias
    if b is None:
        b = torch.cat([module.q_bias, torch.zeros_like(module.q_bias), module.v_bias])
    q, k, v = ((x @ weight.T + b).view(n, s, 3, heads, c // heads).permute(2, 0, 3, 1, 4)).unbind(0)
    scores = q @ k.transpose(-1, -2) / (c // heads) ** 0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, s, c)
    return F.linear(out, module.out.weight, module.out.bias)


@pytest.mark.parametrize("key_bias", [True, False])
@pytest.mark.parametrize("kind", ["none", "padding", "positions"])
def test_is_softmax_attention(key_bias, kind):
    torch.manual_seed(0)
    module = Attention(12, 3, key_bias=key_bias).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    bias = None
    if kind == "padding":
        bias = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None, :]
    if kind == "positions":
        bias = torch.randn(1, 3, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x, bias), written_out(module, x, bias), rtol=0, atol=1e-12)


def test_padded_keys_change_nothing():
    torch.manual_seed(0)
    module = Attention(8, 2)
    x = torch.randn(1, 6, 8)
    short = module(x[:, :4])
    valid = (torch.arange(6) < 4)[None, None, None, :]
    torch.testing.assert_close(module(x, valid)[:, :4], short, rtol=1e-5, atol=1e-6)


def test_without_key_bias_has_the_two_others():
    names = {name for name, _ in Attention(8, 2, key_bias=False).named_parameters()}
    assert names == {"qkv.weight", "q_bias", "v_bias", "out.weight", "out.bias"}


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match=r"transformer.dim 10 .* transformer.heads 3"):
        Attention(10, 3)
