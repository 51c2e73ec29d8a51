"""RandAugment and erasing: pure functions of (seed, epoch, sample id), and operations that do what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2v_fast.data.config import LoaderConfig
from d2v_fast.errors import ConfigError
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.randaugment import OPERATIONS, draw_erased, draw_operations, erase_, operated
from d2v_fast.modalities.vision.sampling import PictureSampling

GREY = (0.5, 0.5, 0.5)
IDS = np.arange(4000)


@pytest.fixture
def picture():
    return torch.randint(0, 256, (3, 16, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def done(picture, name, level=0.9, sign=1):
    number = list(OPERATIONS).index(name)
    return operated(picture, np.array([[number, level, sign]], dtype=float), GREY[: len(picture)])


def test_what_is_drawn():
    drawn = draw_operations(2, 9.0, IDS, seed=3, epoch=1)
    assert drawn.shape == (4000, 2, 3)
    assert (drawn[..., 0] == -1).mean() == pytest.approx(0.5, abs=0.03)
    counts = np.bincount(drawn[..., 0][drawn[..., 0] >= 0].astype(int), minlength=len(OPERATIONS))
    assert counts.min() > 0.7 * counts.mean()
    assert len(counts) == 15
    levels = draw_operations(2, 5.0, IDS, seed=3, epoch=1)[..., 1]
    assert levels.mean() == pytest.approx(0.5, abs=0.005)
    assert levels.std() == pytest.approx(0.05, rel=0.1)  # half a point of ten
    assert drawn[..., 1].max() <= 1
    assert drawn[..., 2].mean() == pytest.approx(0, abs=0.05)
    assert np.array_equal(draw_operations(2, 9.0, IDS[7:9], seed=3, epoch=1), drawn[7:9])
    assert not np.array_equal(draw_operations(2, 9.0, IDS, seed=3, epoch=2), drawn)
    assert not np.array_equal(draw_operations(2, 9.0, IDS, seed=4, epoch=1), drawn)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_a_picture(picture, name, channels):
    given = picture[:channels]
    before = given.clone()
    for level in (0.0, 0.05, 0.5, 1.0):
        for sign in (1, -1):
            result = done(given, name, level, sign)
            assert (result.dtype, result.shape) == (torch.uint8, given.shape)
    assert torch.equal(given, before)


def test_operations_written_out(picture):
    assert torch.equal(done(picture, "invert"), 255 - picture)
    assert torch.equal(done(picture, "posterize", 0.9), picture & 0b10000000)  # 4 - 3 bits
    assert torch.equal(done(picture, "posterize", 0.3), picture & 0b11100000)
    solarized = torch.where(picture >= 128, 255 - picture, picture)
    assert torch.equal(done(picture, "solarize", 0.5), solarized)
    assert torch.equal(done(picture, "solarize", 0.0), picture)
    added = torch.where(picture < 128, (picture.int() + 55).clamp(max=255).to(torch.uint8), picture)
    assert torch.equal(done(picture, "solarize_add", 0.5), added)
    dark = picture.float() * (1 - 0.9 * 0.5)
    assert (done(picture, "brightness", 0.5, -1).float() - dark).abs().max() <= 1
    assert done(picture, "color", 1.0, -1).float().std(0).mean() < 0.2 * picture.float().std(0).mean()
    moved = done(picture, "translate_x", 0.5, 1)
    assert torch.equal(moved[:, :, 4:], picture[:, :, :-4])  # .45 * .5 of 20
    assert (moved[:, :, :4].float() - 127.5).abs().max() <= 1
    up = done(picture, "translate_y", 0.5, -1)
    assert torch.equal(up[:, :-4], picture[:, 4:])
    ramp = (torch.arange(20) * 10).to(torch.uint8).expand(3, 16, 20).contiguous()
    sheared = done(ramp, "shear_x", 1.0, -1)  # a row moves by .3 of a pixel more than the one above
    assert (sheared[0, :, 8].float() - 80 + 3 * (torch.arange(16) + 0.5)).abs().max() <= 1
    assert torch.equal(operated(picture, np.array([[-1, 0.9, 1]]), GREY), picture)


def test_the_operations_are_those_of_timm(picture):
    """What is drawn is ours; with the same level the pixels are those of the library that named the recipe."""
    timm = pytest.importorskip("timm.data.auto_augment", reason="timm is not installed (extra export)")
    from PIL import Image

    levels = {"posterize": timm._posterize_increasing_level_to_arg, "solarize": timm._solarize_increasing_level_to_arg}
    levels["solarize_add"] = timm._solarize_add_level_to_arg
    functions = {"invert": timm.invert, "autocontrast": timm.auto_contrast, "posterize": timm.posterize}
    functions |= {"solarize": timm.solarize, "solarize_add": timm.solarize_add, "equalize": timm.equalize}
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    for name, function in functions.items():
        arguments = levels[name](9.0, {}) if name in levels else ()
        theirs = torch.from_numpy(np.asarray(function(image, *arguments)).copy()).permute(2, 0, 1)
        difference = (done(picture, name).int() - theirs.int()).abs().max()
        assert difference <= (1 if name in ("autocontrast", "equalize") else 0), name


def test_erased_boxes():
    drawn = draw_erased(0.25, 32, IDS, seed=3, epoch=1)
    erased = drawn[drawn[:, 2] > 0]
    assert len(erased) / 4000 == pytest.approx(0.25, abs=0.03)
    areas = erased[:, 2] * erased[:, 3] / 32**2
    assert 0.01 < areas.min() < 0.05
    assert 0.3 < areas.max() < 0.37
    assert (erased[:, 0] + erased[:, 2]).max() <= 32
    assert np.array_equal(draw_erased(0.25, 32, IDS[9:10], seed=3, epoch=1), drawn[9:10])
    image, again = torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)
    erase_(image, np.array([4, 6, 10, 8, 77]))
    erase_(again, np.array([4, 6, 10, 8, 77]))
    assert torch.equal(image, again)
    box = image[:, 4:14, 6:14]
    assert box.std() == pytest.approx(1, abs=0.2)
    assert (image != 0).sum() == box.numel()
    erase_(again, np.array([0, 0, 0, 0, 5]))
    assert torch.equal(image, again)


def test_a_row_of_a_batch():
    """Other epochs change a picture in other ways, the same epoch in the same way, and torch's generator not at all."""
    inputs = VisionInputs(randaugment=2, erase=0.5, jitter=0.0, crop_scale=(1, 1), flip=0.0)
    sampling, plain = (
        PictureSampling(inputs, 16),
        PictureSampling(VisionInputs(jitter=0.0, crop_scale=(1, 1), flip=0.0), 16),
    )
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    sizes, ids = np.full((8, 2), 16), np.arange(8)
    sampling.budget(LoaderConfig(), 16)

    def rows(made, epoch):
        details = made.draw(sizes, ids, 16, 1, epoch)
        out = torch.empty(made.rows(details, 8)[0])
        for i in range(8):
            made.write(out[i], picture, details, i, sizes[i], "picture")
        return out

    state = torch.random.get_rng_state()
    first = rows(sampling, 0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, rows(sampling, 0))
    assert not torch.equal(first, rows(sampling, 1))
    untouched = rows(plain, 0)
    changed = [not torch.equal(a, b) for a, b in zip(first, untouched, strict=True)]
    assert 4 <= sum(changed) <= 8
    assert torch.isfinite(first).all()


def test_values_that_cannot_be_used():
    with pytest.raises(ConfigError, match=r"inputs\.randaugment_magnitude is 30\.0, but it must be between 0 and 10"):
        VisionInputs(randaugment_magnitude=30)
    with pytest.raises(ConfigError, match=r"inputs\.randaugment is 2, but it must be 0 but for 1 or 3 channels"):
        VisionInputs(randaugment=2, mean=(0.1,) * 5, std=(1.0,) * 5)
    with pytest.raises(ConfigError, match=r"inputs\.erase is 1\.5, but it must be between 0 and 1"):
        VisionInputs(erase=1.5)
