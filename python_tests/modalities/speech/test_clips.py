from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from d2v_fast.data import DataError, SampleError, open_source
from d2v_fast.data.store import FileStore
from d2v_fast.modalities.speech import clips as audio
from d2v_fast.modalities.speech import compressed, sound
from d2v_fast.modalities.speech.clips import resampled_length
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.sound import check_decoded

INPUTS = SpeechInputs(min_seconds=0.1)


def tone(seconds, rate, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def written(root, name, clip, rate=16000, **options):
    root.mkdir(exist_ok=True)
    soundfile.write(root / name, clip, rate, **options)
    return root


def read_only(root, inputs=INPUTS):
    source = open_source(root, "speech", inputs)
    assert len(source) == 1
    clip = np.asarray(source.read(0))
    assert clip.shape == (source.sizes[0],)
    return clip / np.float32(32768) if clip.dtype == np.int16 else clip


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("channels", [1, 2])
def test_clips_are_as_soundfile_reads_them(tmp_path, extension, channels):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, channels))
    root = written(tmp_path / "a", f"x.{extension}", noise)
    expected, _ = soundfile.read(root / f"x.{extension}", dtype="float32", always_2d=True)
    assert np.abs(read_only(root) - expected.mean(axis=1)).max() < 1e-7


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_sample_format(tmp_path, subtype):
    clip = tone(0.2, 16000)
    root = written(tmp_path / "a", "x.wav", clip, subtype=subtype)
    worst = {"PCM_U8": 0.01, "ULAW": 0.03}.get(subtype, 1e-4)
    assert np.abs(read_only(root) - clip).max() < worst


def test_mono_pcm16_stays_int16(tmp_path):
    root = written(tmp_path / "a", "x.wav", tone(0.2, 16000))
    assert open_source(root, "speech", INPUTS).read(0).dtype == np.int16


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path, rate):
    root = written(tmp_path / "a", "x.flac", np.stack([tone(0.5, rate)] * 2, axis=1), rate)
    clip = read_only(root)
    assert len(clip) == int(0.5 * rate) * 16000 // rate
    expected = tone(0.5, 16000)[: len(clip)]
    middle = slice(500, -500)  # the ends ring
    assert np.abs(clip[middle] - expected[middle]).max() < 2e-3


