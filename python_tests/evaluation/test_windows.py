"""Long samples in windows: the features of the whole, whatever the batch, and no more in memory than windows."""

from __future__ import annotations

import itertools
import tracemalloc
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tiny_runs import _config

import d2v_fast
from d2v_fast import registry
from d2v_fast.data import ArraySource
from d2v_fast.data.subset import Subset
from d2v_fast.errors import ConfigError
from d2v_fast.evaluation import read_embedded
from d2v_fast.evaluation.embed import embed
from d2v_fast.evaluation.given import reading_threads
from d2v_fast.evaluation.windows import Windows, plan
from d2v_fast.modalities import npy, open_data
from d2v_fast.modalities.long import LongRows
from d2v_fast.modalities.speech import partial
from d2v_fast.modalities.speech.clips import Clips
from d2v_fast.models import build_encoder

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {}, tmp_path_factory


@pytest.fixture
def run_of(runs, make_config, train):
    made, factory = runs

    def get(modality):
        if modality not in made:
            made[modality] = train(make_config(modality, steps=1), factory.mktemp(modality) / "run")
        return made[modality]

    return get


@pytest.mark.parametrize(
    ("steps", "count", "overlap"), [(11, 10, 4), (100, 10, 4), (97, 10, 0), (23, 10, 9), (31, 7, 2)]
)
def test_windows_stand_for_every_step_once(steps, count, overlap):
    found = plan(steps, count, overlap)
    covered = [step for window in found for step in range(window.begin, window.end)]
    assert covered == list(range(steps))
    assert all(window.first >= 0 and window.first + count <= steps for window in found)
    assert all(window.first <= window.begin < window.end <= window.first + count for window in found)
    for before, after in itertools.pairwise(found):
        shared = before.first + count - after.first
        assert shared >= overlap
        assert before.end - after.first >= overlap // 2
        assert before.first + count - after.begin >= overlap // 2


def local(modality):
    """An encoder whose attention adds nothing: a token depends on its surroundings only, so windows can be exact."""
    torch.manual_seed(0)
    config = _config(modality)
    encoder = build_encoder(config.model).eval()
    encoder.inputs = config.inputs
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(False)
        if ".attention.out." in name:
            parameter.zero_()
    return encoder


def long_samples(modality):
    """A recording of about ten windows, whose loudness changes, so that its scale is not that of a window."""
    if modality == "speech":
        wave = RNG.standard_normal(130_001) * np.linspace(0.1, 1, 130_001)
        return wave.astype(np.float32) / 8
    shape = (4_003, 3) if modality == "series" else (700, 16)
    return (RNG.standard_normal(shape) * np.linspace(1, 5, shape[0])[:, None] + 3).astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("modality", ["speech", "series"])
def test_equal_to_the_whole(modality, transposed):
    """With local attention windows are exact away from their ends, to a rounding; their scale is that of the whole."""
    encoder = local(modality)
    sample = long_samples(modality)
    if transposed and modality == "series":
        sample = np.ascontiguousarray(sample.T)
    source = ArraySource(modality, [sample])
    whole = encoder(encoder.prepare(sample)[None])[0].detach()
    windows = Windows(encoder, overlap={"speech": 0.2, "series": 2.4}[modality])  # a frame sees two on each side
    found = windowed(windows, source, encoder)
    assert found.shape == whole.shape
    scale = float(whole.abs().max())
    assert float((found - whole).abs().max()) < 2e-5 * scale
    without = windowed(Windows(encoder, overlap=0), source, encoder)  # the control: ends of windows are different
    assert float((without - whole).abs().max()) > 1e-2 * scale


def windowed(windows, source, encoder, index=0, batch_size=4):
    long = windows.long(source, index)
    assert long is not None
    batches = windows.batches([(0, long)], batch_size, 2, lambda *_: None, source.name)
    return torch.cat(
        [windows.middle(part, t) for parts, x in batches for part, t in zip(parts, encoder(x), strict=True)]
    )


