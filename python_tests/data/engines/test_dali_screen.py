from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_fast.modalities.speech.dali_screen import is_plain_clip
from d2v_fast.modalities.vision.dali_screen import is_plain_picture

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (23, 31, 3), dtype=np.uint8))
WAVE = 0.1 * np.random.default_rng(0).standard_normal(500)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def sound(form, subtype, wave=WAVE, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=subtype)
    return file.getvalue()


JPEG, PNG = saved(IMAGE, "JPEG"), saved(IMAGE, "PNG")


@pytest.mark.parametrize(
    ("data", "colour", "grey"),
    [
        (JPEG, True, True),
        (saved(IMAGE, "JPEG", progressive=True), True, True),
        (saved(IMAGE.convert("L"), "JPEG"), True, True),
        (saved(IMAGE, "JPEG", comment=b"\xff\xc0\xff\xd9" * 10), True, True),
        (saved(IMAGE.convert("CMYK"), "JPEG"), False, False),
        (PNG, True, False),
        (saved(IMAGE.convert("L"), "PNG"), True, True),
        (saved(IMAGE.convert("LA"), "PNG"), False, False),
        (saved(IMAGE.convert("RGBA"), "PNG"), False, False),
        (saved(IMAGE.convert("P"), "PNG", transparency=0), False, False),
        (saved(IMAGE.convert("P"), "PNG"), True, False),
        (saved(Image.fromarray(np.zeros((23, 31), np.uint16)), "PNG"), False, False),
        (saved(IMAGE, "GIF"), False, False),
        (saved(IMAGE, "WEBP"), False, False),
        (b"", False, False),
        (b"hello", False, False),
    ],
)
def test_which_pictures_are_plain(data, colour, grey):
    assert is_plain_picture(data, 23, 31, grey=False) == colour
    assert is_plain_picture(data, 23, 31, grey=True) == grey
    assert not is_plain_picture(data, 31, 23, grey=False)


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
def test_a_picture_that_is_cut_anywhere_is_not_plain(data):
    assert not any(is_plain_picture(data[:end], 23, 31, grey=False) for end in range(len(data)))


def test_what_lies_behind_the_end():
    """Phones put films and depths there."""
    assert is_plain_picture(JPEG + bytes(5000) + JPEG, 23, 31, grey=False)
    assert is_plain_picture(PNG + bytes(5000), 23, 31, grey=False)


@pytest.mark.parametrize("mark", [0x02, 0x20, 0x90, 0xC8, 0xD8, 0xD0])
def test_a_mark_in_a_scan_that_does_not_belong_there_is_seen(mark):
    """The decoders of both engines stop there; but DALI does not come so far when the crop is above."""
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        data = saved(IMAGE, "JPEG", **options)
        at = data.rindex(b"\xff\xda") + 14
        assert is_plain_picture(data, 23, 31, grey=False)
        broken = data[:at] + bytes([0xFF, mark]) + data[at + 2 :]
        restart = mark == 0xD0 and b"\xff\xd0" not in data[at:] and b"\xff\xd1" not in data[at:]
        assert is_plain_picture(broken, 23, 31, grey=False) == restart  # the first restart is where it may be


def test_a_missing_restart_is_seen():
    data = saved(IMAGE, "JPEG", restart_marker_blocks=1)
    at = data.index(b"\xff\xd1")
    assert is_plain_picture(data, 23, 31, grey=False)
    assert not is_plain_picture(data[:at] + data[at + 2 :], 23, 31, grey=False)


@pytest.mark.parametrize("place", [20, 29, 45, len(PNG) // 2, len(PNG) - 6])
def test_a_flipped_bit_in_a_png_is_seen(place):
    broken = bytearray(PNG)
    broken[place] ^= 1
    assert not is_plain_picture(bytes(broken), 23, 31, grey=False)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("form", "subtype", "plain"),
    [
        ("WAV", "PCM_16", True),
        ("WAV", "PCM_U8", True),
        ("WAV", "PCM_24", True),
        ("WAV", "PCM_32", True),
        ("WAVEX", "PCM_16", True),
        ("FLAC", "PCM_16", True),
        ("FLAC", "PCM_24", True),
        ("WAV", "FLOAT", False),
        ("WAVEX", "FLOAT", False),
        ("WAV", "ULAW", False),
        ("OGG", "VORBIS", False),
        ("AIFF", "PCM_16", False),
    ],
)
def test_which_clips_are_plain(form, subtype, plain, channels):
    wave = np.stack([WAVE] * channels, axis=1)
    data = sound(form, subtype, wave)
    assert is_plain_clip(data, 500, 16000) == plain
    assert not is_plain_clip(data, 499, 16000)
    assert not is_plain_clip(data, 500, 22050)
    assert is_plain_clip(sound(form, subtype, wave, 22050), 500, 22050) == plain


def test_a_wav_that_is_cut_anywhere_is_not_plain():
    data = sound("WAV", "PCM_16")
    assert not any(is_plain_clip(data[:end], 500, 16000) for end in range(len(data)))


def test_chunks_before_the_sound_are_passed_over():
    data = sound("WAV", "PCM_16")
    odd = data[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + data[12:]
    assert is_plain_clip(odd, 500, 16000)
    assert not is_plain_clip(data[:12] + data[36:], 500, 16000)  # no format before the sound


@pytest.mark.parametrize("data", [b"", b"fLaC", b"RIFF", b"RIFF\0\0\0\0WAVE", b"fLaC" + bytes(100)])
def test_scraps_are_not_plain(data):
    assert not is_plain_clip(data, 0, 16000)
    assert not is_plain_clip(data, 500, 16000)
