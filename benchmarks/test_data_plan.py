"""The plan of an epoch, and blocks of text: what the data side does besides decoding.

A plan's time is that of a whole epoch of a million samples, order and all batches: 1000 ms are 1 us for each sample.
A text line is 1,000 sequences of 512 tokens out of a file of 50 MB, so its ms are us for each sequence, of processor
time on all threads. The baselines of the one are what torchvision draws for each picture, and numpy's Philox generator
made anew for each sample, which is the usual way to random numbers that depend on the sample alone; those of the other
are a gather by numpy alone, and our engine with a source that gives one sequence at a time.
"""

from __future__ import annotations

import itertools
import time
from functools import partial

import numpy as np
import pytest
import torch
from loading import engine_of, make_plan, sampling_of
from torchvision.transforms import ColorJitter, RandomResizedCrop

from d2v_fast.data import LoaderConfig
from d2v_fast.masking import Masks, TokenMask, token_masks
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.text.tokenizer import train
from d2v_fast.modalities.vision.config import VisionInputs

BLOCK = 512


def random_lengths(count: int) -> np.ndarray:
    """Samples at 16 kHz: log-normal, 2 to 30 s."""
    draw = np.random.default_rng(0).lognormal(np.log(9), 0.5, count)
    return (np.clip(draw, 2, 30) * 16000).astype(np.int64)


def case(kind: str, count: int):
    """Sizes, inputs and loader settings of the published recipes."""
    if kind == "pictures":
        sizes = np.random.default_rng(0).integers(200, 600, (count, 2))
        return sizes, VisionInputs(), LoaderConfig(batch_size=256)
    if kind == "clips by length":
        return random_lengths(count), SpeechInputs(), LoaderConfig(batch_size=237, batch_seconds=475.0)
    if kind == "documents by length":
        sizes = np.clip(random_lengths(count) // 2000, 8, BLOCK)
        return sizes, TextInputs(block_size=BLOCK, packed=False), LoaderConfig(batch_size=1000, batch_tokens=1 << 16)
    return np.full(count, BLOCK), TextInputs(block_size=BLOCK), LoaderConfig(batch_size=128)


@pytest.mark.parametrize("kind", ["pictures", "clips by length", "documents by length", "blocks of text"])
def test_plan_of_an_epoch(kind, compare, quick):
    count = 20_000 if quick else 1_000_000
    sizes, inputs, config = case(kind, count)
    plan = make_plan(sizes, np.arange(count), inputs, config, seed=0)
    epochs = itertools.count()

    def ours() -> None:
        first = next(epochs) * plan.batches_per_epoch
        for number in range(first, first + plan.batches_per_epoch):
            plan.batch(number)

    compare(f"plan of an epoch, {count:,} {kind}", ours, {}, moved=None, rounds=5)


def test_crops_flips_and_colours(compare, quick):
    count, batch = (512 if quick else 8192), 256
    sizes, inputs, _ = case("pictures", count)
    ids = np.arange(count).reshape(-1, batch)
    image = torch.empty(3, 375, 500)
    jitter = ColorJitter(0.4, 0.4, 0.4)

    def torchvisions() -> None:
        for _ in range(count):
            RandomResizedCrop.get_params(image, inputs.crop_scale, inputs.crop_ratio)
            bool(torch.rand(1) < 0.5)
            jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)

    def generators() -> None:
        for i in range(count):
            np.random.Generator(np.random.Philox(key=i)).random(26)

    def ours() -> None:
        for part in ids:
            sampling_of(inputs, 224).draw(sizes[part], part, 0, 0, 0)

    baselines = {"torchvision's get_params": torchvisions, "26 numbers of numpy's Philox alone": generators}
    compare(
        f"crops, flips and colours of {count:,} pictures in batches of {batch}", ours, baselines, moved=None, rounds=5
    )


class OneByOne:
    """A source of text that has nothing but `read`."""

    def __init__(self, blocks: TextBlocks) -> None:
        self._blocks = blocks
        for name in ("modality", "sizes", "fingerprint", "pad_id", "name", "read"):
            setattr(self, name, getattr(blocks, name))

    def __len__(self) -> int:
        return len(self._blocks)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory, request):
    count = 1000 if request.config.getoption("--quick") else 50_000
    path = tmp_path_factory.mktemp("text") / "tokens.bin"
    np.random.default_rng(0).integers(300, 50_000, count * (BLOCK - 1), dtype=np.uint16).tofile(path)
    tokenizer = train(["some words to learn letters from"], 270)
    return TextBlocks(np.memmap(path, np.uint16, "r"), tokenizer, BLOCK, "benchmark")


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_text(masked, blocks, compare):
    batches, size = 8, 125
    config = LoaderConfig(batch_size=size)
    plan = make_plan(blocks.sizes, np.arange(len(blocks)), TextInputs(block_size=BLOCK), config, seed=0)

    def masks(tokens, lengths, sample_ids, epoch):
        if not masked:
            return Masks(torch.zeros(tokens.shape, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), tokens)
        special = {"mask_id": blocks.mask_id, "vocab_size": 50_000, "special_ids": blocks.special_ids}
        return token_masks(TokenMask(), tokens, lengths, seed=0, epoch=epoch, sample_ids=sample_ids, **special)

    def through(source) -> tuple[object, object]:
        engine = engine_of("native", source, TextInputs(block_size=BLOCK), masks, None, 1, torch.device("cpu"))
        numbers = itertools.count()

        def run() -> None:
            futures = [engine.begin(partial(plan.batch, next(numbers))) for _ in range(batches)]
            for future in futures:
                assert len(future.result().batch.inputs) == size

        return engine, run

    numbers = itertools.count()
    rows = blocks.tokens.reshape(-1, BLOCK - 1)

    def numpy_gather() -> None:
        for _ in range(batches):
            tokens = np.zeros((size, BLOCK), dtype=np.int64)
            tokens[:, 1:] = rows[plan.batch(next(numbers)).ids]

    engine, ours = through(blocks)
    slow_engine, slow = through(OneByOne(blocks))
    baselines = {"the engine, one read for each": slow}
    if not masked:
        baselines["numpy's gather and cast, no threads, no batch"] = numpy_gather
    name = f"{batches * size:,} sequences of {BLOCK} tokens{' with their masks' if masked else ''}"
    try:
        compare(name, ours, baselines, moved=None, rounds=30, clock=time.process_time)
    finally:
        engine.close()
        slow_engine.close()
