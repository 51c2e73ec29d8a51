import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from d2v_fast import presets, registry
from d2v_fast.data import ArraySource, SampleError, open_source
from d2v_fast.errors import ConfigError
from d2v_fast.evaluation import extract
from d2v_fast.evaluation.layers import token_features
from d2v_fast.models import build_encoder, token_count

RNG = np.random.default_rng(0)


def network(name):
    torch.manual_seed(0)
    config = presets.NAMES[name]()
    return build_encoder(config.model), config


def test_pictures_are_the_mean_over_patches():
    encoder, config = network("vision-tiny")
    side = config.model.embedding.image_size
    pictures = list(RNG.integers(0, 256, (5, side, side), dtype=np.uint8))
    found = extract(encoder, pictures, config.inputs, batch_size=2)
    mean, std = config.inputs.mean[0], config.inputs.std[0]
    images = torch.tensor((np.stack(pictures)[:, None] / 255 - mean) / std, dtype=torch.float32)
    with torch.no_grad():
        expected = encoder.eval()(images).mean(1).numpy()
    assert found.shape == (5, config.model.transformer.dim)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_source_gives_the_same_as_its_samples():
    encoder, config = network("vision-tiny")
    pictures = list(RNG.integers(0, 256, (3, 8, 8), dtype=np.uint8))
    found = extract(encoder, ArraySource("vision", pictures), config.inputs)
    np.testing.assert_array_equal(found, extract(encoder, pictures, config.inputs))


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (3, 8), (30, 1)])
@pytest.mark.parametrize("preset", ["vision-tiny", "colour"])
def test_files_give_the_same_as_arrays(preset, size, tmp_path):
    encoder, config = network("vision-tiny")
    if preset == "colour":
        embedding = replace(config.model.embedding, channels=3)
        inputs = replace(config.inputs, mean=(0.5,) * 3, std=(0.25,) * 3)
        config = replace(config, model=replace(config.model, embedding=embedding), inputs=inputs)
        encoder = build_encoder(config.model)
    pictures = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(5)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path, "vision", config.inputs)
    np.testing.assert_allclose(
        extract(encoder, source, config.inputs), extract(encoder, pictures, config.inputs), atol=1e-6
    )


class Watched:
    """Clips that are made when they are read; how many of them live at once is counted."""

    def __init__(self, lengths):
        self.lengths, self.alive, self.most = lengths, 0, 0

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        self.alive += 1
        self.most = max(self.most, self.alive)
        clip = np.random.default_rng(i).normal(size=self.lengths[i]).astype(np.float32)
        weakref.finalize(clip, self.gone)
        return clip

    def gone(self):
        self.alive -= 1


def test_samples_are_read_a_few_batches_at_a_time():
    encoder, config = network("speech-tiny")
    clips = Watched([4000 + 320 * (i % 40) for i in range(120)])  # forty lengths, three clips of each
    prepared = []
    original = type(registry.get("speech")).prepare

    def watched(self, *arguments, **options):
        sample = original(self, *arguments, **options)
        prepared.append(weakref.ref(sample))
        most[0] = max(most[0], sum(one() is not None for one in prepared))
        return sample

    most = [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(registry.get("speech")), "prepare", watched)
        found = extract(encoder, clips, config.inputs, batch_size=2)
    assert most[0] <= 20  # eight batches of two, and the one on its way
    assert clips.most <= 20
    whole = extract(encoder, [clips[i] for i in range(120)], config.inputs, batch_size=64)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_the_mode_is_put_back_after_an_error():
    encoder, config = network("vision-tiny")
    encoder.train()
    with pytest.raises(SampleError, match="sample 1"):
        extract(encoder, [np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.float32)], config.inputs)
    assert encoder.training


def test_pictures_of_another_size_are_resized_whole():
    encoder, config = network("vision-tiny")
    found = extract(encoder, [np.full((20, 30), 77, np.uint8)], config.inputs)
    small = extract(encoder, [np.full((8, 8), 77, np.uint8)], config.inputs)
    np.testing.assert_allclose(found, small, atol=1e-6)