@pytest.mark.parametrize("rate", [7999, 11025, 16001, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("frames", [1, 2, 159, 4410, 9999])
def test_resampling_gives_at_least_the_length_in_the_plan(rate, frames):
    found = len(audio.soxr.resample(np.zeros(frames, np.float32), rate, 16000))
    assert found >= resampled_length(frames, rate, 16000) >= found - 1


def broken_files(root):
    whole = (root / "good.flac").read_bytes()
    return {
        "empty.wav": (b"", "is empty"),
        "text.wav": (b"this is no sound at all, only text", "[Ff]ormat not recogni[sz]ed|unknown format"),
        "cut.flac": (whole[: len(whole) // 2], "gives|[Ee]rror"),
        "head.flac": (whole[:20], "."),
    }


@pytest.mark.parametrize("name", ["empty.wav", "text.wav", "cut.flac", "head.flac"])
def test_a_broken_clip_is_named(tmp_path, name):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30000)
    root = written(tmp_path / "a", "good.flac", noise)
    content, reason = broken_files(root)[name]
    (root / name).write_bytes(content)
    source = open_source(root, "speech", INPUTS)
    bad = [source.name(i) for i in range(2)].index(name)
    with pytest.raises(SampleError, match=reason) as caught:
        source.read(bad)
    assert caught.value.name == str(root / name)
    assert len(source.read(1 - bad)) == 30000


def test_a_wav_cut_before_indexing_is_a_shorter_clip(tmp_path):
    root = written(tmp_path / "a", "x.wav", tone(1, 16000))
    path = root / "x.wav"
    path.write_bytes(path.read_bytes()[:10044])
    assert len(read_only(root)) == 5000


def test_a_clip_that_vanishes_or_changes_is_named(tmp_path):
    root = written(tmp_path / "a", "x.wav", tone(1, 16000))
    source = open_source(root, "speech", INPUTS)
    size = (root / "x.wav").stat().st_size
    written(root, "x.wav", tone(0.5, 16000))
    with pytest.raises(SampleError, match=f"has {size - 16000} bytes, but had {size} when the data was indexed"):
        source.read(0)
    (root / "x.wav").write_bytes((root / "x.wav").read_bytes().ljust(size, b"\0"))
    with pytest.raises(SampleError, match="gives 8000 frames at 16000 Hz, but had 16000 frames"):
        source.read(0)
    (root / "x.wav").unlink()
    with pytest.raises(SampleError, match="is gone"):
        source.read(0)


def test_no_samples(tmp_path):
    root = written(tmp_path / "a", "x.wav", np.zeros(0))
    with pytest.raises(DataError, match=r"none of the 1 files .* can be read; x.wav: has no samples"):
        open_source(root, "speech", INPUTS)


def test_mp3_is_read_if_libsndfile_can_and_else_refused(tmp_path, monkeypatch):
    root = tmp_path / "a"
    if "MP3" in soundfile.available_formats():
        written(root, "x.mp3", tone(1, 16000))
        assert abs(len(read_only(root)) - 16000) < 3000  # the format adds a margin
    else:
        root.mkdir()
        (root / "x.mp3").write_bytes(b"ID3")
    monkeypatch.setattr(sound.soundfile, "available_formats", lambda: {"WAV": ""})
    with pytest.raises(
        DataError, match=r"1 .mp3, which cannot be read. Convert them to FLAC first.*ffmpeg -i \$f \$\{f%.mp3\}.flac"
    ):
        open_source(root, "speech", INPUTS)


def test_unicode_and_long_names(tmp_path):
    name = "späť 日本 " + "x" * 200 + ".wav"
    root = written(tmp_path / "a", name, tone(0.2, 16000))
    source = open_source(root, "speech", INPUTS)
    assert source.name(0) == name
    assert len(source.read(0)) == 3200


class FakeDecoder:
    """What torchcodec would give: stereo at 44.1 kHz."""

    def __init__(self, source):
        self.data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if self.data == b"junk":
            raise RuntimeError("Invalid data found when processing input\nand more")

    metadata = types.SimpleNamespace(sample_rate=44100, num_channels=2, duration_seconds_from_header=0.5)

    def get_samples_played_in_range(self, stop_seconds):
        assert stop_seconds > 1000  # as much as is let pass
        wave = torch.from_numpy(np.stack([tone(0.5, 44100)] * 2)).float()
        return types.SimpleNamespace(data=wave, sample_rate=44100)


def test_m4a_is_read_by_torchcodec(tmp_path, monkeypatch):
    module = types.SimpleNamespace(AudioDecoder=FakeDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=module))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    monkeypatch.setattr(compressed, "missing", lambda: None)
    (tmp_path / "a.m4a").write_bytes(b"some m4a")
    (tmp_path / "b.m4a").write_bytes(b"junk")
    source = open_source(tmp_path, "speech", INPUTS)
    assert source.rates.tolist() == [44100, 0]
    clip = source.read(0)
    assert len(clip) == 22050 * 16000 // 44100
    assert np.abs(clip[500:-500] - tone(0.5, 16000)[500 : len(clip) - 500]).max() < 2e-3
    assert source.encoded(0) == b"some m4a"
    with pytest.raises(
        SampleError, match=r"cannot be decoded: RuntimeError: Invalid data found when processing input$"
    ):
        source.read(1)


def test_m4a_really_is_read_where_torchcodec_is(tmp_path):
    if (why := compressed.missing()) is not None:
        pytest.skip(f"{why}: MP3 and M4A cannot be decoded by it here")
    soundfile.write(tmp_path / "a.mp3", tone(1, 16000), 16000)
    raw, rate = compressed.decode(tmp_path / "a.mp3", "a.mp3", 1 << 20)
    assert (rate, raw.shape[1]) == (16000, 1)
    assert abs(len(raw) - 16000) < 3000


def test_why_torchcodec_cannot_be_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert compressed.missing.__wrapped__() == "torchcodec is not installed"
    assert "pip install torchcodec and FFmpeg" in compressed.remedy(".m4a")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.aiff", {"format": "AIFF"}),
        ("a.AIF", {"format": "AIFF"}),
        ("a.aifc", {"format": "AIFF"}),
        ("a.au", {"format": "AU"}),
        ("a.snd", {"format": "AU"}),
        ("a.caf", {"format": "CAF"}),
        ("a.w64", {"format": "W64"}),
        ("a.rf64", {"format": "RF64"}),
        ("a.sph", {"format": "NIST"}),
        ("a.nist", {"format": "NIST"}),
        ("a.wav", {"format": "NIST"}),
    ],
)
def test_more_formats_of_libsndfile(tmp_path, name, options):
    clip = (tone(0.5, 16000) * 30000).astype(np.int16)
    written(tmp_path, name, clip, **options)
    assert np.array_equal(np.round(read_only(tmp_path) * 32768), clip)


def test_a_format_that_cannot_seek(tmp_path):
    """GSM 6.10, which Asterisk and old telephony write."""
    written(tmp_path, "call.wav", tone(1, 8000), 8000, subtype="GSM610")
    source = open_source(tmp_path, "speech", INPUTS)
    assert len(source.read(0)) == source.sizes[0] >= 16_000
    check_decoded(FileStore(tmp_path, ["call.wav"]), 0, (int(source.frames[0]), 8000))


