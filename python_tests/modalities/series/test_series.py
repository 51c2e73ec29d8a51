"""Recordings of many channels: files, windows, encoder, masks, runs, pictures."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from d2v_fast import presets, registry
from d2v_fast.config_json import from_dict, to_dict, with_overrides
from d2v_fast.data import ArraySource, DataError, SampleError, open_source
from d2v_fast.data.build import build
from d2v_fast.errors import ConfigError
from d2v_fast.evaluation import extract
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.modalities.series.config import SeriesEmbedding, SeriesInputs
from d2v_fast.models import build_encoder
from d2v_fast.report.data import describe
from d2v_fast.report.dry_run import dry_run
from d2v_fast.report.samples import draw
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer

INPUTS = SeriesInputs(sample_rate=100, min_seconds=1.0, max_seconds=4.0)
SERIES = registry.get("series")


def recording(length=500, channels=4, seed=0):
    return np.random.default_rng(seed).standard_normal((length, channels)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """The same recording in every format, and what is wrong in many ways."""
    path = tmp_path / "eeg"
    path.mkdir()
    whole = recording()
    np.save(path / "a.npy", whole)
    np.save(path / "b.npy", whole.T)
    soundfile.write(path / "c.wav", whole / 8, 100, subtype="FLOAT")
    return path


def parquet(path, whole, names=("C3", "C4", "O1", "O2")):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({name: whole[:, i] for i, name in enumerate(names)})
    __import__("pyarrow.parquet").parquet.write_table(table, path)


def opened(folder, inputs=INPUTS, channels=4, **others):
    return open_source(folder, "series", inputs, embedding=SeriesEmbedding(channels=channels), **others)


def made(source, i, inputs=INPUTS, channels=4):
    return SERIES.prepare(source.read(i), inputs, SeriesEmbedding(channels=channels), name=source.label(i))


def test_every_format_gives_the_same_recording(folder):
    parquet(folder / "d.parquet", recording())
    source = opened(folder)
    assert [source.name(i) for i in range(len(source))] == ["a.npy", "b.npy", "c.wav", "d.parquet"]
    assert source.sizes.tolist() == [[500, 4], [4, 500], [500, 4], [500, 4]]
    expected = made(source, 0)
    assert expected.shape[1] == 4
    for i in range(1, 4):
        assert torch.allclose(made(source, i), expected, atol=1e-5), source.name(i)


def test_sound_of_another_rate_is_resampled(folder):
    soundfile.write(folder / "e.wav", np.sin(np.arange(1000) / 40)[:, None].repeat(4, 1) / 2, 250)
    source = opened(folder)
    assert source.sizes[3].tolist() == [400, 4]
    found = source.read(3)
    assert found.shape == (400, 4)
    assert np.abs(found[50:350, 2] - np.sin(np.arange(400) / 16)[50:350] / 2).max() < 1e-2


def test_columns_of_parquet_by_name_and_order(tmp_path):
    whole = recording()
    parquet(tmp_path / "a.parquet", whole)
    inputs = SeriesInputs(min_seconds=1, channels=("O1", "C3"))
    assert np.array_equal(opened(tmp_path, inputs, channels=2).read(0), whole[:, [2, 0]])
    parquet(tmp_path / "b.parquet", whole[:, :2], ("C3", "C4"))
    with pytest.raises(SampleError, match=r"b\.parquet: lacks the channel 'O1'; it has C3, C4"):
        opened(tmp_path, inputs, channels=2).read(1)


def test_a_null_of_parquet_is_a_gap(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"x": [1, 2, None, 4] * 50, "y": list(range(200))}), tmp_path / "a.parquet")
    with pytest.raises(SampleError, match=r"gap in channel 0 .* from 2 on, at 0\.02 s"):
        made(opened(tmp_path, channels=2), 0, channels=2)


def test_columns_that_are_no_numbers(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"x": [1.0] * 200, "who": ["me"] * 200}), tmp_path / "a.parquet")
    with pytest.raises(SampleError, match=r"column .who. holds string, no numbers"):
        opened(tmp_path, channels=2).read(0)


def negative_shape():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (-300, 4)})
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("three.npy", recording(channels=3), r"has 3 channels, but model\.embedding\.channels is 4"),
        ("empty.npy", recording(0), r"is float32 \[0, 4\]; it should be numbers"),
        ("cube.npy", np.zeros((5, 5, 5)), "it should be numbers"),
        ("objects.npy", np.array([{}] * 300), "is object"),
        ("negative.npy", negative_shape(), r"is float32 \[-300, 4\]; it should be numbers"),
        ("text.npy", b"no array at all", r"is no \.npy file"),
        ("cut.npy", 900, r"is cut off: 772 of 8000 bytes of numbers are there"),
        ("cut.parquet", b"PAR1 and no more", "not a Parquet file"),
        ("noise.wav", b"RIFF????", "Format not recognised"),
    ],
)
def test_wrong_files_are_named_and_the_run_goes_on(folder, capsys, make_config, name, content, reason):
    if isinstance(content, int):
        np.save(folder / name, recording())
        (folder / name).write_bytes((folder / name).read_bytes()[:content])
    elif isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content, allow_pickle=True)
    source = opened(folder)
    wrong = [source.name(i) for i in range(4)].index(name)
    with pytest.raises(SampleError, match=reason):
        source.read(wrong)
    config = with_overrides(presets.series_tiny(), {"inputs.min_seconds": 1.0, "loader.max_skipped": 0.5})
    with open_loader(config, open_data(folder, config, None)) as loader:
        batch = loader.step(0)[0]
    assert len(batch.sample_ids) == 3
    assert wrong not in batch.sample_ids.tolist()
    assert f"skipped {folder / name}: " in capsys.readouterr().err


def test_gaps_and_missing_channels_are_that_samples_failure(folder, capsys):
    gap, absent = recording(), recording()
    gap[100:150, 2] = np.nan
    absent[:, 1] = np.nan
    np.save(folder / "gap.npy", gap)
    np.save(folder / "absent.npy", absent)
    config = with_overrides(presets.series_tiny(), {"inputs.min_seconds": 1.0, "loader.max_skipped": 0.5})
    with open_loader(config, open_data(folder, config, None)) as loader:
        batch = loader.step(0)[0]
        assert batch.skipped == 2
        assert loader.skipped == 2
    err = capsys.readouterr().err
    assert "gap.npy: has a gap in channel 2 (counted from 0): 50 values that are no finite float32 from 100 on" in err
    assert "absent.npy: lacks channel 1 (counted from 0)" in err


def test_manifest_and_deep_build(folder, tmp_path):
    gap = recording()
    gap[7, 0] = np.inf
    np.save(folder / "gap.npy", gap)
    built = build(folder, tmp_path / "eeg.jsonl", modality="series", deep=True)
    assert {built.listing.names[i]: reason for i, reason in built.problems.items()} == {
        "gap.npy": "has a gap in channel 0 (counted from 0): 1 values that are no finite float32 from 7 on: fill it, "
        "or cut the recording there"
    }
    source = opened(tmp_path / "eeg.jsonl", run=tmp_path / "run")
    assert source.sizes.tolist() == [[500, 4], [4, 500], [500, 4]]
    again = opened(tmp_path / "eeg.jsonl", run=tmp_path / "run")
    assert again.fingerprint == source.fingerprint
    assert np.array_equal(again.read(1), source.read(1))


def test_parts_of_files_are_for_sound_only(folder, tmp_path):
    rows = [{"path": f"eeg/{name}", "offset": 1.0, "duration": 2.0} for name in ("a.npy", "c.wav")]
    (tmp_path / "parts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(tmp_path / "parts.jsonl")
    assert source.sizes.tolist() == [[0, 0], [200, 4]]
    assert np.allclose(source.read(1), recording()[100:300] / 8)
    with pytest.raises(SampleError, match="only sound files can be cut so"):
        source.read(0)


def test_arrays_and_tensors(make_config):
    samples = [recording(300), torch.from_numpy(recording(400).T.copy()), recording(500).astype(np.int16)]
    assert ArraySource("series", samples).sizes.tolist() == [[300, 4], [4, 400], [500, 4]]
    assert ArraySource("series", [np.zeros(100)]).sizes.tolist() == [[100, 1]]
    with pytest.raises(DataError, match="sample 1: is float64"):
        ArraySource("series", [np.zeros((5, 5)), np.zeros((5, 5, 5))])


@pytest.mark.parametrize("pad", [False, True])
def test_windows_of_the_whole_normalised_recording(pad):
    sizes = [300, 250, 900]
    source = ArraySource("series", [recording(n, seed=n) for n in sizes])
    config = with_overrides(
        presets.series_tiny(),
        {"inputs.min_seconds": 1.0, "inputs.max_seconds": 4.0, "loader.batch_size": 3, "loader.pad": pad},
    )
    with open_loader(config, source) as loader:
        batch = loader.step(0)[0]
    longest = 400 if pad else 250
    assert batch.inputs.shape == (3, longest, 4)
    for row, i in enumerate(batch.sample_ids.tolist()):
        length = min(sizes[i], longest)
        whole = recording(sizes[i], seed=sizes[i])
        whole = (whole - whole.mean(0)) / whole.std(0)
        starts = range(sizes[i] - length + 1)
        window = batch.inputs[row, :length].numpy()
        assert any(np.allclose(whole[s : s + length], window, atol=1e-4) for s in starts)
        assert (batch.inputs[row, length:] == 0).all()
        if pad:
            assert batch.lengths[row] == length
            frames = config.model.embedding.frames(length)
            assert batch.mask[row, :frames].any()
            assert not batch.mask[row, frames:].any()


def test_the_encoder_is_convolutions_over_all_channels():
    model = with_overrides(presets.series_tiny().model, {"embedding.channels": 3})
    encoder = build_encoder(model).eval()
    x = torch.randn(2, 410, 3)
    expected = x.transpose(1, 2)
    for block in encoder.embedding.convolutions:
        expected = F.conv1d(expected, block.weight, stride=block.stride).transpose(1, 2)
        expected = F.gelu(F.layer_norm(expected, expected.shape[2:], block.norm.weight, block.norm.bias))
        expected = expected.transpose(1, 2)
    expected = encoder.embedding.projection(encoder.embedding.norm(expected.transpose(1, 2)))
    local = encoder.embed(x)
    assert local.shape[1] == model.embedding.frames(410)
    assert torch.allclose(local, expected, atol=1e-4)
    with pytest.raises(ValueError, match="takes 3 channels, got inputs of 4"):
        encoder(torch.randn(2, 410, 4))
    with pytest.raises(ValueError, match="clips of 5 samples are too short: one frame needs 25"):
        encoder(torch.randn(2, 5, 3))


def test_prepared_samples_are_extracted_whatever_their_length():
    config = presets.series_tiny()
    encoder = build_encoder(config.model)
    samples = [recording(n) for n in (300, 300, 457)]
    features = extract(encoder, samples, config.inputs)
    assert features.shape == (3, 128)
    assert np.array_equal(features[0], features[1])
    cut = SERIES.prepare(samples[2], config.inputs, config.model.embedding)
    assert len(cut) == config.model.embedding.samples(config.model.embedding.frames(457))
    with pytest.raises(SampleError, match="has 20 samples; the first frame of this model needs 25"):
        SERIES.prepare(recording(20), config.inputs, config.model.embedding)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.embedding.channels": 0}, r"model\.embedding\.channels is 0, but it must be at least 1"),
        ({"inputs.channels": ("a", "b")}, r"names 2 channels, but model\.embedding\.channels is 4"),
        ({"inputs.channels": ("a", "a")}, r"inputs\.channels is .* names of columns, each once"),
        ({"inputs.normalize": "clip"}, r"inputs\.normalize: expected one of 'channel', 'all', 'none'"),
        ({"inputs.min_seconds": 0.1}, r"10 samples are too few for one frame of the model, which needs 25"),
        ({"inputs.max_seconds": 4.0, "mask.length": 30}, r"mask\.length is 30, but the longest clip"),
        ({"loader.batch_seconds": 1.0}, "less than one clip"),
        ({"loader.engine": "dali"}, "series has nothing to decode"),
        ({"loader.batch_tokens": 10}, "is not for series"),
    ],
)
def test_settings_are_checked(overrides, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(presets.series_tiny(), overrides)


def test_the_configuration_survives_json():
    config = with_overrides(presets.series_tiny(), {"inputs.channels": ("a", "b", "c", "d")})
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("layer_drop", [0.0, 0.2])
def test_an_interrupted_run_has_the_same_bits(
    make_config, make_data, train, tmp_path, monkeypatch, threads, assert_same_run, layer_drop
):
    config = make_config("series", model={"transformer": {"layer_drop": layer_drop}})
    with threads(1):
        train(config, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(PretrainingTask, "losses", dying(PretrainingTask.losses, call=10))
            with pytest.raises(Stopped):
                train(config, tmp_path / "cut")
        train(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut", 8)


class Stopped(BaseException):
    """The process is gone."""


def dying(losses, call):
    calls = itertools.count(1)

    def wrapper(*args, **kwargs):
        if next(calls) == call:  # in the middle of step 5, after the checkpoint of step 3
            raise Stopped
        return losses(*args, **kwargs)

    return wrapper


def test_dry_run_and_pictures(folder, tmp_path):
    config = with_overrides(presets.series_tiny(), {"inputs.min_seconds": 1.0})
    lines = dict(dry_run(Data2VecTrainer(config, data=folder, out=tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    assert lines["samples"] == "3"
    source = open_data(folder, config, None)
    lines, (histogram,) = describe(source, config.inputs)
    assert ("channels", "4 in 3") in lines
    assert ("sampling rates", "1 at 100 Hz") in lines
    assert histogram.counts.tolist() == [3]
    seen = SERIES.draw(source, config, first_batch(config, source))
    assert seen.rows[0].panels[0].samples.shape == (4, 500)
    assert seen.rows[0].panels[0].window == (0, 500)
    assert seen.rows[1].panels[0].mask.shape == (config.model.embedding.frames(500),)
    draw(source, config, tmp_path / "picture.png", "series-tiny")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def first_batch(config, source):
    with open_loader(config, source) as loader:
        return loader.step(0)[0]


def test_a_loaded_run_knows_its_modality(make_config, make_data, tmp_path):
    from d2v_fast import load

    config = make_config("series", steps=1)
    run = Data2VecTrainer(config, data=make_data("series"), out=tmp_path / "run").fit()
    assert json.loads((run / "config.json").read_text())["modality"]["name"] == "series"
    features = extract(load(run), [recording(200, 3)], config.inputs)
    assert np.isfinite(features).all()


def test_a_header_asks_for_no_more_than_the_file_holds(folder):
    """A damaged header says two gigabytes; no memory is taken for them."""
    with (folder / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": ((1 << 26), 4)})
        file.write(bytes(1000))
    source = opened(folder)
    with pytest.raises(SampleError, match=r"huge\.npy: is cut off: 1000 of 2147483648 bytes of numbers are there"):
        source.read(3)


@pytest.mark.parametrize("dtype", [">f8", "<f2", "u2", "i8", "u1"])
def test_number_formats_and_orders_of_memory(tmp_path, dtype):
    whole = (recording() * 20 + 100).clip(0, 250).astype(dtype)
    np.save(tmp_path / "a.npy", whole)
    np.save(tmp_path / "b.npy", np.asfortranarray(whole))
    source = opened(tmp_path)
    expected = SERIES.prepare(whole.astype(np.float32), INPUTS, SeriesEmbedding(channels=4))
    for i in range(2):
        assert np.array_equal(source.read(i).astype(float), whole.astype(float))
        assert torch.equal(made(source, i), expected)


def test_no_file_has_the_channels_of_the_model(folder):
    """All are broken then, and none is too short."""
    config = with_overrides(presets.series_tiny(), {"model.embedding.channels": 7})
    with pytest.raises(DataError, match=r"none of the \d+ samples can be read; the first: .* channels, but .* is 7"):
        open_loader(config, open_data(folder, config, None))
