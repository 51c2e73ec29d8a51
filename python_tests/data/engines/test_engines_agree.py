"""Both engines make the same batch of the same plan: of natural pictures, of clips, and in the middle of a run."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import soundfile
import torch
from loading import make_loader
from PIL import Image

from d2v_fast.data import LoaderConfig, open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')

ENGINES = ("native", "dali")


def scaled(picture, height, width):
    return picture.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """Photographs, enlarged, reduced and cut, in every form that a JPEG or PNG comes in."""
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("natural")
    turned = Image.Exif()
    turned[0x0112] = 6
    for k, array in enumerate(load_sample_images().images):
        photo = Image.fromarray(array)
        for height, width in ((97, 131), (427, 640), (70, 300), (240, 61), (33, 32)):
            image = scaled(photo, height, width)
            image.save(root / f"{k} {height}x{width}.jpg", quality=90)
            image.save(root / f"{k} {height}x{width} fine.jpg", quality=80, subsampling=0, progressive=True)
            image.save(root / f"{k} {height}x{width}.png")
        enlarged = scaled(photo.crop((200, 150, 300, 230)), 321, 401)
        enlarged.save(root / f"{k} enlarged.jpg")
        enlarged.save(root / f"{k} enlarged.png")
        image = scaled(photo, 111, 155)
        image.convert("L").save(root / f"{k} grey.jpg")
        image.convert("L").save(root / f"{k} grey.png")
        image.convert("CMYK").save(root / f"{k} cmyk.jpg")
        image.quantize(100).save(root / f"{k} palette.png")
        image.quantize(100).save(root / f"{k} transparent.png", transparency=3)
        image.convert("1").save(root / f"{k} one bit.png")
        image.save(root / f"{k} turned.jpg", exif=turned)
        image.save(root / f"{k} turned.png", exif=turned)
        image.save(root / f"{k} rgb.jpg", keep_rgb=True)
        image.save(root / f"{k} restarts.jpg", restart_marker_blocks=3)
        image.save(root / f"{k} animated.png", save_all=True, append_images=[image.rotate(90)])
        both = image.copy()
        both.putalpha(image.convert("L"))
        both.save(root / f"{k} alpha.png")
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 255).save(root / f"{k} deep.png")
    return root


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Quiet and loud, with an offset, of one and two channels, as integers and floats, at several rates."""
    root = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0)
    kinds = [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_24"), ("wav", "PCM_U8"),
             ("wav", "PCM_32"), ("wav", "FLOAT"), ("ogg", "VORBIS")]  # fmt: skip
    for i, (form, subtype) in enumerate(kinds):
        for rate, channels, loudness in (
            (16000, 1, 0.2),
            (16000, 2, 0.02),
            (16000, 1, 0.002),
            (22050, 1, 0.2),
            (8000, 2, 0.1),
        ):
            clip = loudness * noise.standard_normal((int(rate * (1 + 0.37 * i)), channels)) + 0.03
            soundfile.write(root / f"{i} {rate} {channels} {loudness}.{form}", clip, rate, subtype=subtype)
    return root


@pytest.fixture
def loaders(picture_masks, clip_masks):
    """loaders(root, inputs, size, **LoaderConfig) -> a loader by the name of its engine."""
    opened = []

    def make(root, inputs, size=None, first_step=0, engines=ENGINES, **config):
        speech = isinstance(inputs, SpeechInputs)
        source = open_source(root, "speech" if speech else "vision", inputs)
        for engine in engines:
            loader = make_loader(
                source,
                inputs=inputs,
                config=LoaderConfig(engine=engine, **config),
                seed=1,
                masks=clip_masks if speech else picture_masks,
                image_size=size,
                first_step=first_step,
            )
            opened.append(loader)
            yield loader

    yield make
    for loader in opened:
        loader.close()


@pytest.fixture
def by_dali(monkeypatch):
    """The number of samples in each batch that DALI itself has made."""
    from d2v_fast.data.engines import dali_graph

    counts = []
    start = dali_graph.Graph.start

    def counted(graph, samples):
        counts.append(len(samples))
        start(graph, samples)

    monkeypatch.setattr(dali_graph.Graph, "start", counted)
    return counts


def batches(loader, steps):
    return [batch for n in range(steps) for batch in loader.step(n)]


def pairs(loaders, steps):
    """The batches of both engines, which agree in everything but the last digits of the inputs."""
    for native, dali in zip(*(batches(loader, steps) for loader in loaders), strict=True):
        assert native.skipped == dali.skipped == 0
        for field in fields(native):
            ours, theirs = getattr(native, field.name), getattr(dali, field.name)
            if isinstance(ours, torch.Tensor) and field.name != "inputs":
                assert torch.equal(ours, theirs), field.name
        assert native.inputs.shape == dali.inputs.shape
        assert native.inputs.dtype == dali.inputs.dtype == torch.float32
        yield native.sample_ids, (native.inputs - dali.inputs).abs()


