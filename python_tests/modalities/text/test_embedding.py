import torch

from d2v_fast.modalities.text.embedding import TokenEmbedding


def test_positions_are_counted_over_what_is_not_padding():
    torch.manual_seed(0)
    embed = TokenEmbedding(20, 6, pad_id=1, dim=4, norm_eps=1e-5).double()
    tokens = torch.tensor([[5, 7, 1, 9, 1, 1]])
    places = torch.tensor([[2, 3, 1, 4, 1, 1]])
    expected = embed.norm(embed.tokens.weight[tokens] + embed.positions.weight[places])
    torch.testing.assert_close(embed(tokens), expected, rtol=0, atol=0)
    assert embed.positions.weight.shape == (8, 4)
    embed(tokens).square().sum().backward()
    assert embed.tokens.weight.grad[1].eq(0).all()
    assert embed.positions.weight.grad[1].eq(0).all()
    assert embed.positions.weight.grad[2].ne(0).any()
