"""Spectrograms: sound and matrices, windows, encoder, masks, runs, pictures."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from d2v_fast import load, masking, presets, registry
from d2v_fast.config_json import from_dict, to_dict, with_overrides
from d2v_fast.data import ArraySource, DataError, SampleError, open_source
from d2v_fast.data.build import build
from d2v_fast.errors import ConfigError
from d2v_fast.evaluation import extract
from d2v_fast.masking import InverseBlockMask, SpanMask
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.modalities.spectrogram import encoder as encoders
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.spectrogram.masks import mask_maker
from d2v_fast.modalities.spectrogram.sampling import energies
from d2v_fast.modalities.speech.mel import frame_count, log_mel
from d2v_fast.models import build_encoder
from d2v_fast.report.data import describe
from d2v_fast.report.dry_run import dry_run
from d2v_fast.report.samples import draw
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer

TINY = presets.spectrogram_tiny()
INPUTS, EMBEDDING = TINY.inputs, TINY.model.embedding
ROOM = registry.get("spectrogram")


def tone(seconds=2.0, rate=16000, seed=0):
    noise = np.random.default_rng(seed)
    wave = 0.3 * np.sin(np.arange(int(seconds * rate)) * noise.uniform(0.05, 0.2)) + 0.02 * noise.standard_normal(
        int(seconds * rate)
    )
    return wave.astype(np.float32)


def matrix(frames=200, bins=80, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, bins)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Sound of two rates, and matrices both ways."""
    path = tmp_path / "clips"
    path.mkdir()
    soundfile.write(path / "a.wav", tone(), 16000)
    soundfile.write(path / "b.flac", np.stack([tone(rate=8000)] * 2, axis=1), 8000)
    np.save(path / "c.npy", matrix())
    np.save(path / "d.npy", matrix().T)
    return path


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 559, 560, 561, 16000, 16001])
def test_frames_are_counted_as_they_are_made(samples):
    for rate, frame_rate in ((16000, 100.0), (8000, 50.0), (44100, 62.5)):
        made = log_mel(np.ones(samples), rate, 24, frame_rate)
        assert made.shape == (int(frame_count(samples, rate, frame_rate)), 24)
    assert frame_count(np.array([0, samples]), 16000).tolist() == [0, max(0, samples - 400) // 160 + 1]


@pytest.mark.parametrize("bands", [16, 40, 80, 128])
def test_no_band_is_empty(bands):
    for rate in (8000, 16000, 48000):
        energies = log_mel(np.random.default_rng(0).standard_normal(rate), rate, bands)
        assert energies.min() > np.log(1e-8) + 1


def test_sound_and_its_energies_given_are_the_same():
    wave = tone()
    given = log_mel(wave, 16000, 80)
    made = energies(wave, INPUTS, EMBEDDING, "x")
    assert torch.equal(made, torch.from_numpy(given).float())
    assert torch.equal(energies(given.T, INPUTS, EMBEDDING, "x"), made)
    whole = (wave * 32767).astype(np.int16)
    assert torch.allclose(energies(whole, INPUTS, EMBEDDING, "x"), made, atol=0.05)


def test_files(folder):
    source = open_source(folder, "spectrogram", INPUTS, embedding=EMBEDDING)
    assert source.sizes.tolist() == [[32000, 1], [32000, 1], [200, 80], [80, 200]]
    made = [ROOM.prepare(source.read(i), INPUTS, EMBEDDING, name=source.name(i)) for i in range(4)]
    assert [tuple(one.shape) for one in made] == [(192, 80)] * 4
    assert torch.equal(made[2], made[3])
    assert abs(float(made[0].mean())) < 0.1
    assert abs(float(ROOM.prepare(matrix(192), INPUTS, EMBEDDING).std()) - 1) < 1e-3


def test_what_is_wrong_is_named_and_the_run_goes_on(folder, capsys):
    gap = matrix()
    gap[5:9, 7] = np.nan
    np.save(folder / "gap.npy", gap)
    np.save(folder / "bins.npy", matrix(bins=64))
    wave = tone()
    wave[100] = np.inf
    soundfile.write(folder / "inf.wav", wave, 16000, subtype="FLOAT")
    config = with_overrides(TINY, {"loader.max_skipped": 0.5})
    source = open_data(folder, config, None)
    with open_loader(config, source) as loader:
        batch = loader.step(0)[0]
        assert loader.skipped == 3
    assert sorted(source.name(i) for i in batch.sample_ids) == ["a.wav", "b.flac", "c.npy", "d.npy"]
    err = capsys.readouterr().err
    assert (
        "gap.npy: has a gap in bin 7 (counted from 0): 4 values that are no finite float32 from 5 on, at 0.05 s" in err
    )
    assert "bins.npy: has 64 bins, but model.embedding.bins is 80" in err
    assert "inf.wav: has a gap in channel 0" in err


def test_manifest_and_deep_build(folder, tmp_path):
    np.save(folder / "cut.npy", matrix())
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:5000])
    built = build(folder, tmp_path / "clips.jsonl", modality="spectrogram", deep=True)
    assert [built.listing.names[i] for i in built.problems] == ["cut.npy"]
    source = open_source(tmp_path / "clips.jsonl", "spectrogram", INPUTS, embedding=EMBEDDING)
    assert source.sizes.tolist() == [[32000, 1], [32000, 1], [200, 80], [80, 200]]


