import numpy as np
import pytest
import torch

from d2v_fast.masking import SpanMask, span_masks


def spans(config: SpanMask, lengths, **options):
    options = {"seed": 1, "epoch": 0, "sample_ids": np.arange(len(lengths))} | options
    return span_masks(config, lengths, **options)


def test_masked_share_of_the_published_setting():
    mask = spans(SpanMask(probability=0.65, length=10), [999] * 3000).mask
    assert mask.float().mean().item() == pytest.approx(0.490, abs=0.001)
    # Rows are ragged: nothing is equalised over the batch.
    assert mask.sum(1).unique().numel() > 50


def test_number_of_spans_is_rounded_at_random():
    # Spans of one frame cannot overlap, so their number is seen: 0.5 * 25 = 12.5.
    masked = spans(SpanMask(probability=0.5, length=1), [25] * 4000).mask.sum(1)
    assert masked.unique().tolist() == [12, 13]
    assert (masked == 13).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_min_spans():
    mask = spans(SpanMask(probability=0.0, length=1, min_spans=3), [50] * 100).mask
    assert (mask.sum(1) == 3).all()
    assert spans(SpanMask(probability=0.0, length=1, min_spans=0), [50] * 100).rows.numel() == 0


@pytest.mark.parametrize("length", range(1, 25))
@pytest.mark.parametrize("config", [SpanMask(), SpanMask(probability=1.0, length=3, min_spans=50), SpanMask(length=40)])
def test_a_short_sequence_keeps_a_visible_frame(length, config):
    masked = spans(config, [length] * 200).mask.sum(1)
    assert masked.max() <= length - 1
    assert masked.float().mean() > 0 or length == 1


def test_the_visible_frame_of_a_wholly_covered_sequence_is_uniform():
    # Four frames, one span of eight: starts 0 (all covered, one frame uncovered) and 1 (frame 0 visible).
    mask = spans(SpanMask(probability=0.65, length=8), [4] * 8000).mask
    assert (mask.sum(1) == 3).all()
    share = (~mask).float().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.625, 0.125, 0.125, 0.125]), atol=0.02, rtol=0)


def test_padding_is_never_masked():
    lengths = torch.tensor([0, 1, 5, 12, 30, 60])
    mask = spans(SpanMask(), lengths, width=64).mask
    assert mask.shape == (6, 64)
    for row, length in zip(mask, lengths.tolist(), strict=True):
        assert not row[length:].any()
        assert row[:length].any() or length <= 1


def test_default_width_is_the_longest_length():
    assert spans(SpanMask(), [7, 30, 12]).mask.shape == (3, 30)
    assert spans(SpanMask(), [], width=30).mask.shape == (0, 30)
    assert spans(SpanMask(), []).mask.shape == (0, 0)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (SpanMask(), {"seed": -3}, "seed must be 0 or more and below 2.*63, not -3"),
        (SpanMask(), {"epoch": 0.5}, "epoch must be an integer, not 0.5"),
        (SpanMask(), {"views": 0}, "views must be 1 or more, not 0"),
        (SpanMask(), {"width": 19}, "lengths has an entry of 20, more than width = 19; pass the padded length"),
        (SpanMask(), {"sample_ids": [1, 2, 3]}, "lengths has 2 entries for 3 sample_ids"),
        (
            SpanMask(),
            {"sample_ids": np.array([1.0, 2.0])},
            r"sample_ids must be a list of integers, not float64 of shape \[2\]",
        ),
        (SpanMask(), {"sample_ids": torch.tensor([[1, 2]])}, r"sample_ids must be a list of integers.*\[1, 2\]"),
    ],
)
def test_errors_name_the_argument(config, options, message):
    with pytest.raises(ValueError, match=message):
        spans(config, [20, 10], **options)


def test_negative_length():
    with pytest.raises(ValueError, match="lengths must be 0 or more, not -1"):
        spans(SpanMask(), [4, -1])
