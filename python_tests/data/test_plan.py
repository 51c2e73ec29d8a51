from __future__ import annotations

import numpy as np
import pytest
from loading import make_computed_plan, make_plan
from plans import RATE, SPEECH, epoch_ids, lognormal

from d2v_fast.data import DataError, LoaderConfig
from d2v_fast.data.plan import VALIDATION_EPOCH
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PicturePlan
from d2v_fast.modalities.windows import WindowPlan


@pytest.fixture(autouse=True, params=["older", "computed"])
def rules(request, monkeypatch):
    """What every plan keeps, that of older runs and that of new ones."""
    if request.param == "computed":
        monkeypatch.setitem(globals(), "make_plan", make_computed_plan)


def spans(batch):
    """What is used of each sample: samples of clips, tokens of texts."""
    return batch.details.windows if isinstance(batch.details, WindowPlan) else batch.details.counts


def text_plan(count, batch_size, seed=0, ids=None, **config):
    ids = np.arange(count) if ids is None else ids
    config = LoaderConfig(batch_size=batch_size, **config)
    return make_plan(np.full(count, 64), ids, TextInputs(block_size=64), config, seed)


def document_plan(sizes, seed=0, **config):
    inputs = TextInputs(block_size=512, packed=False)
    return make_plan(sizes, np.arange(len(sizes)), inputs, LoaderConfig(batch_size=1000, **config), seed)


def speech_plan(sizes, seed=0, **config):
    return make_plan(sizes, np.arange(len(sizes)), SPEECH, LoaderConfig(**config), seed)


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(10, 3, 3), (9, 3, 3), (7, 7, 1), (5, 8, 1), (1, 1, 1)])
def test_every_sample_at_most_once_and_equal_batches(count, batch_size, batches):
    plan = text_plan(count, batch_size)
    assert plan.batches_per_epoch == batches
    for epoch in range(3):
        found = epoch_ids(plan, epoch)
        assert {len(ids) for ids in found} == {min(batch_size, count)}
        assert len(set(np.concatenate(found))) == batches * min(batch_size, count)


def test_the_remainder_and_the_order_change_with_the_epoch():
    plan = text_plan(103, 10)
    left = {frozenset(set(range(103)) - set(np.concatenate(epoch_ids(plan, epoch)))) for epoch in range(8)}
    assert len(left) == 8
    assert all(len(three) == 3 for three in left)
    assert len({tuple(plan.batch(10 * epoch).ids) for epoch in range(8)}) == 8


def test_batches_are_a_pure_function_of_their_number():
    numbers = [57, 3, 4, 31, 3, 99, 0, 57]
    plan = text_plan(50, 7)
    for number in numbers:
        fresh = text_plan(50, 7).batch(number)
        again = plan.batch(number)
        assert again.epoch == fresh.epoch == number // 7
        assert np.array_equal(again.ids, fresh.ids)
    assert not np.array_equal(text_plan(50, 7, seed=1).batch(3).ids, plan.batch(3).ids)


@pytest.mark.parametrize("seed", range(40))
def test_epochs_of_any_data(seed):
    """Random sizes, budgets and steps: what every plan keeps."""
    draw = np.random.default_rng(seed)
    count, accumulation = int(draw.integers(1, 120)), int(draw.integers(1, 5))
    sizes = draw.integers(1 * RATE, 30 * RATE, count) if seed % 2 else draw.integers(2, 513, count)
    config = {"batch_size": int(draw.integers(1, 40)), "accumulation": accumulation}
    if seed % 2:
        config |= {"pad": bool(seed & 2)} | ({"batch_seconds": float(draw.integers(5, 90))} if seed & 4 else {})
    elif seed & 4:
        config |= {"batch_tokens": int(draw.integers(512, 4096))}
    inputs = SPEECH if seed % 2 else TextInputs(packed=False)
    ids = np.sort(draw.choice(count, int(draw.integers(1, count + 1)), replace=False))
    plan = make_plan(sizes, ids, inputs, LoaderConfig(**config), seed)
    n, seen = plan.batches_per_epoch, set()
    assert n % accumulation == 0 or n < accumulation
    budget = config.get("batch_tokens") or config.get("batch_seconds", np.inf) * RATE
    for epoch in range(40):
        batches = [plan.batch(epoch * n + k) for k in range(n)]
        used = np.concatenate([batch.ids for batch in batches])
        assert len(set(used)) == len(used) > 0
        assert max(len(batch.ids) for batch in batches) <= config["batch_size"]
        assert max(len(batch.ids) * batch.details.width for batch in batches) <= budget
        assert min(spans(batch).min() for batch in batches) >= 1
        seen |= set(used)
    assert seen == set(ids)  # nobody is left out for good