def test_arrays():
    samples = [tone(), torch.from_numpy(matrix()), matrix().T]
    assert ArraySource("spectrogram", samples).sizes.tolist() == [[32000, 1], [200, 80], [80, 200]]
    with pytest.raises(DataError, match="sample 0: is float64"):
        ArraySource("spectrogram", [np.zeros((2, 3, 4))])
    for wrong in (np.zeros((200, 64)), np.zeros(3, np.int32), np.zeros((3, 4, 5))):
        with pytest.raises(SampleError, match=r"x: (has|is) "):
            energies(wrong, INPUTS, EMBEDDING, "x")


def test_the_encoder_is_a_convolution_of_patches_in_the_order_of_time():
    encoder = build_encoder(TINY.model).eval()
    x = torch.randn(2, 100, 80)  # four frames are left behind the last patch
    patches = encoder.embedding.patches
    expected = F.conv2d(x[:, None, :96], patches.weight, patches.bias, stride=(16, 16))
    local = encoder.embed(x)
    assert local.shape == (2, 6 * 5, 128)
    assert torch.allclose(local, expected.flatten(2).transpose(1, 2), atol=1e-5)
    # patch (time, band) is token time * 5 + band, so a shorter input has the same first tokens
    assert torch.allclose(encoder.embed(x[:, :48]), local[:, :15], atol=1e-6)
    assert torch.equal(encoder.place(local[:, :15], None)[0], encoder.place(local, None)[0][:, :15])
    for shape in ((2, 100, 64), (2, 15, 80), (2, 528, 80)):
        with pytest.raises(ValueError, match="takes 80 bins and 16 to 512 frames, got inputs of"):
            encoder(torch.randn(shape))


def test_patches_of_all_bins_are_a_sequence():
    encoder = build_encoder(with_overrides(TINY.model, {"embedding.patch": (2, 80)}))
    assert encoder.shape(30) == (30,)  # convolutions of a decoder go over time alone
    assert build_encoder(TINY.model).shape(30) == (6, 5)


def test_bins_are_stretched_as_by_interpolation():
    torch.manual_seed(0)
    x = torch.randn(64, 3, 20)
    state = torch.get_rng_state()
    found = encoders.stretched(x, 0.3)
    torch.set_rng_state(state)
    factors = np.exp(0.3 * (2 * torch.rand(64, 1).numpy() - 1))[:, 0]
    assert factors.min() < 0.8
    assert factors.max() > 1.25
    for row, factor in enumerate(factors):
        for frame in range(3):
            expected = np.interp(np.arange(20) * factor, np.arange(20), x[row, frame].numpy())  # ends with the last bin
            np.testing.assert_allclose(found[row, frame].numpy(), expected, atol=1e-4)


