import numpy as np
import pytest
import torch

from d2v_fast.masking import TokenMask, token_masks

SPANS = TokenMask(probability=0.35, length=4, keep=0.0, random=0.0)


def mask_tokens(config: TokenMask, tokens: torch.Tensor, lengths=None, **options):
    options = {"seed": 1, "epoch": 0, "sample_ids": np.arange(len(tokens))} | options
    options = {"mask_id": 4, "vocab_size": 100, "special_ids": [0, 1, 2, 3, 4]} | options
    return token_masks(config, tokens, lengths, **options)


def texts(n: int, length: int) -> torch.Tensor:
    return torch.randint(5, 100, (n, length), generator=torch.Generator().manual_seed(1))


def test_selected_share_of_the_published_setting():
    result = mask_tokens(SPANS, texts(3000, 512))
    assert result.mask.float().mean().item() == pytest.approx(0.306, abs=0.002)
    assert (result.inputs[result.mask] == 4).all()


def test_shares_of_masked_kept_and_random_tokens():
    tokens = texts(2000, 512)
    result = mask_tokens(TokenMask(probability=0.15, length=1, keep=0.1, random=0.2), tokens)
    assert result.mask.sum(1).unique().tolist() == [76, 77]  # 0.15 * 512 = 76.8
    masked = (result.inputs == 4)[result.mask].float().mean().item()
    same = (result.inputs == tokens)[result.mask].float().mean().item()
    assert masked == pytest.approx(0.7, abs=0.005)
    assert same == pytest.approx(0.1 + 0.2 / 95, abs=0.004)  # one random token in 95 is the old one


def test_random_tokens_are_uniform_over_the_ids_that_are_not_special():
    tokens = torch.full((1000, 256), 7)
    config = TokenMask(probability=0.5, length=1, keep=0.0, random=1.0)
    # The mask token is not drawn, whether it is listed as special or not; ids outside the vocabulary say nothing.
    drawn = mask_tokens(config, tokens, vocab_size=20, mask_id=11, special_ids=[0, 3, 19, 3, 25, -1])
    counts = torch.bincount(drawn.inputs[drawn.mask], minlength=20)
    allowed = torch.tensor([i not in (0, 3, 11, 19) for i in range(20)])
    assert (counts[~allowed] == 0).all()
    expected = counts.sum() / 16
    assert ((counts[allowed] - expected) ** 2 / expected).sum() < 45  # chi-square, 15 degrees of freedom


def test_random_tokens_may_be_those_of_the_same_sequence():
    """As often as they are there, the same ones in any batch, and nothing else changes."""
    lengths = torch.tensor([200, 256] * 500)
    tokens = torch.where(torch.arange(256) < 64, 5, 6).repeat(1000, 1) + 2 * (torch.arange(1000) % 2)[:, None]
    tokens[torch.arange(256) >= lengths[:, None]] = 1
    usual = TokenMask(probability=0.5, keep=0.2, random=0.6)
    config = TokenMask(probability=0.5, keep=0.2, random=0.6, random_from="sequence")
    drawn, other = (mask_tokens(one, tokens, lengths, views=2) for one in (config, usual))
    assert drawn.mask.equal(other.mask)
    source = tokens.repeat_interleave(2, 0)
    replaced = drawn.mask & (other.inputs != 4) & (other.inputs != source)
    assert drawn.inputs[~replaced].equal(other.inputs[~replaced])
    for row, (low, high, share) in enumerate(((5, 6, 64 / 200), (7, 8, 64 / 256))):
        found = drawn.inputs[row * 2 :: 4][replaced[row * 2 :: 4]]
        assert set(found.tolist()) == {low, high}
        assert (found == low).float().mean().item() == pytest.approx(share, abs=0.01)
    alone = mask_tokens(config, tokens[7:8], lengths[7:8], views=2, sample_ids=np.array([7]))
    assert alone.inputs.equal(drawn.inputs[14:16])


def test_every_valid_position_can_be_selected_and_padding_never_is():
    tokens = texts(400, 24)
    lengths = torch.tensor([24, 10, 1, 0] * 100)
    result = mask_tokens(SPANS, tokens, lengths)
    for length in (24, 10, 1):
        rows = result.mask[lengths == length]
        assert rows[:, :length].any(0).all()  # the first and the last token (<s> and </s>) as well
        assert not rows[:, length:].any()
    assert not result.mask[lengths == 0].any()


def test_only_selected_tokens_change():
    tokens = texts(50, 64)
    result = mask_tokens(TokenMask(probability=0.3, length=2, keep=0.2, random=0.3), tokens, views=3)
    assert result.mask.shape == result.inputs.shape == (150, 64)
    repeated = tokens.repeat_interleave(3, 0)
    assert torch.equal(result.inputs[~result.mask], repeated[~result.mask])
    kept = (result.inputs == repeated) & result.mask
    assert kept.any()  # kept tokens are among the rows
    assert torch.equal(result.rows, result.mask.flatten().nonzero()[:, 0])


def test_probability_0_and_1():
    tokens = texts(20, 30)
    nothing = mask_tokens(TokenMask(probability=0.0), tokens)
    assert nothing.rows.numel() == 0
    assert torch.equal(nothing.inputs, tokens)
    assert mask_tokens(TokenMask(probability=1.0), tokens).mask.all()


def test_tokens_need_not_be_contiguous():
    wide = texts(64, 40)
    expected = mask_tokens(SPANS, wide[:, ::2].contiguous())
    assert torch.equal(mask_tokens(SPANS, wide[:, ::2]).inputs, expected.inputs)


@pytest.mark.parametrize("shape", [(0, 12), (3, 0)])
def test_empty(shape):
    result = mask_tokens(SPANS, torch.empty(shape, dtype=torch.int64))
    assert result.mask.shape == result.inputs.shape == shape
    assert result.rows.numel() == 0


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (TokenMask(), {"mask_id": 100}, "mask_id must be below vocab_size = 100, not 100"),
        (
            TokenMask(),
            {"mask_id": 0, "vocab_size": 2, "special_ids": [1]},
            "all 2 ids of the vocabulary are special; set it to 0",
        ),
        (TokenMask(), {"sample_ids": [1]}, "lengths has 2 entries for 1 sample_ids"),
        (TokenMask(), {"seed": 2**63}, "seed must be 0 or more and below"),
    ],
)
def test_errors_name_the_argument(config, options, message):
    with pytest.raises(ValueError, match=message):
        mask_tokens(config, texts(2, 8), **options)


def test_errors_of_tokens_and_lengths():
    with pytest.raises(ValueError, match=r"tokens must be int64 \[B, T\] on the CPU, not torch.int32 \[2, 8\] on cpu"):
        mask_tokens(TokenMask(), texts(2, 8).int())
    with pytest.raises(ValueError, match="lengths has an entry of 9, more than width = 8"):
        mask_tokens(TokenMask(), texts(2, 8), torch.tensor([8, 9]))
    with pytest.raises(ValueError, match="lengths has 3 entries"):
        mask_tokens(TokenMask(), texts(2, 8), torch.tensor([8, 8, 8]))
    with pytest.raises(ValueError, match="lengths has 3 entries for 2 rows of tokens"):
        mask_tokens(TokenMask(), texts(2, 8), torch.tensor([8, 8, 8]), sample_ids=[1, 2, 3])