def test_clips_of_any_length_do_not_depend_on_their_neighbours():
    encoder, config = network("speech-tiny")
    lengths = (9000, 4000, 6500, 4003)
    clips = [RNG.normal(size=n).astype(np.float32) for n in lengths]
    found = extract(encoder, clips, config.inputs)
    waves = [torch.tensor((clip - clip.mean()) / np.sqrt(clip.var() + 1e-5))[None] for clip in clips]
    with torch.no_grad():
        expected = [encoder.eval()(wave).mean(1)[0].numpy() for wave in waves]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert np.abs(found[1] - found[2]).max() > 0.05  # and the clips do differ


def test_samples_behind_the_last_frame_are_not_needed():
    _, config = network("speech-tiny")
    for samples in (4000, 4321, 16000):
        needed = config.model.embedding.seen(samples)
        frames = token_count(config.model, samples)
        assert needed <= samples
        assert token_count(config.model, needed) == frames
        assert token_count(config.model, needed - 1) == frames - 1


def test_texts_of_any_length():
    encoder, config = network("text-tiny")
    texts = [np.array([0, *RNG.integers(5, 250, n)]) for n in (3, 40, 11)]
    found = extract(encoder, texts, config.inputs)
    with torch.no_grad():
        expected = [encoder.eval()(torch.from_numpy(text)[None]).mean(1)[0].numpy() for text in texts]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_one_position_of_each_sample():
    encoder, config = network("text-tiny")
    texts = [np.array([0, *RNG.integers(5, 250, n)]) for n in (9, 4, 9)]
    found = extract(encoder, texts, config.inputs, positions=[3, 1, 7])
    with torch.no_grad():
        expected = [
            encoder.eval()(torch.from_numpy(x)[None])[0, i].numpy() for x, i in zip(texts, (3, 1, 7), strict=True)
        ]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    with pytest.raises(ValueError, match=r"positions .*10.* were asked for of samples"):
        extract(encoder, texts, config.inputs, positions=[3, 1, 10])
    with pytest.raises(ValueError, match="one position for each of 3 samples, got 2"):
        extract(encoder, texts, config.inputs, positions=[1, 2])


def test_means_and_deviations_of_several_layers():
    encoder, config = network("vision-tiny")
    pictures = list(RNG.integers(0, 256, (5, 8, 8), dtype=np.uint8))
    found = extract(encoder, pictures, config.inputs, batch_size=2, layers="all", deviation=True)
    mean, std = config.inputs.mean[0], config.inputs.std[0]
    images = torch.tensor((np.stack(pictures)[:, None] / 255 - mean) / std, dtype=torch.float32)
    layers = range(len(encoder.blocks) + 1)
    with torch.no_grad():
        tokens = token_features(encoder.eval(), images, layers).numpy().astype(np.float64)
    assert found.shape == (5, 2 * len(layers) * config.model.transformer.dim)
    means, deviations = np.split(found, 2, axis=1)
    np.testing.assert_allclose(means, tokens.mean(1).reshape(5, -1), atol=2e-6)
    np.testing.assert_allclose(deviations, tokens.std(1).reshape(5, -1), atol=2e-6)
    single = extract(encoder, pictures, config.inputs, layers=1)
    np.testing.assert_allclose(single, tokens.mean(1)[:, 1], atol=2e-6)


def test_mode_and_gradients_are_as_before():
    encoder, config = network("text-tiny")
    encoder.train()
    texts = [np.array([0, 7, 8])] * 2
    first, second = (extract(encoder, texts, config.inputs) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert encoder.training
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())


def test_refuses_nothing_and_nonsense():
    encoder, config = network("vision-tiny")
    with pytest.raises(ValueError, match="got 0 samples"):
        extract(encoder, [], config.inputs)
    with pytest.raises(ValueError, match="positive batch_size"):
        extract(encoder, [np.zeros((8, 8), np.uint8)], config.inputs, batch_size=0)
    with pytest.raises(SampleError, match="sample 0"):
        extract(encoder, [np.zeros((8, 8), np.float32)], replace(config.inputs))
    with pytest.raises(ConfigError, match="layers 0 to 4"):
        extract(encoder, [np.zeros((8, 8), np.uint8)], config.inputs, layers=5)
    with pytest.raises(ValueError, match="no deviation at a single position"):
        extract(encoder, [np.zeros((8, 8), np.uint8)], config.inputs, positions=[0], deviation=True)