def test_only_the_given_samples_are_used():
    ids = np.array([3, 5, 8, 13, 21, 34])
    assert set(np.concatenate(epoch_ids(text_plan(40, 2, ids=ids), 0))) == set(ids.tolist())


def test_no_samples():
    with pytest.raises(DataError, match="no samples are left"):
        text_plan(3, 2, ids=np.arange(0))


def test_an_epoch_is_made_of_whole_steps():
    plan = text_plan(100, 9, accumulation=4)  # eleven micro-batches, two steps
    assert plan.batches_per_epoch == 8
    for epoch in range(3):
        ids = np.concatenate(epoch_ids(plan, epoch))
        assert len(set(ids)) == len(ids) == 72
        assert {plan.batch(m).epoch for n in (2 * epoch, 2 * epoch + 1) for m in plan.step(n)} == {epoch}
    left = [set(range(100)) - set(np.concatenate(epoch_ids(plan, epoch))) for epoch in range(3)]
    assert left[0] != left[1] != left[2]


def test_a_step_larger_than_the_data_takes_several_epochs():
    plan = text_plan(10, 4, accumulation=5)  # two micro-batches in an epoch
    assert plan.batches_per_epoch == 2
    assert [plan.batch(m).epoch for m in plan.step(0)] == [0, 0, 1, 1, 2]


def few_clips(**config):
    return speech_plan(lognormal(300), batch_seconds=60, batch_size=100, **config)


# speech


def test_batches_without_a_budget_are_cut_to_the_shortest():
    sizes = lognormal(40)
    plan = speech_plan(sizes, batch_size=8)
    for k in range(plan.batches_per_epoch):
        batch = plan.batch(k)
        assert batch.details.width == min(sizes[batch.ids].min(), 20 * RATE)
        assert (batch.details.starts >= 0).all()
        assert (batch.details.starts + batch.details.width <= sizes[batch.ids]).all()


def test_windows_reach_every_place():
    plan = speech_plan(np.array([2000, 2010]), batch_size=2)
    starts = [{}, {}]
    for number in range(400):
        batch = plan.batch(number)
        for sample, start in zip(batch.ids, batch.details.starts, strict=True):
            starts[sample][int(start)] = True
    assert set(starts[0]) == {0}
    assert set(starts[1]) == set(range(11))


def test_long_clips_give_windows_of_the_longest_length():
    plan = speech_plan(np.array([50_000] * 4), batch_size=4)
    assert plan.batch(0).details.width == 20_000
    assert len(set(plan.batch(0).details.starts)) == 4


def cut_share(plan, sizes, epoch):
    """Share of the sound that is lost because a batch has the length of its shortest clip."""
    used, whole = 0, 0
    for number in range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch):
        batch = plan.batch(number)
        used += batch.details.width * len(batch.ids)
        whole += np.minimum(sizes[batch.ids], 20 * RATE).sum()
    return 1 - used / whole


def test_a_budget_brings_clips_of_equal_length_together():
    sizes = lognormal(2000)
    plan = speech_plan(sizes, batch_seconds=120, batch_size=1000)
    assert max(cut_share(plan, sizes, epoch) for epoch in range(3)) < 0.03
    assert cut_share(speech_plan(sizes, batch_size=13), sizes, 0) > 0.25
    for epoch in range(3):
        found = epoch_ids(plan, epoch)
        ids = np.concatenate(found)
        assert len(set(ids)) == len(ids)
        assert len(ids) > 0.98 * len(sizes)
        sound = [plan.batch(epoch * plan.batches_per_epoch + k) for k in range(plan.batches_per_epoch)]
        seconds = np.array([len(b.ids) * b.details.width / RATE for b in sound])
        assert seconds.max() <= 120
        assert seconds.min() > 50  # the batch of the shortest clips
        assert np.median(seconds) > 110


