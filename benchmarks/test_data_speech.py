"""Speech: CPU milliseconds per clip of 1.5 to 20 s, decoded, normalised whole and cropped, workers included.

Ours is the loader as a training run has it, masks included, with two threads. The baseline is what a careful user of
soundfile writes: float32, layer_norm, a DataLoader with two worker processes that crops a batch to its shortest clip.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from loading import make_loader
from torch.utils.data import DataLoader, Dataset, RandomSampler

from d2v_fast.data import LoaderConfig, open_source
from d2v_fast.masking import SpanMask, span_masks
from d2v_fast.modalities.speech.config import SpeechInputs

RATE = 16000
INPUTS = SpeechInputs(min_seconds=0.5, max_seconds=15.6)


class Clips(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        wave = torch.from_numpy(soundfile.read(self.paths[index], dtype="float32")[0])
        return F.layer_norm(wave, wave.shape)


def cropped(clips):
    length = min(*map(len, clips), round(INPUTS.max_seconds * RATE))
    starts = [int(torch.randint(len(clip) - length + 1, ())) for clip in clips]
    return torch.stack([clip[start : start + length] for clip, start in zip(clips, starts, strict=True)])


@pytest.fixture(scope="module", params=["wav", "flac"])
def utterances(tmp_path_factory, request):
    """Tones in noise that come and go, 12 s on average."""
    quick = request.config.getoption("--quick")
    root, random = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    for i in range(8 if quick else 60):
        time = np.arange(int(RATE * (0.6 if quick else random.triangular(1.5, 14, 20)))) / RATE
        tones = sum(
            np.sin(2 * np.pi * f * time * (1 + 0.01 * np.sin(5 * time))) / f**0.5 for f in (130, 410, 1270, 2900)
        )
        loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
        clip = loudness * tones + 0.01 * random.standard_normal(len(time))
        soundfile.write(root / f"{i:02}.{request.param}", 0.5 * clip / np.abs(clip).max(), RATE)
    return root


@pytest.fixture
def ours(utterances):
    """ours(engine, batch_size, batches) -> a function that makes some batches."""
    loaders = []

    def masks(inputs, lengths, sample_ids, epoch):
        frames = [inputs.shape[1] // 320] * len(inputs)
        return span_masks(SpanMask(), frames, seed=0, epoch=epoch, sample_ids=sample_ids)

    def make(engine, batch_size, batches):
        source = open_source(utterances, "speech", INPUTS)
        config = LoaderConfig(engine=engine, batch_size=batch_size, threads=2, prefetch=2)
        loader = make_loader(source, inputs=INPUTS, config=config, seed=0, masks=masks)
        loaders.append(loader)
        steps = itertools.count()
        return lambda: [loader.step(next(steps)) for _ in range(batches)]

    yield make
    for loader in loaders:
        loader.close()


@pytest.fixture
def soundfiles(utterances):
    """The same by soundfile."""
    iterators = []

    def make(batch_size, batches):
        dataset = Clips([str(path) for path in sorted(utterances.iterdir())])
        sampler = RandomSampler(dataset, replacement=True, num_samples=1 << 30)
        loader = DataLoader(dataset, batch_size, sampler=sampler, num_workers=2, collate_fn=cropped)
        iterators.append(iter(loader))
        return lambda iterator=iterators[-1]: [next(iterator) for _ in range(batches)]

    yield make
    iterators.clear()  # ends the workers


@pytest.mark.benchmark(group="data: speech")
@pytest.mark.parametrize("engine", ["native", "dali"])
def test_clips(compare_cpu, ours, soundfiles, utterances, quick, engine):
    if engine == "dali":
        pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')
    size, batches = (4, 1) if quick else (12, 10)
    workers = soundfiles(size, batches)  # forked before there are threads
    form = next(utterances.iterdir()).suffix[1:].upper()
    compare_cpu(
        f"{engine} engine, clip of 12 s, {form}, CPU",
        ours(engine, size, batches),
        {"soundfile float32, layer_norm, DataLoader of 2 workers": workers},
        samples=size * batches,
    )
