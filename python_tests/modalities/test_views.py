"""Several masked views of a sample, with what is kept: from the configuration of each modality to its batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.masking import FixedSpanMask, InverseBlockMask, RandomMask, SpanMask
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.models import DecoderConfig, token_count
from d2v_fast.report import samples

DECODER = DecoderConfig(dim=32, layers=1, kernel=3, groups=4)
MASKS = {
    "speech": FixedSpanMask(length=3, views=3),
    "series": FixedSpanMask(length=3, views=3),
    "vision": InverseBlockMask(ratio=0.6, block=2, views=3),
    "spectrogram": InverseBlockMask(ratio=0.6, block=2, views=3),
    "text": RandomMask(views=3),
}


@pytest.fixture
def second(make_config):
    """(modality, **overrides) to a tiny configuration of data2vec 2.0."""

    def make(modality, **overrides):
        return make_config(modality, **{"model.head": DECODER, "mask": MASKS[modality]} | overrides)

    return make


def first_step(config, data):
    source = open_data(data, config, None)
    with open_loader(config, source) as loader:
        return loader.step(0)


@pytest.mark.parametrize("modality", MASKS)
def test_every_view_is_masked_on_its_own_and_the_rest_is_kept(second, make_data, modality):
    config = second(modality)
    for batch in first_step(config, make_data(modality)):
        width = batch.mask.shape[1]
        tokens = torch.full((len(batch.inputs),), width)
        if batch.lengths is not None:
            tokens = token_count(config.model, batch.lengths)
        assert batch.views == 3
        assert batch.mask.shape[0] == 3 * len(batch.inputs)
        assert batch.masked_inputs is None
        valid = torch.arange(width) < tokens[:, None].repeat_interleave(3, 0)
        assert torch.equal(batch.kept, (valid & ~batch.mask).flatten().nonzero()[:, 0])
        assert torch.equal(batch.rows, batch.mask.flatten().nonzero()[:, 0])
        by_sample = batch.mask.view(-1, 3, width)
        counts = by_sample.sum(2)
        assert (counts == counts[:, :1]).all()  # of one length, so exactly as many in each view
        assert (counts > 0).all()
        assert all(len({view.numpy().tobytes() for view in views}) > 1 for views in by_sample)


@pytest.mark.parametrize("modality", MASKS)
def test_the_first_view_does_not_hang_on_the_others(second, make_data, modality):
    few, many = (first_step(second(modality, **{"mask.views": v}), make_data(modality))[0] for v in (1, 4))
    assert torch.equal(many.mask[::4], few.mask)
    assert few.views == 1
    assert few.kept is not None


@pytest.mark.parametrize("modality", MASKS)
def test_views_without_a_decoder_keep_nothing(make_config, make_data, modality):
    batch = first_step(make_config(modality, **{"mask.views": 2}), make_data(modality))[0]
    assert batch.views == 2
    assert batch.kept is None
    assert (batch.masked_inputs is not None) == (modality == "text")


def test_spans_of_either_kind_hide_all_bands_of_a_spectrogram(second, make_data):
    for mask in (FixedSpanMask(length=2, views=2), SpanMask(length=1, views=2)):
        config = second("spectrogram", mask=mask)
        for batch in first_step(config, make_data("spectrogram")):
            grid = batch.mask.view(2 * len(batch.inputs), -1, config.model.embedding.bands)
            assert (grid == grid[:, :, :1]).all()
            assert grid.any()


@pytest.mark.parametrize("modality", MASKS)
def test_views_are_drawn(second, make_data, modality):
    config = second(modality, **{"mask.views": 6})
    seen = samples.drawing(open_data(make_data(modality), config, None), config, 2)
    assert seen.title.endswith(", 6 views of each, the first 4 shown")
    masks = [row.panels[0].mask for row in seen.rows if row.panels[0].mask is not None]
    assert len(masks) % 4 == 0
    assert len({mask.tobytes() for mask in masks[:4]}) > 1
    pair = samples.drawing(
        open_data(make_data(modality), config, None), replace(config, mask=replace(config.mask, views=1)), 2
    )
    assert "views" not in pair.title


@pytest.mark.parametrize(
    ("modality", "overrides", "message"),
    [
        ("vision", {"mask.views": 0}, r"mask\.views is 0, but it must be 1 to 1024"),
        ("speech", {"mask.ratio": 1.0}, r"mask\.ratio is 1\.0, .* below 1, or nothing would be kept"),
        ("speech", {"mask.ratio": 0.0}, r"mask\.ratio is 0\.0, .* above 0, or nothing would be masked"),
        ("text", {"mask.ratio": 0.0}, r"mask\.ratio is 0\.0, .* above 0, or nothing would be masked"),
        ("text", {"mask.ratio": 0.999}, r"of the 16 tokens of a block nothing would be kept"),
        ("speech", {"mask.ratio": 0.01}, r"of the 9 frames of the shortest clip .* nothing would be masked"),
        ("speech", {"mask.length": 10}, r"mask\.length is 10, but the shortest clip .* has only 9 frames"),
        ("series", {"mask.length": 40}, r"mask\.length is 40, but the shortest clip .* has only 4 frames"),
        (
            "spectrogram",
            {"mask.block": 5},
            r"mask\.block is 5, but the grid of the shortest clip .* only 2 x 4 patches",
        ),
        ("vision", {"mask.block": 5}, r"mask\.block is 5, but the grid of the model has only 4 x 4 patches"),
        ("text", {"mask": {"kind": "TokenMask"}}, "use a RandomMask"),
        (
            "vision",
            {"mask": {"kind": "BlockMask", "count": 16, "min_area": 4}},
            r"count is 16, all .* nothing would be",
        ),
        (
            "speech",
            {"mask": {"kind": "SpanMask", "length": 9}},
            r"the 9 frames .* nothing would be kept.* FixedSpan",
        ),
        ("vision", {"mask.ratio": 1.0}, r"mask\.ratio is 1\.0: of the 16 patches of the model nothing would be kept"),
        ("vision", {"mask.ratio": 0.0}, r"of the 16 patches of the model nothing would be masked"),
        ("spectrogram", {"mask.ratio": 0.99}, r"of the 8 patches of the shortest clip .* nothing would be kept"),
        ("vision", {"model.embedding.image_size": 9}, r"model\.embedding\.image_size is 9, .* a multiple of"),
        ("spectrogram", {"model.embedding.bins": 31}, r"model\.embedding\.bins is 31, .* a multiple of"),
        ("vision", {"model.head.groups": 5}, r"model\.head\.groups is 5, .* a divisor of model\.head\.dim"),
        ("text", {"model.head.kernel": 0}, r"model\.head\.kernel is 0"),
        ("speech", {"model.loss.class_token": 1.0}, r"model\.loss\.class_token is 1\.0, but there is no token"),
    ],
)
def test_bad_masks_are_refused_before_anything_is_read(second, modality, overrides, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(second(modality), overrides)


def test_tokens_are_left_out_only_where_the_student_encodes_the_rest(make_config):
    with pytest.raises(ConfigError, match=r"RandomMask, which leaves tokens out, but model\.head is a HeadConfig"):
        make_config("text", mask=RandomMask())