def padding_share(plan, epoch):
    """Share of the rows that is padding."""
    valid, whole = 0, 0
    for number in range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch):
        batch = plan.batch(number)
        valid += spans(batch).sum()
        whole += batch.details.width * len(spans(batch))
    return 1 - valid / whole


def test_padding_is_little_with_a_budget_and_much_without():
    sizes = lognormal(2000)
    plan = speech_plan(sizes, batch_seconds=120, batch_size=1000, pad=True)
    assert max(padding_share(plan, epoch) for epoch in range(3)) < 0.03
    assert padding_share(speech_plan(sizes, batch_size=13, pad=True), 0) > 0.25
    for number in range(plan.batches_per_epoch):
        batch = plan.batch(number)
        assert (spans(batch) == np.minimum(sizes[batch.ids], 20 * RATE)).all()  # nothing is cropped
        assert (batch.details.starts + spans(batch) <= sizes[batch.ids]).all()
        assert len(batch.ids) * batch.details.width <= 120 * RATE


def test_lengths_are_given_where_rows_are_not_full():
    plan = speech_plan(np.array([3000, 4000, 3000]), batch_size=3, pad=True)
    batch = plan.batch(0)
    assert dict(zip(batch.ids.tolist(), batch.details.lengths.tolist(), strict=True)) == {0: 3000, 1: 4000, 2: 3000}
    assert speech_plan(np.array([3000, 4000, 3000]), batch_size=3).batch(0).details.lengths is None
    assert speech_plan(np.array([3000, 3000]), batch_size=2, pad=True).batch(0).details.lengths is None


def documents(count, seed=0):
    """Lengths of 8 to 512 tokens."""
    draw = np.random.default_rng(seed).lognormal(np.log(120), 0.6, count)
    return np.clip(draw, 8, 512).astype(np.int64)


def test_documents_of_like_length_come_together_within_a_budget():
    sizes = documents(20_000)
    plan = document_plan(sizes, batch_tokens=8192)
    for epoch in range(2):
        assert padding_share(plan, epoch) < 0.03
        found = [plan.batch(epoch * plan.batches_per_epoch + k) for k in range(plan.batches_per_epoch)]
        ids = np.concatenate([batch.ids for batch in found])
        assert len(set(ids)) == len(ids) > 0.99 * len(sizes)
        tokens = np.array([len(batch.ids) * batch.details.width for batch in found])
        assert tokens.max() <= 8192
        assert np.median(tokens) > 0.95 * 8192
        assert all((spans(batch) == sizes[batch.ids]).all() for batch in found)
    random = make_plan(sizes, np.arange(len(sizes)), TextInputs(packed=False), LoaderConfig(batch_size=54), 0)
    assert padding_share(random, 0) > 0.25


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_is_larger_than_the_budget(seed):
    draw = np.random.default_rng(seed)
    for count in (1, 2, 7, 50):
        sizes = draw.integers(1, 500, count)
        plan = document_plan(sizes, seed, batch_tokens=512)
        for number in range(3 * plan.batches_per_epoch):
            batch = plan.batch(number)
            assert len(batch.ids) * batch.details.width <= 512
        held_out = plan.in_order()
        assert sorted(np.concatenate([batch.ids for batch in held_out])) == list(range(count))
        assert max(len(batch.ids) * batch.details.width for batch in held_out) <= 512


def test_full_blocks_need_no_buckets():
    plan = text_plan(100, 50, batch_tokens=640)
    assert {len(ids) for ids in epoch_ids(plan, 0)} == {10}
    assert plan.batches_per_epoch == 10
    by_size = text_plan(100, 10)
    assert np.array_equal(plan.batch(3).ids, by_size.batch(3).ids)


