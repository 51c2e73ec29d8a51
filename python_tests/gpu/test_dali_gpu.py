"""DALI on a GPU: the batches of the native engine as far as nvJPEG allows, faults, resume and lifetime of memory.

On the CPU the same tests run; there the bounds are those of python_tests/data/test_engines_agree.py and hold easily.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from loading import make_loader
from PIL import Image

from d2v_fast.data import LoaderConfig, open_source
from d2v_fast.masking import BlockMask, SpanMask, block_masks, span_masks
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')

PICTURES = VisionInputs(mean=(0.0,) * 3, std=(1.0,) * 3)
CLIPS = SpeechInputs(min_seconds=0.1, max_seconds=1.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from sklearn.datasets import load_sample_images

    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    photos = [Image.fromarray(array) for array in load_sample_images().images]
    for i in range(24):
        left, top = int(random.integers(0, 320)), int(random.integers(0, 200))
        width, height = int(random.integers(60, 320)), int(random.integers(60, 227))
        piece = photos[i % 2].crop((left, top, left + width, top + height))
        piece.save(root / f"{i:02}.{('jpg', 'png', 'jpg')[i % 3]}", **({"quality": 92} if i % 3 != 1 else {}))
    photos[0].resize((100, 80)).convert("CMYK").save(root / "cmyk.jpg")
    photos[0].resize((100, 80)).convert("L").save(root / "grey.jpg")
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i in range(24):
        rate = 8000 if i == 5 else 16000
        clip = 0.1 * random.standard_normal(int(rate * (0.5 + 0.05 * i)))
        soundfile.write(root / f"{i:02}.{('wav', 'flac')[i % 2]}", clip, rate)
    return root


@pytest.fixture
def loaders(device, pictures, clips):
    opened = []

    def masks(speech, inputs, lengths, ids, epoch):
        if speech:
            return span_masks(
                SpanMask(length=3), [inputs.shape[1] // 320] * len(inputs), seed=5, epoch=epoch, sample_ids=ids
            )
        return block_masks(BlockMask(count=8, min_area=2), (4, 4), seed=5, epoch=epoch, sample_ids=ids)

    def make(kind, engine, root=None, **config):
        speech = kind == "clips"
        inputs, root = (CLIPS, root or clips) if speech else (PICTURES, root or pictures)
        first_step = config.pop("first_step", 0)
        opened.append(
            make_loader(
                open_source(root, "speech" if speech else "vision", inputs),
                inputs=inputs,
                config=LoaderConfig(**{"engine": engine, "batch_size": 6, "max_skipped": 1.0, "pad": speech} | config),
                seed=1,
                masks=partial(masks, speech),
                image_size=None if speech else 64,
                first_step=first_step,
                device=device,
            )
        )
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


def batches(loader, steps, first=0):
    return [batch for n in range(first, steps) for batch in loader.step(n)]


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_batches_are_those_of_the_native_engine(loaders, device, kind):
    """nvJPEG rounds colours differently than libjpeg, by a few units, and the jitter enlarges that by up to 1.4^3."""
    native, dali = (batches(loaders(kind, engine), 8) for engine in ("native", "dali"))
    for ours, theirs in zip(dali, native, strict=True):
        assert ours.inputs.device == device
        assert not theirs.inputs.is_cuda
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
        assert torch.equal(ours.mask, theirs.mask)
        difference = (ours.inputs.cpu() - theirs.inputs).abs()
        if kind == "clips":
            assert difference.max() <= 4e-6
        else:
            assert difference.mean((1, 2, 3)).max() * 255 <= 1.5
            assert torch.quantile(difference.flatten()[::7], 0.999) * 255 <= 12


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_a_run_resumes_with_the_same_bits(loaders, kind):
    expected = batches(loaders(kind, "dali", threads=1, prefetch=1), 9)
    again = batches(loaders(kind, "dali", threads=3, prefetch=3, first_step=5), 9, first=5)
    for ours, theirs in zip(again, expected[5:], strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.rows, theirs.rows)


def test_auto_is_dali_on_a_gpu(loaders, device):
    assert batches(loaders("pictures", "auto"), 1)[0].inputs.device == device


def test_batches_live_on_while_others_are_made_and_dropped(loaders):
    """Memory is not reused while a kernel may still read it."""
    loader = loaders("pictures", "dali", batch_size=8)
    sums, copies = [], []
    for n in range(30):
        (batch,) = loader.step(n)
        copies.append(batch.inputs.cpu())
        if batch.inputs.is_cuda:
            torch.cuda._sleep(2_000_000)  # Python drops the batch long before it is read
        sums.append(batch.inputs.double().sum())
        del batch
    assert torch.allclose(torch.stack(sums).cpu(), torch.stack([copy.double().sum() for copy in copies]), rtol=1e-9)


def test_a_broken_file_is_named_and_the_rest_goes_on(loaders, pictures, tmp_path, capsys):
    for path in pictures.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = (pictures / "00.jpg").read_bytes()
    at = data.index(b"\xff\xda")
    (tmp_path / "00.jpg").write_bytes(data[: at + 6] + bytes([9, 9, 9, 9]) + data[at + 10 :])
    native, dali = (batches(loaders("pictures", engine, root=tmp_path), 8) for engine in ("native", "dali"))
    for ours, theirs in zip(dali, native, strict=True):
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
        assert ours.skipped == theirs.skipped
        assert (ours.inputs.cpu() - theirs.inputs).abs().mean() * 255 <= 1.5
    assert capsys.readouterr().err.count("00.jpg: cannot be decoded") == 2  # once for each loader


def test_the_memory_of_the_gpu_does_not_grow(gpu, loaders):
    loader = loaders("pictures", "dali", batch_size=8)
    batches(loader, 20)
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    batches(loader, 120, first=20)
    torch.cuda.synchronize()
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 64 << 20
