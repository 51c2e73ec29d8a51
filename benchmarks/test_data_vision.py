"""Pictures: CPU milliseconds per sample of a JPEG of 420 x 320 to a batch of 224 x 224, workers included.

Ours is the loader as a training run has it, masks included, with two threads. The baseline is what a careful user of
torchvision writes: `decode_jpeg`, the v2 transforms, a DataLoader with two worker processes.
"""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from loading import make_loader
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from d2v_fast.data import LoaderConfig, open_source
from d2v_fast.masking import BlockMask, block_masks
from d2v_fast.modalities.vision.config import VisionInputs

SIDE = 224


class Pictures(Dataset):
    def __init__(self, paths, jitter):
        self.paths = paths
        inputs = VisionInputs()
        steps = [
            v2.RandomResizedCrop(SIDE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(inputs.mean, inputs.std),
        ]
        self.transform = v2.Compose(steps)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(decode_jpeg(read_file(self.paths[index]), ImageReadMode.RGB))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, request):
    """Pieces of photographs, enlarged to 420 x 320, about 35 kB each."""
    from sklearn.datasets import load_sample_images

    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    images = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(16 if request.config.getoption("--quick") else 256):
        left, top = int(random.integers(0, 640 - 320)), int(random.integers(0, 427 - 240))
        piece = images[i % 2].crop((left, top, left + 320, top + 240)).resize((420, 320), Image.Resampling.BICUBIC)
        piece.save(root / f"{i:03}.jpg", quality=93)
    return root


@pytest.fixture
def ours(photos, quick):
    """ours(engine, jitter, batch_size) -> a function that makes some batches."""
    loaders = []

    def masks(inputs, lengths, sample_ids, epoch):
        return block_masks(BlockMask(), (14, 14), seed=0, epoch=epoch, sample_ids=sample_ids)

    def make(engine, jitter, batch_size, batches):
        inputs = VisionInputs(jitter=jitter)
        source = open_source(photos, "vision", inputs)
        config = LoaderConfig(engine=engine, batch_size=batch_size, threads=2, prefetch=2)
        loader = make_loader(source, inputs=inputs, config=config, seed=0, masks=masks, image_size=SIDE)
        loaders.append(loader)
        steps = itertools.count()
        return lambda: [loader.step(next(steps)) for _ in range(batches)]

    yield make
    for loader in loaders:
        loader.close()


@pytest.fixture
def torchvisions(photos):
    """The same by torchvision."""
    iterators = []

    def make(jitter, batch_size, batches):
        paths = [str(path) for path in sorted(photos.iterdir())]
        dataset = Pictures(paths, jitter)
        sampler = RandomSampler(dataset, replacement=True, num_samples=1 << 30)
        loader = DataLoader(dataset, batch_size, sampler=sampler, num_workers=2)
        iterators.append(iter(loader))
        return lambda iterator=iterators[-1]: [next(iterator) for _ in range(batches)]

    yield make
    iterators.clear()  # ends the workers


@pytest.mark.benchmark(group="data: vision")
@pytest.mark.parametrize("jitter", [0.4, 0.0], ids=["with jitter", "without"])
def test_pictures(compare_cpu, ours, torchvisions, quick, jitter):
    size, batches = (4, 1) if quick else (32, 6)
    workers = torchvisions(jitter, size, batches)  # forked before there are threads
    native = ours("native", jitter, size, batches)
    baselines = {"torchvision v2, decode_jpeg, DataLoader of 2 workers": workers}
    if _has_dali():
        baselines["d2v_fast, DALI on the CPU"] = ours("dali", jitter, size, batches)
    compare_cpu(
        f"native engine, picture of 420 x 320 to 224, jitter {jitter}, CPU", native, baselines, samples=size * batches
    )


def _has_dali():
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False