def test_clips_beyond_the_longest_window_mix():
    """Their length no longer matters, so they are not kept apart by it."""
    sizes = np.arange(21, 421) * RATE
    plan = speech_plan(sizes, batch_seconds=200, batch_size=100)
    spread = [np.ptp(sizes[plan.batch(k).ids]) for k in range(plan.batches_per_epoch)]
    assert min(spread) > 100 * RATE


def test_bucketed_batches_differ_between_epochs():
    plan = speech_plan(lognormal(2000), batch_seconds=120, batch_size=1000)
    first, second = ({frozenset(ids.tolist()) for ids in epoch_ids(plan, epoch)} for epoch in (0, 1))
    assert len(first & second) < 0.1 * len(first)
    lengths = [plan.batch(k).details.width for k in range(plan.batches_per_epoch)]
    order = np.argsort(np.argsort(lengths))
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.3  # batches are not sorted by length


def test_few_clips_of_like_length_mix_too():
    plan = speech_plan(np.arange(40) * 300 + 3000, batch_seconds=60, batch_size=100)
    batches = {frozenset(ids.tolist()) for epoch in range(6) for ids in epoch_ids(plan, epoch)}
    assert len(batches) > 2 * plan.batches_per_epoch


def test_the_batch_size_is_a_limit_beside_the_budget():
    plan = speech_plan(lognormal(200), batch_seconds=120, batch_size=4)
    assert max(len(ids) for ids in epoch_ids(plan, 0)) == 4


def test_one_small_batch_is_kept():
    plan = speech_plan(np.array([3000, 4000, 5000]), batch_seconds=100)
    assert plan.batches_per_epoch == 1
    assert sorted(plan.batch(0).ids) == [0, 1, 2]


def test_a_clip_longer_than_the_budget_is_cut_to_it():
    plan = speech_plan(np.array([18_000] * 3), batch_seconds=10)
    assert plan.batches_per_epoch == 3
    assert plan.batch(0).details.width == 10_000


def test_a_budget_holds_a_sequence():
    with pytest.raises(DataError, match=r"loader.batch_tokens is 400, less than one sequence of 512"):
        document_plan(documents(2000), batch_tokens=400)


@pytest.mark.parametrize("config", [{"batch_size": 5}, {"batch_seconds": 60, "batch_size": 100}])
def test_an_unreadable_clip_keeps_its_place(config):
    sizes = lognormal(100)
    broken = sizes.copy()
    broken[17] = 0
    plan = speech_plan(broken, **config)
    ids = [np.concatenate(epoch_ids(plan, epoch)) for epoch in range(20)]
    assert sum(17 in epoch for epoch in ids) > 10
    assert all((plan.batch(k).details.starts >= 0).all() for k in range(plan.batches_per_epoch))
    assert min(plan.batch(k).details.width for k in range(plan.batches_per_epoch)) >= 2 * RATE


def test_validation_takes_every_sample_once_in_a_fixed_way():
    sizes = lognormal(103)
    for plan in (speech_plan(sizes, batch_seconds=60), speech_plan(sizes, batch_size=10), text_plan(103, 10)):
        batches = plan.in_order()
        assert sorted(np.concatenate([batch.ids for batch in batches])) == list(range(103))
        assert {batch.epoch for batch in batches} == {VALIDATION_EPOCH}
    again = speech_plan(sizes, batch_size=10).in_order()
    for one, two in zip(speech_plan(sizes, batch_size=10).in_order(), again, strict=True):
        assert np.array_equal(one.details.starts, two.details.starts)
        assert one.details.width == sizes[one.ids].min() or one.details.width == 20 * RATE


def test_each_modality_has_its_details():
    config = LoaderConfig(batch_size=2)
    assert isinstance(make_plan(np.ones((3, 2)), np.arange(3), VisionInputs(), config, 0).batch(0).details, PicturePlan)
    assert isinstance(speech_plan(lognormal(3)).batch(0).details, WindowPlan)
    assert text_plan(3, 2).batch(0).details.counts.tolist() == [64, 64]
    assert text_plan(3, 2).batch(0).details.lengths is None