def test_only_a_student_that_learns_is_stretched(make_config, make_data, monkeypatch, tmp_path):
    stretched, seen = encoders.stretched, []

    def watched(inputs, most):
        seen.append((torch.is_grad_enabled(), most))  # the teacher computes without gradients
        return stretched(inputs, most)

    monkeypatch.setattr(encoders, "stretched", watched)
    config = make_config("spectrogram", steps=2, model={"embedding": {"warp": 0.2}, "teacher": {"averages": "all"}})
    run = Data2VecTrainer(config, data=make_data("spectrogram"), out=tmp_path / "run").fit()
    assert seen == [(True, 0.2)] * (2 * config.loader.accumulation)  # each pass of the student
    again = extract(load(run), [matrix(30, 16)], config.inputs)
    assert np.array_equal(again, extract(load(run), [matrix(30, 16)], config.inputs))
    assert len(seen) == 2 * config.loader.accumulation


def test_padding_changes_no_feature():
    encoder = build_encoder(TINY.model).eval()
    x = torch.randn(2, 96, 80)
    lengths = torch.tensor([96, 50])
    with torch.no_grad():
        padded = encoder(x, lengths)
        alone = encoder(x[1:, :48])
    assert encoder.token_lengths(lengths).tolist() == [30, 15]
    assert torch.allclose(padded[1, :15], alone[0], atol=1e-5)


@pytest.mark.parametrize("mask", [InverseBlockMask(), SpanMask(probability=0.5, length=2)])
def test_a_mask_depends_on_its_own_sample_only(mask):
    make = mask_maker(mask, EMBEDDING, seed=3)
    lengths, ids = torch.tensor([160, 96, 160, 100]), np.array([7, 2, 9, 4])
    made = make(torch.zeros(4, 160, 80), lengths, ids, 1)
    assert made.mask.shape == (4, 50)
    assert torch.equal(made.rows, made.mask.flatten().nonzero().flatten())
    for row, (length, sample) in enumerate(zip(lengths.tolist(), ids, strict=True)):
        alone = make(torch.zeros(1, length, 80), None, np.array([sample]), 1).mask[0]
        assert torch.equal(made.mask[row, : len(alone)], alone)
        assert not made.mask[row, len(alone) :].any()
        grid = alone.view(-1, 5)
        if isinstance(mask, SpanMask):
            assert (grid == grid[:, :1]).all()
            assert grid.any()
        else:
            assert int((~grid).sum()) == int(grid.numel() * (1 - mask.ratio))
            whole = masking.inverse_block_masks(mask, (len(grid), 5), seed=3, epoch=1, sample_ids=[sample])
            assert torch.equal(whole.mask[0], alone)


@pytest.mark.parametrize("pad", [False, True])
def test_windows_of_the_whole_normalised_clip(pad):
    sizes = [150, 120, 390]
    source = ArraySource("spectrogram", [matrix(n, seed=n) for n in sizes])
    config = with_overrides(TINY, {"inputs.max_seconds": 3.0, "loader.batch_size": 3, "loader.pad": pad})
    with open_loader(config, source) as loader:
        batch = loader.step(0)[0]
    assert batch.inputs.shape == (3, 300 if pad else 120, 80)
    for row, i in enumerate(batch.sample_ids.tolist()):
        length = min(sizes[i], 300) if pad else 120
        whole = matrix(sizes[i], seed=sizes[i])
        whole = (whole - whole.mean()) / whole.std()
        window = batch.inputs[row, :length].numpy()
        starts = range(sizes[i] - length + 1)
        assert any(np.allclose(whole[s : s + length], window, atol=1e-4) for s in starts)
        assert (batch.inputs[row, length:] == 0).all()


