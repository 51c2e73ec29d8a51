from __future__ import annotations

import shutil
import threading
from dataclasses import fields

import numpy as np
import pytest
import torch

from d2v_fast.data import (
    ArraySource,
    DataError,
    Loader,
    LoaderConfig,
    SampleError,
    SpeechInputs,
    TextInputs,
    TooManySkipped,
    VisionInputs,
    open_source,
)
from d2v_fast.data.loader import split
from d2v_fast.masking import SpanMask, TokenMask, span_masks, token_masks


def bits(batches):
    """Everything in a list of batches, to compare."""
    values = [[getattr(batch, field.name) for field in fields(batch)] for batch in batches]
    return [[v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for v in row] for row in values]


class Documents:
    """Sequences of tokens of different lengths, a source of one's own."""

    modality, fingerprint = "text", "documents"
    mask_id, pad_id, special_ids, vocab_size = 1, 2, (0, 1, 2), 50

    def __init__(self, sizes):
        self.sizes = np.array(sizes)

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return f"document {index}"

    def read(self, index):
        return np.full(self.sizes[index], 3 + index)


def text_masks(source):
    def make(tokens, lengths, sample_ids, epoch):
        special = {"mask_id": source.mask_id, "vocab_size": source.vocab_size, "special_ids": source.special_ids}
        config = TokenMask(probability=0.3)
        return token_masks(config, tokens, lengths, seed=5, epoch=epoch, sample_ids=sample_ids, **special)

    return make