GREY = {"mean": (0.0,), "std": (1.0,)}
COLOUR = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.mark.parametrize(
    ("inputs", "side", "most"),
    [
        (VisionInputs(jitter=0, **COLOUR), 32, 2),
        (VisionInputs(jitter=0, **COLOUR), 224, 2),
        (VisionInputs(jitter=0, crop_scale=(1, 1), **COLOUR), 64, 2),
        (VisionInputs(jitter=0, **GREY), 64, 2),
        (VisionInputs(jitter=0.4, **COLOUR), 64, 4),
        (VisionInputs(jitter=0.4, **COLOUR), 224, 4),
    ],
    ids=["32", "224", "whole pictures", "grey", "jitter", "jitter 224"],
)
def test_pictures(natural, loaders, by_dali, inputs, side, most):
    opened = list(loaders(natural, inputs, side, batch_size=15))
    seen, above, values = set(), 0, 0
    for ids, difference in pairs(opened, 2 * opened[0].steps_per_epoch):
        difference *= 255
        seen |= set(ids.tolist())
        above += int((difference > most + 0.01).sum())
        values += difference.numel()
        assert difference.max() <= 2.01 * (1 + inputs.jitter) ** 3  # 2 / 255, as far as the jitter can enlarge it
        assert difference.mean((1, 2, 3)).max() <= 0.3  # of each sample
        assert difference.mean() <= 0.03
    assert above <= (1e-7 * values if inputs.jitter else 0)
    assert len(seen) == len(list(natural.iterdir()))
    assert sum(by_dali) > 0.8 * 2 * len(seen) * (0.6 if len(inputs.mean) == 1 else 1)


def test_statistics_and_jitter_of_the_published_recipe(natural, loaders):
    inputs = VisionInputs()
    for _, difference in pairs(loaders(natural, inputs, 48, batch_size=15), 3):
        assert difference.max() * min(inputs.std) * 255 <= 4.01
        assert difference.mean() * min(inputs.std) * 255 <= 0.05


def test_the_orientation_in_exif_is_left_alone_by_both(tmp_path, loaders):
    """Red on the left stays on the left, whatever a camera notes about how it was held."""
    array = np.zeros((32, 32, 3), np.uint8)
    array[:, :16, 0], array[:, 16:, 2] = 255, 255
    for i, orientation in enumerate((1, 3, 6, 8)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(array).save(tmp_path / f"{i}.jpg", quality=95, exif=exif)
        Image.fromarray(array).save(tmp_path / f"{i}.png", exif=exif)
    inputs = VisionInputs(jitter=0, flip=0, crop_scale=(1, 1), **COLOUR)
    for loader in loaders(tmp_path, inputs, 32, batch_size=8):
        (batch,) = loader.step(0)
        red = batch.inputs[:, 0]
        assert red[:, :, :12].min() > 0.9
        assert red[:, :, 20:].max() < 0.1


BATCHES = {
    "cropped": {"batch_size": 8},
    "padded": {"batch_size": 8, "pad": True},
    "buckets": {"batch_seconds": 9.0, "pad": True},
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("config", BATCHES.values(), ids=BATCHES.keys())
def test_clips(sounds, loaders, by_dali, normalize, config):
    inputs = SpeechInputs(min_seconds=0.1, max_seconds=2.5, normalize=normalize)
    source = open_source(sounds, "speech", inputs)
    resampled = {i for i in range(len(source)) if " 16000 " not in source.name(i)}
    assert 0 < len(resampled) < len(source)
    opened = list(loaders(sounds, inputs, **config))
    for ids, difference in pairs(opened, opened[0].steps_per_epoch):
        assert difference.max() <= 2e-6
        again = [row for row, i in enumerate(ids.tolist()) if i in resampled]
        assert (difference[again] == 0).all()  # the same code
    assert sum(by_dali) > 0.3 * len(source)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_the_same_bits(natural, sounds, loaders, engine, kind):
    """Whatever the number of threads and of batches prepared ahead."""
    root, inputs = (natural, VisionInputs()) if kind == "pictures" else (sounds, SpeechInputs(min_seconds=0.1))
    size = 32 if kind == "pictures" else None
    open_one = {"root": root, "inputs": inputs, "size": size, "engines": [engine], "batch_size": 6}
    (first,) = loaders(**open_one, threads=1, prefetch=1)
    expected = [first.step(n)[0] for n in range(9)]
    assert first.steps_per_epoch not in (3, 5)
    for begin, threads, prefetch in ((3, 2, 3), (5, 1, 2)):
        (again,) = loaders(**open_one, threads=threads, prefetch=prefetch, first_step=begin)
        for n in range(begin, 9):
            (batch,) = again.step(n)
            for field in fields(batch):
                ours, theirs = getattr(batch, field.name), getattr(expected[n], field.name)
                assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_validation_is_the_same(natural, loaders):
    native, dali = (list(loader.validation()) for loader in loaders(natural, VisionInputs(jitter=0), 32, holdout=0.3))
    assert [batch.sample_ids.tolist() for batch in native] == [batch.sample_ids.tolist() for batch in dali]
    assert all((ours.inputs - theirs.inputs).abs().max() < 0.05 for ours, theirs in zip(native, dali, strict=True))
