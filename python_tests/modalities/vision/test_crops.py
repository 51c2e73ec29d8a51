"""How pictures are cut, mirrored and coloured: crops, flips and factors of the plan."""

from __future__ import annotations

import numpy as np
import pytest
from loading import make_plan, sampling_of

from d2v_fast.data import LoaderConfig
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.crops import crop_boxes


def plan_pictures(sizes, ids, inputs, seed, epoch):
    return sampling_of(inputs, 16).draw(sizes, ids, 0, seed, epoch)


def sizes_of(*pairs, repeat=500):
    return np.array(pairs * repeat, dtype=np.int64)


def boxes_of(sizes, inputs, epoch=0):
    return plan_pictures(sizes, np.arange(len(sizes)), inputs, 0, epoch).boxes


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2), (224, 224), (375, 500), (3000, 200)])
def test_boxes_lie_within_the_picture(size):
    sizes = sizes_of(size)
    top, left, height, width = boxes_of(sizes, VisionInputs()).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()


def test_boxes_have_the_areas_ratios_and_places_of_the_recipe():
    sizes = sizes_of((400, 400), repeat=20_000)
    top, left, height, width = boxes_of(sizes, VisionInputs()).T.astype(float)
    share, ratio = height * width / 160_000, width / height
    assert 0.078 < share.min() < 0.09
    assert 0.99 < share.max() <= 1
    assert abs(np.log(ratio).mean()) < 0.005
    assert ratio.min() == pytest.approx(3 / 4, abs=0.01)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.01)
    small = share < 0.4  # these always fit, so their area is uniform
    assert share[small].mean() == pytest.approx(0.24, abs=0.005)
    for place, room in ((top, 400 - height), (left, 400 - width)):
        inner = room > 50
        relative = place[inner] / room[inner]
        assert relative.mean() == pytest.approx(0.5, abs=0.01)
        assert relative.std() == pytest.approx(12**-0.5, abs=0.01)
        assert relative.min() == 0
        assert relative.max() == 1


def test_boxes_have_torchvisions_distribution():
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, 100, 160)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(8000)])
    ours = boxes_of(sizes_of((100, 160), repeat=8000), VisionInputs())
    for column in range(4):
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            a, b = np.quantile(ours[:, column], quantile), np.quantile(theirs[:, column], quantile)
            assert abs(a - b) <= 2.5, (column, quantile)


@pytest.mark.parametrize(("size", "box"), [((100, 1000), (0, 433, 100, 133)), ((1000, 100), (433, 0, 133, 100))])
def test_the_middle_is_taken_where_nothing_fits(size, box):
    found = crop_boxes(sizes_of(size, repeat=3), np.full((3, 22), 0.999), (1.0, 1.0), (3 / 4, 4 / 3))
    assert found.tolist() == [list(box)] * 3


def test_scale_one_takes_the_whole_picture():
    sizes = sizes_of((20, 300), (8, 8), repeat=3)
    boxes = boxes_of(sizes, VisionInputs(crop_scale=(1, 1)))
    assert boxes.tolist() == [[0, 0, 20, 300], [0, 0, 8, 8]] * 3


def test_flips_and_colours():
    ids = np.arange(20_000)
    sizes = np.full((20_000, 2), 8)
    plan = plan_pictures(sizes, ids, VisionInputs(flip=0.3, jitter=0.4), 0, 0)
    assert plan.flips.mean() == pytest.approx(0.3, abs=0.015)
    assert plan.colours.shape == (20_000, 3)
    assert plan.colours.min() == pytest.approx(0.6, abs=1e-3)
    assert plan.colours.max() == pytest.approx(1.4, abs=1e-3)
    assert abs(np.corrcoef(np.c_[plan.colours, plan.flips], rowvar=False) - np.eye(4)).max() < 0.03
    assert not plan_pictures(sizes, ids, VisionInputs(flip=0), 0, 0).flips.any()
    assert plan_pictures(sizes, ids, VisionInputs(flip=1), 0, 0).flips.all()
    assert plan_pictures(sizes, ids, VisionInputs(jitter=2), 0, 0).colours.min() >= 0


def test_draws_belong_to_the_sample_and_the_epoch():
    sizes, ids = np.full((50, 2), 100), np.arange(50)
    whole = plan_pictures(sizes, ids, VisionInputs(), 0, 3)
    part = plan_pictures(sizes[:7], ids[10:17], VisionInputs(), 0, 3)
    assert np.array_equal(whole.boxes[10:17], part.boxes)
    assert np.array_equal(whole.colours[10:17], part.colours)
    for seed, epoch in ((0, 4), (1, 3)):
        assert not np.array_equal(plan_pictures(sizes, ids, VisionInputs(), seed, epoch).boxes, whole.boxes)


def test_an_unreadable_picture_keeps_its_place():
    sizes = sizes_of((50, 60), repeat=20)
    broken = sizes.copy()
    broken[7] = 0
    config = LoaderConfig(batch_size=5)
    plans = [make_plan(s, np.arange(20), VisionInputs(), config, 0) for s in (sizes, broken)]
    for k in range(8):
        whole, with_hole = (plan.batch(k) for plan in plans)
        assert np.array_equal(whole.ids, with_hole.ids)
        others = whole.ids != 7
        assert np.array_equal(whole.details.boxes[others], with_hole.details.boxes[others])