def mp3_without_index(seconds, level):
    """A stream of constant bitrate as a radio or a recorder that was cut off leaves it."""
    file = io.BytesIO()
    noise = 0.3 * np.random.default_rng(0).standard_normal(16000 * seconds)
    soundfile.write(file, noise, 16000, format="MP3", compression_level=level, bitrate_mode="CONSTANT")
    data = file.getvalue()
    at = max(data.find(b"Xing"), data.find(b"Info")) + 4
    while not (data[at] == 0xFF and data[at + 1] & 0xE0 == 0xE0):
        at += 1
    return data[at:]


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="this libsndfile reads no MP3")
def test_an_mp3_without_an_index_is_read_to_its_end(tmp_path):
    few, many = mp3_without_index(10, 0.9), mp3_without_index(10, 0.0)  # low and high bitrate
    (tmp_path / "a.mp3").write_bytes(few + many)
    (tmp_path / "b.mp3").write_bytes(many + few)
    (tmp_path / "c.mp3").write_bytes(b"ID3\x03\0\0\0\0\x02\0" + bytes(256) + many)
    written(tmp_path, "d.mp3", tone(2, 16000), format="MP3")
    source = open_source(tmp_path, "speech", INPUTS)
    assert np.abs(source.sizes / 16000 - [20, 20, 10, 2]).max() < 0.2
    for i in range(4):
        assert len(source.read(i)) == source.sizes[i]
    assert abs(soundfile.info(tmp_path / "b.mp3").duration - 20) > 5  # what libsndfile takes it for


def test_a_rate_of_a_few_hertz_is_refused_before_memory_is_taken(tmp_path):
    good, slow = tone(1, 16000), np.zeros(1 << 20, np.int16)
    written(tmp_path, "a.wav", good)
    written(tmp_path, "few.wav", slow[:16000], rate=1)  # would still fit, barely: 1 GB for 32 kB
    written(tmp_path, "slow.wav", slow, rate=60)
    written(tmp_path, "slower.wav", slow[:16000].repeat(400), rate=200)
    source = open_source(tmp_path, "speech", INPUTS)
    assert source.sizes.tolist() == [16000, 0, 0, 0]
    for i, message in enumerate(["says 1 Hz", "says 60 Hz", "6400000 frames at 200 Hz, which are 512000000 at 16000"]):
        with pytest.raises(SampleError, match=message):
            source.read(i + 1)


def test_a_manifest_that_says_a_few_hertz_is_not_believed(tmp_path):
    written(tmp_path, "a.wav", tone(1, 16000))
    written(tmp_path, "few.wav", np.zeros(16000, np.int16), rate=1)
    (tmp_path / "m.csv").write_text("path,frames,rate\na.wav,16000,16000\nfew.wav,16000,1\n")
    source = open_source(tmp_path / "m.csv", "speech", INPUTS)
    assert source.sizes.tolist() == [16000, 0]
    with pytest.raises(SampleError, match="says 1 Hz"):
        source.read(1)


@pytest.mark.parametrize("error", [MemoryError(), AssertionError("oh"), RecursionError("deep"), IndexError("i")])
@pytest.mark.parametrize("place", ["soundfile.SoundFile.read", "soxr.resample"])
def test_any_exception_of_a_decoder_is_that_clips_failure(tmp_path, monkeypatch, error, place):
    def fails(*arguments, **options):
        raise error

    written(tmp_path, "a.wav", tone(1, 8000), 8000)
    source = open_source(tmp_path, "speech", INPUTS)
    monkeypatch.setattr(place, fails)
    with pytest.raises(SampleError, match=f"a.wav: reading it failed: {type(error).__name__}"):
        source.read(0)


@pytest.mark.parametrize(("peak", "reason"), [(1e30, "too large to be normalised"), (np.inf, "not finite numbers")])
def test_samples_that_overflow_are_found_by_decoding(tmp_path, peak, reason):
    clip = tone(1, 16000).astype(np.float32)
    clip[5:9] = peak
    written(tmp_path, "a.wav", np.stack([clip, clip], axis=1), subtype="FLOAT")
    with pytest.raises(SampleError, match=reason):
        check_decoded(FileStore(tmp_path, ["a.wav"]), 0, (16000, 16000))


def test_compressed_sound_is_bounded_before_it_is_decoded(monkeypatch):
    decoded = []

    class Decoder:
        def __init__(self, source):
            self.metadata = types.SimpleNamespace(
                sample_rate=1000, num_channels=2, duration_seconds_from_header=float(source)
            )

        def get_samples_played_in_range(self, stop_seconds):
            decoded.append(stop_seconds)
            return types.SimpleNamespace(data=torch.zeros(2, int(1000 * stop_seconds)), sample_rate=1000)

    module = types.SimpleNamespace(AudioDecoder=Decoder)
    monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=module))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    with pytest.raises(SampleError, match="is longer than"):
        compressed.decode(b"1e9", "a", 20_000)
    assert decoded == []
    with pytest.raises(SampleError, match="is longer than"):
        compressed.decode(b"3", "a", 20_000)  # says 3 s and has no end
    assert decoded == [11.0]


def test_advice_names_what_is_missing_only_where_something_is(monkeypatch):
    for why in (None, "torchcodec is not installed"):
        monkeypatch.setattr(compressed, "missing", lambda why=why: why)
        for extension in (".amr", ".m4a"):
            remedy = compressed.remedy(extension)
            assert "None" not in remedy
            assert ("pip install torchcodec" in remedy) == (why is not None and extension == ".m4a")