def test_a_clip_of_the_least_seconds_takes_part():
    source = ArraySource("spectrogram", [tone(1.0)] * 4 + [tone(0.9)])
    with open_loader(TINY, source) as loader:
        assert loader.left_out == 1
        assert loader.step(0)[0].inputs.shape == (4, 98, 80)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.embedding.bins": 72}, r"model\.embedding\.bins is 72, but it must be a multiple of the bins of"),
        ({"model.embedding.patch": (0, 16)}, "two numbers of at least 1"),
        ({"model.embedding.warp": 1.0}, r"warp is 1\.0, but it must be at least 0 and below 1"),
        ({"model.embedding.max_frames": 8}, r"max_frames is 8, but it must be at least 16"),
        ({"inputs.max_seconds": 10.0}, r"1000 frames, more than model\.embedding\.max_frames 512"),
        ({"inputs.min_seconds": 0.1}, r"8 frames are too few for one patch, which takes 16"),
        ({"inputs.frame_rate": 20000.0}, r"inputs\.frame_rate is 20000\.0, but it must be at most sample_rate"),
        ({"model.transformer": {"dim": 126, "heads": 2}}, "must be a multiple of 4"),
        ({"mask.ratio": 0.99}, "of the 30 patches of the shortest clip .* nothing would be kept"),
        ({"mask": SpanMask(length=40)}, r"mask\.length is 40, but the longest clip .* has only 25 frames"),
        ({"loader.batch_seconds": 0.5}, "less than one clip"),
        ({"loader.engine": "dali"}, "spectrogram has nothing to decode"),
        ({"mask": masking.BlockMask()}, "needs a InverseBlockMask or a SpanMask"),
    ],
)
def test_settings_are_checked(overrides, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(TINY, overrides)


def test_the_configuration_survives_json():
    assert from_dict(type(TINY), json.loads(json.dumps(to_dict(TINY)))) == TINY


def test_prepared_samples_are_extracted_whatever_their_length():
    encoder = build_encoder(TINY.model)
    features = extract(encoder, [matrix(100), matrix(100), tone(1.7), matrix(512)], INPUTS)
    assert features.shape == (4, 128)
    assert np.array_equal(features[0], features[1])
    for frames in (15, 528):
        with pytest.raises(SampleError, match=f"has {frames} frames; the model takes 16 to 512"):
            ROOM.prepare(matrix(frames), INPUTS, EMBEDDING)


class Stopped(BaseException):
    """The process is gone."""


def dying(losses, call):
    calls = itertools.count(1)

    def wrapper(*args, **kwargs):
        if next(calls) == call:  # in the middle of step 5, after the checkpoint of step 3
            raise Stopped
        return losses(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "model", [{"transformer": {"layer_drop": 0.0}}, {"transformer": {"layer_drop": 0.2}, "embedding": {"warp": 0.1}}]
)
def test_an_interrupted_run_has_the_same_bits(
    make_config, make_data, train, tmp_path, monkeypatch, threads, assert_same_run, model
):
    config = make_config("spectrogram", model=model)
    with threads(1):
        train(config, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(PretrainingTask, "losses", dying(PretrainingTask.losses, call=10))
            with pytest.raises(Stopped):
                train(config, tmp_path / "cut")
        train(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut", 8)


def test_spans_train_too_and_a_loaded_run_knows_its_modality(make_config, make_data, tmp_path):
    config = make_config("spectrogram", steps=1, mask=SpanMask(length=2))
    run = Data2VecTrainer(config, data=make_data("spectrogram"), out=tmp_path / "run").fit()
    assert json.loads((run / "config.json").read_text())["modality"]["name"] == "spectrogram"
    assert np.isfinite(extract(load(run), [matrix(30, 16)], config.inputs)).all()


def test_dry_run_and_pictures(folder, tmp_path):
    lines = dict(dry_run(Data2VecTrainer(TINY, data=folder, out=tmp_path / "run")))
    assert lines["samples"] == "4"
    assert not (tmp_path / "run").exists()
    source = open_data(folder, TINY, None)
    lines, (histogram,) = describe(source, INPUTS)
    assert ("sampling rates", "1 at 8,000 Hz, 1 at 16,000 Hz") in lines
    assert histogram.counts.sum() == 4
    with open_loader(TINY, source) as loader:
        seen = ROOM.draw(source, TINY, loader.step(0)[0])
    stored, window = seen.rows[0].panels[0], seen.rows[1].panels[0]
    assert stored.energies.shape[0] == 80
    assert window.mask.shape == (5, window.energies.shape[1] // 16)
    draw(source, TINY, tmp_path / "picture.png", "spectrogram-tiny")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_defaults_fit_each_other():
    inputs, embedding = SpectrogramInputs(), SpectrogramEmbedding()
    assert inputs.max_seconds * inputs.frame_rate <= embedding.max_frames