@pytest.fixture(params=["vision", "speech", "speech buckets", "speech padded", "text", "documents"])
def open_loader(request, tmp_path, pictures, clips, picture_masks, clip_masks):
    """(LoaderConfig fields, first_step) to a loader of each modality, over files."""
    kind = request.param
    if kind in ("text", "documents"):
        (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
        inputs = TextInputs(block_size=16)
        if kind == "text":
            source = open_source(tmp_path / "a.txt", "text", inputs, vocab_size=270)
        else:
            source = open_source(Documents(range(4, 17)), "text", inputs)
        masks = text_masks(source)

    elif kind == "vision":
        inputs, masks = VisionInputs(), picture_masks
        source = open_source(pictures, "vision", inputs)
    else:
        inputs, masks = SpeechInputs(min_seconds=0.1, max_seconds=1.0), clip_masks
        source = open_source(clips, "speech", inputs)

    def make(first_step=0, seed=3, rank=0, world=1, **config):
        if kind in ("speech buckets", "speech padded"):
            config |= {"batch_seconds": 2.5, "pad": kind == "speech padded"}
        if kind == "documents":
            config |= {"batch_tokens": 40}
        config = LoaderConfig(**{"batch_size": 4, "accumulation": 2} | config)
        size = 32 if kind == "vision" else None
        place = {"first_step": first_step, "rank": rank, "world": world}
        return Loader(source, inputs=inputs, config=config, seed=seed, masks=masks, image_size=size, **place)

    return make


def test_the_same_bits_whatever_the_threads_the_prefetch_and_the_order(open_loader):
    with open_loader(threads=1, prefetch=1) as loader:
        expected = [bits(loader.step(n)) for n in range(6)]
    assert len({str(step) for step in expected}) == 6
    for threads, prefetch in ((2, 2), (4, 3)):
        with open_loader(threads=threads, prefetch=prefetch) as loader:
            assert [bits(loader.step(n)) for n in range(6)] == expected
    with open_loader(threads=2) as loader:
        for n in (5, 0, 1, 1, 4, 2, 5, 3):
            assert bits(loader.step(n)) == expected[n]
    with open_loader(first_step=4) as loader:
        assert [bits(loader.step(n)) for n in (4, 5)] == expected[4:]
    with open_loader(seed=4) as loader:
        assert bits(loader.step(0)) != expected[0]


def test_an_epoch_holds_every_sample_at_most_once_also_across_steps(open_loader):
    """A step of seven micro-batches may be more than an epoch: steps and epochs then end at different places."""
    with open_loader(accumulation=7) as loader:
        n = loader.batches_per_epoch
        assert loader.steps_per_epoch == max(1, n // 7)
        steps = -(-3 * n // 7)
        batches = [batch for step in range(steps) for batch in loader.step(step)]
        assert [loader.epoch(step) for step in range(steps)] == [7 * step // n for step in range(steps)]
    for epoch in range(3):
        ids = torch.cat([batch.sample_ids for batch in batches[epoch * n : (epoch + 1) * n]])
        assert len(set(ids.tolist())) == len(ids)


def test_processes_share_each_step(open_loader):
    """Together they make what one process makes, the same bits, also of the held-out samples."""
    with open_loader(accumulation=6, holdout=0.3) as loader:
        whole = [bits(loader.step(n)) for n in range(3)]
        held_out = bits(loader.validation())
    for world in (2, 3):
        shares, held = [], []
        for rank in range(world):
            with open_loader(accumulation=6, holdout=0.3, rank=rank, world=world) as loader:
                shares.append([bits(loader.step(n)) for n in range(3)])
                held.append(bits(loader.validation()))
        for n in range(3):
            assert [shares[i % world][n][i // world] for i in range(6)] == whole[n]
        assert [held[i % world][i // world] for i in range(len(held_out))] == held_out


def test_processes_that_cannot_share_a_step(open_loader):
    with pytest.raises(DataError, match=r"loader.accumulation is 2, which 4 processes cannot share .* multiple of 4"):
        open_loader(world=4)


def test_batches_are_whole(open_loader):
    with open_loader() as loader:
        for batch in loader.step(0):
            count = len(batch.sample_ids)
            assert len(batch.inputs) == len(batch.mask) == count
            assert batch.views == 1
            assert batch.lengths is None or len(batch.lengths) == count
            assert torch.equal(batch.rows, batch.mask.flatten().nonzero()[:, 0])
            assert 0 < batch.mask.float().mean() < 1
            assert (batch.masked_inputs is not None) == (batch.inputs.dtype == torch.int64)
            assert batch.inputs.isfinite().all()


def test_documents_are_padded_and_the_padding_is_not_masked():
    source = Documents([5, 9, 7])
    config, inputs = LoaderConfig(batch_size=3), TextInputs(block_size=9, packed=False)
    with Loader(source, inputs=inputs, config=config, seed=0, masks=text_masks(source)) as loader:
        batches = [loader.step(n)[0] for n in range(10)]
    for batch in batches:
        assert batch.inputs.shape == batch.masked_inputs.shape == batch.mask.shape == (3, 9)
        assert batch.mask.any()
        for row, (sample, length) in enumerate(zip(batch.sample_ids.tolist(), batch.lengths.tolist(), strict=True)):
            assert length == source.sizes[sample]
            assert batch.inputs[row].tolist() == [3 + sample] * length + [2] * (9 - length)
            assert not batch.mask[row, length:].any()
            assert (batch.masked_inputs[row, length:] == 2).all()


@pytest.mark.parametrize("pad", [False, True])
def test_clips_are_padded_or_cropped(pad):
    noise = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    source = ArraySource("speech", [noise[:2400], noise[:4000], noise[:3200]])

    def masks(inputs, lengths, sample_ids, epoch):
        frames = torch.full((len(inputs),), inputs.shape[1] // 80) if lengths is None else lengths // 80
        return span_masks(SpanMask(), frames, width=inputs.shape[1] // 80, seed=5, epoch=epoch, sample_ids=sample_ids)

    inputs = SpeechInputs(min_seconds=0.1, max_seconds=0.225)  # 3600 samples
    config = LoaderConfig(batch_size=3, pad=pad)
    with Loader(source, inputs=inputs, config=config, seed=0, masks=masks) as loader:
        batch = loader.step(0)[0]
    if not pad:
        assert batch.inputs.shape == (3, 2400)
        assert batch.lengths is None
        return
    assert batch.inputs.shape == (3, 3600)
    for row, sample in enumerate(batch.sample_ids.tolist()):
        length = (2400, 3600, 3200)[sample]
        assert batch.lengths[row] == length
        clip = torch.from_numpy(source.read(sample))
        whole = (clip - clip.mean()) / torch.sqrt(clip.var(unbiased=False) + 1e-5)
        windows = whole.unfold(0, length, 1)
        assert (windows - batch.inputs[row, :length]).abs().amax(1).min() < 1e-5
        assert (batch.inputs[row, length:] == 0).all()
        assert batch.mask[row, : length // 80].any()
        assert not batch.mask[row, length // 80 :].any()


def test_validation_is_the_same_every_time_and_apart_from_training(open_loader):
    with open_loader(holdout=0.3) as loader:
        first = bits(loader.validation())
        next(iter(loader.validation()))  # given up half-way
        loader.step(7)
        assert bits(loader.validation()) == first
        held_out = {i for batch in loader.validation() for i in batch.sample_ids.tolist()}
        steps = -(-2 * loader.batches_per_epoch // 2)
        trained = {i for n in range(steps) for batch in loader.step(n) for i in batch.sample_ids.tolist()}
    assert not held_out & trained
    assert 0.2 < len(held_out) / (len(held_out) + len(trained)) < 0.5
    with open_loader(holdout=0.3, threads=1, batch_size=4) as loader:
        assert bits(loader.validation()) == first


def test_no_held_out_part_by_default(open_loader):
    with open_loader() as loader:
        assert list(loader.validation()) == []


# what goes wrong


@pytest.fixture
def vision(pictures, picture_masks):
    def make(source=None, **config):
        source = source or open_source(pictures, "vision", VisionInputs())
        config = LoaderConfig(**{"batch_size": 5} | config)
        return Loader(source, inputs=VisionInputs(), config=config, seed=0, masks=picture_masks, image_size=16)

    return make


def test_a_broken_file_shrinks_its_batch_and_shifts_nothing(vision, pictures, capsys):
    with vision() as loader:
        whole = [loader.step(n)[0] for n in range(6)]
    source = open_source(pictures, "vision", VisionInputs())
    path = pictures / source.name(4)
    path.write_bytes(path.read_bytes()[:-40])  # broken in the data: the header is read as before
    for again in (source, open_source(pictures, "vision", VisionInputs())):
        capsys.readouterr()
        with vision(again) as loader:
            found = [loader.step(n)[0] for n in range(6)]
            assert loader.skipped == 3
        error = capsys.readouterr().err
        assert error.count("skipped") == 1
        assert str(path) in error
        assert "truncated" in error
        for before, after in zip(whole, found, strict=True):
            keep = before.sample_ids != 4
            assert after.skipped == int((~keep).sum())
            assert torch.equal(before.sample_ids[keep], after.sample_ids)
            assert torch.equal(before.inputs[keep], after.inputs)
            assert torch.equal(before.mask[keep], after.mask)


@pytest.mark.parametrize("damage", ["empty", "gone", "text", "header"])
def test_a_file_that_breaks_while_training(vision, pictures, capsys, damage):
    source = open_source(pictures, "vision", VisionInputs())
    path = pictures / source.name(7)
    content = {"empty": b"", "text": b"no picture", "header": path.read_bytes()[:10]}
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[damage])
    with vision(source) as loader:
        assert sum(loader.step(n)[0].skipped for n in range(2)) == 1
    assert f"skipped {path}: " in capsys.readouterr().err


def test_an_unreadable_header_is_skipped_and_counted(vision, pictures, capsys):
    (pictures / "zz.png").write_bytes(b"")
    with vision() as loader:
        skipped = sum(loader.step(n)[0].skipped for n in range(10))
        assert loader.skipped == skipped
        assert 3 <= skipped <= 5  # in five epochs, each of which drops one of 11 samples
    assert capsys.readouterr().err.count("zz.png: is empty") == 1


def test_a_batch_without_a_readable_sample_is_empty(vision, pictures):
    """Batches of one: a broken file is no reason to stop."""
    source = open_source(pictures, "vision", VisionInputs())
    (pictures / source.name(4)).unlink()
    with vision(source, batch_size=1) as loader:
        batches = [loader.step(n)[0] for n in range(10)]
        assert loader.skipped == 1
    assert sorted(len(batch.sample_ids) for batch in batches) == [0] + [1] * 9
    (empty,) = (batch for batch in batches if batch.skipped)
    assert empty.rows.numel() == 0
    assert len(empty.inputs) == 0


def test_an_unreadable_sample_is_left_out_of_the_validation(vision, pictures):
    source = open_source(pictures, "vision", VisionInputs())
    with vision(source, holdout=0.3, batch_size=1) as loader:
        held_out = [batch.sample_ids.item() for batch in loader.validation()]
        (pictures / source.name(held_out[1])).unlink()
        assert [batch.sample_ids.item() for batch in loader.validation()] == [held_out[0], held_out[2]]
        assert loader.skipped == 1


def test_vanished_files_stop_the_run(vision, pictures):
    source = open_source(pictures, "vision", VisionInputs())
    shutil.rmtree(pictures)
    told = r"4 of 10 samples cannot be read, .* No such file.*; and 1 more\. .*--loader.max-skipped 0.8"
    with vision(source, batch_size=2) as loader:
        assert len(loader.step(0)[0].sample_ids) == 0
        with pytest.raises(TooManySkipped, match=told):
            loader.step(1)


class Failing(ArraySource):
    """Reading sample 3 fails in a way that nobody foresaw."""

    def __init__(self, error):
        super().__init__("vision", np.zeros((8, 16, 16, 3), np.uint8), names=[f"name {i}" for i in range(8)])
        self._error = error

    def read(self, index):
        if index == 3:
            raise self._error
        return super().read(index)


def test_an_unexpected_error_reaches_the_caller_with_the_samples_name(vision):
    with vision(Failing(ZeroDivisionError("oh")), batch_size=8) as loader:
        with pytest.raises(DataError, match=r"reading sample 3 \(name 3\) failed: ZeroDivisionError: oh"):
            loader.step(0)
        with pytest.raises(DataError, match="name 3"):
            loader.step(1)


def test_a_sample_error_of_ones_own_source_is_skipped(vision, capsys):
    with vision(Failing(SampleError("name 3", "is odd")), batch_size=8) as loader:
        assert loader.step(0)[0].skipped == 1
        loader.step(1)
    assert capsys.readouterr().err == "d2v-fast: skipped name 3: is odd\n"


def test_an_error_in_the_mask_maker_reaches_the_caller(pictures):
    def masks(inputs, lengths, sample_ids, epoch):
        raise RuntimeError("no mask")

    source = open_source(pictures, "vision", VisionInputs())
    config = LoaderConfig(batch_size=5)
    with Loader(source, inputs=VisionInputs(), config=config, seed=0, masks=masks, image_size=16) as loader:
        for n in (0, 1, 0):
            with pytest.raises(RuntimeError, match="no mask"):
                loader.step(n)


def test_nan_samples_are_named(clip_masks, capsys):
    noise = np.random.default_rng(0).standard_normal((6, 3200)).astype(np.float32)
    noise[2, 100] = np.nan
    inputs = SpeechInputs(min_seconds=0.1)
    source = ArraySource("speech", noise)
    with Loader(source, inputs=inputs, config=LoaderConfig(batch_size=6), seed=0, masks=clip_masks) as loader:
        (batch,) = loader.step(0)
    assert sorted(batch.sample_ids.tolist()) == [0, 1, 3, 4, 5]
    assert capsys.readouterr().err == "d2v-fast: skipped 2: has samples that are not finite numbers\n"


def test_short_clips_are_left_out_and_told(clips, clip_masks, capsys):
    inputs = SpeechInputs(min_seconds=0.75)
    source = open_source(clips, "speech", inputs)
    with Loader(source, inputs=inputs, config=LoaderConfig(batch_size=2), seed=0, masks=clip_masks) as loader:
        ids = {i for n in range(loader.batches_per_epoch) for i in loader.step(n)[0].sample_ids.tolist()}
        assert loader.left_out == 4
    assert ids == set(range(4, 12))
    assert "left out 4 of 12 clips, shorter than inputs.min_seconds" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"no clip is as long as inputs.min_seconds 9.0 \(the longest has 1.50 s\)"):
        Loader(source, inputs=SpeechInputs(min_seconds=9.0), config=LoaderConfig(), seed=0, masks=clip_masks)


@pytest.mark.parametrize("field", ["accumulation", "threads", "prefetch", "batch_size"])
def test_settings_that_make_no_sense(vision, field):
    with pytest.raises(DataError, match=f"loader.{field} is 0"):
        vision(**{field: 0})


def test_pictures_need_a_size(pictures, picture_masks):
    source = open_source(pictures, "vision", VisionInputs())
    with pytest.raises(DataError, match="image_size"):
        Loader(source, inputs=VisionInputs(), config=LoaderConfig(), seed=0, masks=picture_masks)


# the share that is held out


def named(names):
    return ArraySource("vision", np.zeros((len(names), 4, 4), np.uint8), names=names)


def test_holdout_goes_by_name_alone():
    names = [f"file {i}" for i in range(200)]
    train, held = split(named(names), np.arange(200), 0.1)
    assert len(held) == 20
    assert sorted([*train, *held]) == list(range(200))
    backwards = named(names[::-1])
    _, again = split(backwards, np.arange(200), 0.1)
    assert {backwards.name(i) for i in again} == {names[i] for i in held}
    more = named([*names, "another"])
    _, third = split(more, np.arange(201), 0.1)
    assert len({names[i] for i in held} & {more.name(i) for i in third}) >= 19


@pytest.mark.parametrize(("share", "count", "held"), [(0.0, 5, 0), (0.01, 5, 1), (0.99, 5, 4), (0.5, 2, 1)])
def test_at_least_one_is_held_out_and_one_is_kept(share, count, held):
    train, out = split(named([str(i) for i in range(count)]), np.arange(count), share)
    assert (len(train), len(out)) == (count - held, held)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_shares_that_make_no_sense(share):
    with pytest.raises(DataError, match=r"loader\.holdout is"):
        split(named(["a", "b"]), np.arange(2), share)
    with pytest.raises(DataError, match="only 1 sample"):
        split(named(["a"]), np.arange(1), 0.5)


# threads


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("d2v-data")]


def test_closing_ends_all_threads(vision):
    before = len(workers())
    loader = vision(threads=3, prefetch=4)
    assert len(workers()) == before + 3
    loader.step(0)
    loader.close()
    assert len(workers()) == before
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        loader.step(1)


def test_an_interrupt_ends_all_threads(vision):
    before = len(workers())

    def interrupted():
        with vision() as loader:
            loader.step(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(workers()) == before


def test_waiting_is_measured(vision):
    with vision() as loader:
        assert loader.wait == 0
        loader.step(0)
        first = loader.wait
        assert first > 0
        loader.step(5)
        assert loader.wait > first


def test_small_pictures_are_told(vision, pictures, capsys):
    source = open_source(pictures, "vision", VisionInputs())
    for size, told in ((32, False), (64, True)):
        config = LoaderConfig(batch_size=5)
        Loader(source, inputs=VisionInputs(), config=config, seed=0, masks=lambda *_: None, image_size=size).close()
        assert ("smaller than the model's input of 64 pixels" in capsys.readouterr().err) == told