def test_spectrogram_patches_are_those_of_the_whole():
    """Patches before positions, from sound and from matrices: positions count from the begin of a window."""
    encoder = local("spectrogram")
    encoder.blocks, encoder.norm = torch.nn.ModuleList(), None
    wave = (RNG.standard_normal(30_000) * np.linspace(0.1, 1, 30_000)).astype(np.float32) / 8
    modality = registry.get("spectrogram")
    for sample in (wave, long_samples("spectrogram")):
        source = ArraySource("spectrogram", [sample])
        windows = Windows(encoder)
        long = windows.long(source, 0)
        from d2v_fast.modalities.spectrogram.sampling import prepared

        whole = prepared(sample, encoder.inputs, encoder.config, "sample")
        for window in windows.plan(long.steps):
            part = long.read(window.first, windows.count)
            begin = window.first * encoder.config.patch[0]
            np.testing.assert_allclose(part, whole[begin : begin + len(part)], rtol=0, atol=2e-5)
        assert long.steps == len(whole) // encoder.config.patch[0]
        assert modality.timing(encoder.inputs, encoder.config).tokens == 4
        assert windowed(windows, source, encoder).shape[0] == long.steps * 4


@pytest.mark.parametrize("modality", ["speech", "series", "spectrogram"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_the_batch_changes_nothing(run_of, tmp_path, modality, pool):
    """Long and short samples together; and Parquet, .npy and .safetensors hold the same."""
    short = {"speech": 9_000, "series": 300, "spectrogram": 50}[modality]
    one = long_samples(modality)
    source = ArraySource(modality, [one[:short], one, one[:-7], one[: short - 1], one[len(one) // 2 :]])
    made = [
        read_embedded(embed(run_of(modality), source, out=tmp_path / f"{size}{end}", pool=pool, batch_size=size))
        for size, end in ((1, ".npy"), (2, ".parquet"), (64, ".safetensors"))
    ]
    for other in made[1:]:
        assert other.ids.tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(other.features, made[0].features, rtol=0, atol=4e-6 * np.abs(made[0].features).max())
        if pool == "none":
            assert other.counts.tolist() == made[0].counts.tolist()
            np.testing.assert_array_equal(other.times(1), made[0].times(1))
    if pool == "none":
        encoder = d2v_fast.load(run_of(modality))
        timing = registry.get(modality).timing(encoder.inputs, encoder.config)
        times = made[0].times(1)
        assert len(times) == made[0].counts[1]
        assert times[timing.tokens] - times[0] == pytest.approx(timing.seconds)
        np.testing.assert_allclose(  # pooled is the mean over all tokens
            read_embedded(embed(run_of(modality), source, out=tmp_path / "mean.npy")).features[1],
            made[0].features[made[0].counts[0] : made[0].counts[:2].sum()].mean(0),
            atol=1e-5,
        )


def test_one_window_is_the_whole(run_of, tmp_path):
    source = ArraySource("speech", [long_samples("speech")])
    whole = read_embedded(embed(run_of("speech"), source, out=tmp_path / "a.npy", window=0)).features
    one = read_embedded(embed(run_of("speech"), source, out=tmp_path / "b.npy", window=60)).features
    np.testing.assert_array_equal(whole, one)
    some = read_embedded(embed(run_of("speech"), source, out=tmp_path / "c.npy")).features
    assert np.abs(some - whole).max() > 1e-6  # attention does not see beyond a window


def test_it_is_said_once(run_of, tmp_path, capsys):
    source = ArraySource("speech", [long_samples("speech")] * 2, ["a", "b"])
    embed(run_of("speech"), source, out=tmp_path / "a.npy")
    told = [line for line in capsys.readouterr().err.splitlines() if "windows" in line]
    assert len(told) == 1
    assert "samples longer than 0.78 s are taken in windows of that length, which overlap by 0.14 s" in told[0]


def test_what_cannot_be_asked_for(run_of):
    encoder = d2v_fast.load(run_of("spectrogram"))
    for options, words in [
        ({"window": -1.0}, "window is -1.0: seconds"),
        ({"window": 0.3, "overlap": 0.3}, "overlap is 0.32 s: at least 0, and less than the window of 0.32 s"),
        ({"window": 10.0}, "window is 10, but the model takes 0.64 s at most"),
        ({"overlap": float("nan")}, "overlap is nan"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Windows(encoder, **options)
    with pytest.raises(ConfigError, match="samples of vision are used whole"):
        Windows(d2v_fast.load(run_of("vision")), window=3)
    assert Windows(d2v_fast.load(run_of("vision"))).count == 0


def test_a_long_text(run_of, tmp_path):
    """Windows of tokens between a begin and an end token; the tokens of the whole text come out."""
    encoder = d2v_fast.load(run_of("text"))
    text = " ".join(["the teacher sees all of it", "a student part and guesses"] * 9)
    found = read_embedded(
        embed(run_of("text"), [text, "the student"], out=tmp_path / "a.npy", pool="none", batch_size=3)
    )
    modality = registry.get("text")
    source = modality.open_texts(["a"], [(text,)], encoder.inputs, encoder.config)
    assert found.counts[0] == len(source.whole(0)) > 16
    windows = Windows(encoder)
    long = windows.long(Subset(source, np.array([0])), 0)
    first = long.read(5, 16)
    assert first[0] == source.whole(0)[0]
    assert first[-1] == source.whole(0)[-1]
    assert first[1:-1].tolist() == source.whole(0)[6:20].tolist()
    alone = read_embedded(embed(run_of("text"), [text], out=tmp_path / "b.npy", pool="none", batch_size=1))
    np.testing.assert_allclose(alone.features, found.features[: found.counts[0]], atol=1e-5)
    with pytest.raises(ConfigError, match="overlap is 1 tokens: at least 2"):
        Windows(encoder, overlap=1)
    with pytest.raises(ValueError, match="that have no time"):
        found.times(0)


@pytest.mark.parametrize(
    ("rate", "ending", "channels"), [(16000, "wav", 1), (44100, "flac", 2), (11025, "ogg", 1), (8000, "wav", 2)]
)
def test_only_what_a_window_needs_is_read(tmp_path, monkeypatch, rate, ending, channels):
    """Stretches of files at other rates are those of the whole, and no more is decoded than they need."""
    wave = RNG.standard_normal((rate * 30, channels)) / 8
    soundfile.write(tmp_path / f"a.{ending}", wave, rate)
    source = open_data(tmp_path, _config("speech"), None)
    whole = source.read(0)
    whole = whole / np.float32(32768) if whole.dtype == np.int16 else whole
    read = []
    original = soundfile.SoundFile.read

    def counted(self, frames=-1, *args, **kwargs):
        read.append(frames)
        return original(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    for start, count in [(0, 8000), (123_457, 8000), (len(whole) - 8000, 8000), (17, 1)]:
        np.testing.assert_allclose(source.part(0, start, count), whole[start : start + count], rtol=0, atol=2e-6)
    assert len(read) == 4
    assert max(read) <= 8000 * rate / 16000 + 2 * rate
    assert min(read) > 0


def test_compressed_sound_is_decoded_once(tmp_path, monkeypatch):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile writes no MP3")
    soundfile.write(tmp_path / "a.mp3", RNG.standard_normal(16000 * 12) / 8, 16000)
    source = open_data(tmp_path, _config("speech"), None)
    assert partial.load(source._store, 0, (int(source.frames[0]), 16000), 0, 10) is None
    encoder = local("speech")
    windows, decoded, read = Windows(encoder), [], type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, i: decoded.append(i) or read(self, i))
    long = windows.long(source, 0)
    whole = encoder.prepare(read(source, 0))
    for window in windows.plan(long.steps):
        first = window.first * 320
        part = long.read(window.first, windows.count)
        np.testing.assert_allclose(part, whole[first : first + len(part)], atol=1e-5)
    assert decoded == [0]


@pytest.mark.parametrize("ending", ["npy", "fortran", "transposed", "parquet"])
def test_stretches_of_matrices(tmp_path, monkeypatch, ending):
    matrix = long_samples("series")
    if ending == "parquet":
        table = pa.table({name: matrix[:, i] for i, name in enumerate("abc")})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=500)
    else:
        stored = {"npy": matrix, "fortran": np.asfortranarray(matrix), "transposed": matrix.T.copy()}[ending]
        np.save(tmp_path / "a.npy", stored)
    source = open_data(tmp_path, _config("series"), None)
    encoder = local("series")
    monkeypatch.setattr(npy, "load", lambda *_: pytest.fail("the whole matrix was read"))
    whole = encoder.prepare(matrix)
    windows = Windows(encoder)
    long = windows.long(source, 0)
    for window in windows.plan(long.steps):
        part = long.read(window.first, windows.count)
        np.testing.assert_allclose(part, whole[window.first * 20 :][: len(part)], atol=1e-5)


def test_a_gap_names_its_place(tmp_path):
    matrix = long_samples("series")
    matrix[3001:3011, 1] = np.nan
    np.save(tmp_path / "a.npy", matrix)
    encoder = local("series")
    windows, told = Windows(encoder), []
    long = windows.long(open_data(tmp_path, _config("series"), None), 0)
    batches = windows.batches([(0, long)], 4, 2, lambda i, error: told.append((i, error.reason)), lambda i: "a.npy")
    assert list(batches) == []
    assert len(told) == 1
    assert (
        "has a gap in channel 1 (counted from 0): 10 values that are no finite float32 from 3001 on, at 60.02 s"
        in told[0][1]
    )


def test_a_broken_long_sample_is_left_out(run_of, tmp_path):
    good = long_samples("series")
    bad = good.copy()
    bad[-3, 0] = np.inf
    for pool in ("none", "mean"):
        data = ArraySource("series", [good, bad, good[:200]], ["good", "bad", "short"])
        out = embed(run_of("series"), data, out=tmp_path / f"{pool}.npy", pool=pool)
        found = read_embedded(out)
        assert found.names == ["good", "short"]
        assert "bad" in (tmp_path / f"{pool}.npy.broken.jsonl").read_text()


def test_it_continues_within_a_long_recording(run_of, tmp_path, monkeypatch):
    data = ArraySource("speech", [long_samples("speech"), long_samples("speech")[:90_000]])
    whole = read_embedded(embed(run_of("speech"), data, out=tmp_path / "whole.npy", pool="none", batch_size=1))
    original, left = ArraySource.part, [25]

    def interrupted(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(ArraySource, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(run_of("speech"), data, out=tmp_path / "a.npy", pool="none", batch_size=1)
    monkeypatch.setattr(ArraySource, "part", original)
    found = read_embedded(embed(run_of("speech"), data, out=tmp_path / "a.npy", pool="none", batch_size=1))
    np.testing.assert_array_equal(found.features, whole.features)
    assert found.counts.tolist() == whole.counts.tolist()


def test_memory_does_not_grow_with_the_recording(run_of, tmp_path, monkeypatch):
    """Ten minutes of sound: what is read at a time, how often, which arrays live, and the peak of all of numpy's."""
    rate, minutes = 16000, 10
    total = rate * 60 * minutes
    with soundfile.SoundFile(tmp_path / "a.wav", "w", rate, 1, subtype="PCM_16") as file:
        for _ in range(minutes * 6):
            file.write(RNG.standard_normal(rate * 10) / 8)
    stretches, alive, load, read = [], [0, 0], partial.load, LongRows.read

    def counted(store, index, length, start, count):
        stretches.append(count)
        return load(store, index, length, start, count)

    def watched(self, first, count):
        window = read(self, first, count)
        alive[0] += 1
        alive[1] = max(alive)
        weakref.finalize(window, lambda: alive.__setitem__(0, alive[0] - 1))
        return window

    monkeypatch.setattr(partial, "load", counted)
    monkeypatch.setattr(LongRows, "read", watched)
    monkeypatch.setattr(Clips, "read", lambda *_: pytest.fail("the whole recording was read"))
    windows = {"window": 4.0, "overlap": 0.4, "batch_size": 4}
    tracemalloc.start()
    out = embed(run_of("speech"), [tmp_path / "a.wav"], out=tmp_path / "a.npy", pool="none", **windows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(stretches) <= 1 << 20
    assert sum(stretches) <= 2.2 * total  # once for the scale, and once in windows, with what they share
    assert 4 <= alive[1] <= 4 * 3 + 3 * reading_threads()  # batches on their way, and what is read ahead
    assert peak < 2 * total  # half of what the samples alone take as float32
    assert read_embedded(out).counts.tolist() == [int(d2v_fast.load(run_of("speech")).config.frames(total))]
