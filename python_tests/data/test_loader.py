from __future__ import annotations

import threading
from dataclasses import fields

import numpy as np
import pytest
import torch
from loading import make_loader, open_source

from d2v_fast.data import ArraySource, DataError, LoaderConfig
from d2v_fast.data.deal import Deal
from d2v_fast.data.holding import split
from d2v_fast.masking import SpanMask, TokenMask, span_masks, token_masks
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PictureSampling


def bits(batches):
    """Everything in a list of batches, to compare."""
    values = [[getattr(batch, field.name) for field in fields(batch)] for batch in batches]
    return [[v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for v in row] for row in values]


def samples(batch):
    """What a batch says about each of its samples: id, inputs without padding, masked positions."""
    lengths = [None] * len(batch.sample_ids) if batch.lengths is None else batch.lengths.tolist()
    masks = batch.mask.unflatten(0, (-1, batch.views)) if len(batch.sample_ids) else []
    rows = zip(batch.sample_ids.tolist(), batch.inputs, lengths, masks, strict=True)
    return [(i, row[:length].tolist(), mask.nonzero().tolist()) for i, row, length, mask in rows]


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
        place = {"first_step": first_step, "deal": Deal(config, rank, world)}
        return make_loader(source, inputs=inputs, config=config, seed=seed, masks=masks, image_size=size, **place)

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
    """Together they make what one process makes, the same bits; each could make all of the held-out samples."""
    with open_loader(accumulation=6, holdout=0.3) as loader:
        whole = [bits(loader.step(n)) for n in range(3)]
        held_out = bits(loader.validation())
    for world in (2, 3):
        shares = []
        for rank in range(world):
            with open_loader(accumulation=6, holdout=0.3, rank=rank, world=world) as loader:
                shares.append([bits(loader.step(n)) for n in range(3)])
                assert bits(loader.validation()) == held_out
        for n in range(3):
            assert [shares[i % world][n][i // world] for i in range(6)] == whole[n]


def test_processes_share_a_micro_batch(open_loader):
    """Cut into pieces it has the same samples, in the same order, with the same inputs and masks."""
    with open_loader(accumulation=2) as loader:
        whole = [sample for batch in loader.step(1) for sample in samples(batch)]
    for world in (3, 4, 8):
        shares = []
        for rank in range(world):
            with open_loader(accumulation=2, rank=rank, world=world) as loader:
                shares.append([samples(batch) for batch in loader.step(1)])
        pieces = [shares[i % world][i // world] for i in range(len(shares[0]) * world)]
        assert [sample for piece in pieces for sample in piece] == whole


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
    with make_loader(source, inputs=inputs, config=config, seed=0, masks=text_masks(source)) as loader:
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
    with make_loader(source, inputs=inputs, config=config, seed=0, masks=masks) as loader:
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
        make_loader(
            source, inputs=VisionInputs(), config=config, seed=0, masks=lambda *_: None, image_size=size
        ).close()
        assert ("smaller than the model's input of 64 pixels" in capsys.readouterr().err) == told


def test_pictures_that_lose_most_of_their_detail_are_told():
    def remarks(side, image_size):
        return PictureSampling(VisionInputs(), image_size).remarks(np.full((9, 2), side), 9)

    assert remarks(28, 8)[0].startswith("most pictures are shrunk to 8 pixels")
    assert "about 28): a larger model.embedding.image_size" in remarks(28, 8)[0]
    assert remarks(16, 8) == []
    assert remarks(2000, 224) == []  # a photograph, and the usual input
