"""Folders full of files that are odd or broken, with what a reader should make of each.

The fixtures `picture_zoo`, `clip_zoo` and `tar_zoo` of conftest.py make them; tests of both engines read the same.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from torchvision.io import encode_jpeg, encode_png

LONG = "long " + "x" * 240
UNICODE = "späť 日本 🙂"


@dataclass
class Zoo:
    root: Path
    good: dict[str, tuple[int, int] | int] = field(default_factory=dict)
    """Height and width, or samples at 16 kHz, of each file that can be read, by its name below the root."""

    bad: dict[str, str] = field(default_factory=dict)
    """A regular expression for the reason of each file that cannot be read."""

    late: dict[str, str] = field(default_factory=dict)
    """The same for files whose header is fine, so that only decoding (or the clip itself) tells."""

    def bytes(self, name):
        return (self.root / name).read_bytes()

    def put(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def smooth(height, width, seed=0, channels=3):
    """Low frequencies only, so that JPEG keeps it nearly as it is: uint8 [channels, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 5, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return (fine[0].clamp(0, 1) * 255).to(torch.uint8)


def _saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rgb16_png(height, width):
    """A PNG with 16 bits in each of three colours, which Pillow cannot write."""
    values = (np.arange(height * width * 3, dtype=np.uint32) * 97 % 65536).astype(">u2").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def make_pictures(root, extra_good=0):
    """Pictures of 24 to 60 pixels; `extra_good` adds plain ones, to keep the share of broken files small."""
    zoo = Zoo(root)
    image = Image.fromarray(smooth(40, 50).permute(1, 2, 0).numpy())
    jpeg, png = encode_jpeg(smooth(40, 50, 1)).numpy().tobytes(), encode_png(smooth(40, 50, 2)).numpy().tobytes()
    grey16 = Image.fromarray((np.arange(30 * 36, dtype=np.uint16) * 60).reshape(30, 36))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [image, image.rotate(90, expand=False), image.rotate(180)]
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    good = {
        "plain.jpg": jpeg,
        "plain.png": png,
        "progressive.jpg": _saved(image, "JPEG", progressive=True),
        "grey.jpg": _saved(image.convert("L"), "JPEG"),
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG", quality=95),
        "turned by exif.jpg": _saved(image, "JPEG", exif=turned),
        "grey 16 bit.png": _saved(grey16, "PNG"),
        "colour 16 bit.png": rgb16_png(28, 32),
        "palette.png": _saved(palette, "PNG"),
        "palette, transparent.png": _saved(palette, "PNG", transparency=0),
        "alpha.png": _saved(image.convert("RGBA"), "PNG"),
        "one bit.png": _saved(image.convert("1"), "PNG"),
        "animated.png": _saved(image, "PNG", save_all=True, append_images=frames[1:]),
        "a png called.jpg": png,
        "a jpeg called.png": jpeg,
        "one pixel.png": _saved(image.resize((1, 1)), "PNG"),
        f"{UNICODE}.jpg": jpeg,
        f"{LONG}.jpg": jpeg,
        f"{UNICODE}/{LONG}/deep.png": png,
        "link.jpg": None,
    }
    for i in range(extra_good):
        good[f"more/{i:03}.jpg"] = encode_jpeg(smooth(40, 50, 10 + i)).numpy().tobytes()
    for name, content in good.items():
        if content is not None:
            zoo.put(name, content)
            with Image.open(io.BytesIO(content)) as opened:
                zoo.good[name] = (opened.height, opened.width)
    (root / "link.jpg").symlink_to("plain.jpg")
    zoo.good["link.jpg"] = (40, 50)
    bad = {
        "zero bytes.jpg": (b"", "is empty"),
        "zero bytes.png": (b"", "is empty"),
        "text.jpg": (b"hello, world, this is no picture", "is neither JPEG nor PNG"),
        "animated gif called.jpg": (_saved(image, "GIF", save_all=True, append_images=frames), "neither JPEG nor PNG"),
        "webp called.png": (_saved(image, "WEBP"), "is neither JPEG nor PNG"),
        "cut in the header.jpg": (jpeg[:80], "ends before its size"),
        "cut in the header.png": (png[:20], "neither JPEG nor PNG"),
        "bomb.png": (_png_header(100_000, 100_000) + png[33:], "claims to be 100000x100000 pixels"),
        "no pixels.png": (_png_header(0, 16) + png[33:], "claims to be 16x0 pixels"),
    }
    late = {
        "cut in the middle.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "cut in the middle.png": (png[: len(png) // 2], "cannot be decoded"),
        "damaged.png": (png[:60] + bytes(40) + png[100:], "cannot be decoded"),
        "junk behind the header.png": (_png_header(50, 40) + b"junk" * 50, "cannot be decoded"),
    }
    _fill(zoo, bad, late)
    _sparse(root / "enormous.png", png, 1 << 40)
    zoo.bad["enormous.png"] = "has 1.1 TB"
    _links(zoo, "jpg")
    return zoo


def _wav(clip, rate=16000, subtype="PCM_16", format="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, rate, subtype=subtype, format=format)
    return buffer.getvalue()


def tone(seconds, rate, seed=0):
    noise = np.random.default_rng(seed).standard_normal(int(seconds * rate))
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) + 0.01 * noise


def make_clips(root, extra_good=0):
    """Clips of half a second, with two that are a little longer; read them with `min_seconds` 0.1 or less."""
    zoo = Zoo(root)
    half = tone(0.5, 16000)
    whole, flac = _wav(half), _wav(half, format="FLAC")
    ogg = _wav(tone(0.5, 16000), subtype="VORBIS", format="OGG")
    good = {
        "plain.wav": (whole, 8000),
        "plain.flac": (flac, 8000),
        "plain.ogg": (ogg, 8000),
        "stereo.wav": (_wav(np.stack([half, -0.5 * half], axis=1)), 8000),
        "six channels.flac": (_wav(np.stack([half] * 6, axis=1), format="FLAC"), 8000),
        "8 bit.wav": (_wav(half, subtype="PCM_U8"), 8000),
        "24 bit.wav": (_wav(half, subtype="PCM_24"), 8000),
        "24 bit.flac": (_wav(half, subtype="PCM_24", format="FLAC"), 8000),
        "32 bit.wav": (_wav(half, subtype="PCM_32"), 8000),
        "float.wav": (_wav(half, subtype="FLOAT"), 8000),
        "double.wav": (_wav(half, subtype="DOUBLE"), 8000),
        "law.wav": (_wav(half, subtype="ULAW"), 8000),
        "8000 Hz.wav": (_wav(tone(0.5, 8000), 8000), 8000),
        "11025 Hz.wav": (_wav(tone(0.5, 11025), 11025), 5512 * 16000 // 11025),
        "22051 Hz.flac": (_wav(tone(0.5, 22051), 22051, format="FLAC"), 11025 * 16000 // 22051),
        "44100 Hz stereo.wav": (_wav(np.stack([tone(0.5, 44100)] * 2, axis=1), 44100), 8000),
        "silence.wav": (_wav(np.zeros(8000)), 8000),
        "flac called.wav": (flac, 8000),
        "wav called.flac": (whole, 8000),
        "one sample.wav": (_wav(half[:1]), 1),
        "cut in the middle.wav": (whole[:10044], 5000),
        f"{UNICODE}.wav": (whole, 8000),
        f"{LONG}.wav": (whole, 8000),
        f"{UNICODE}/{LONG}/deep.flac": (flac, 8000),
    }
    for i in range(extra_good):
        good[f"more/{i:03}.wav"] = (_wav(tone(0.5, 16000, 10 + i)), 8000)
    for name, (content, samples) in good.items():
        zoo.put(name, content)
        zoo.good[name] = samples
    (root / "link.wav").symlink_to("plain.wav")
    zoo.good["link.wav"] = 8000
    endless = bytearray(flac)
    endless[21] &= 0xF0  # the 36 bits of the number of samples, 0: "unknown"
    endless[22:26] = bytes(4)
    bad = {
        "zero bytes.wav": (b"", "is empty"),
        "zero bytes.flac": (b"", "is empty"),
        "text.wav": (b"this is no sound at all, only text", "[Ff]ormat not recogni[sz]ed|unknown format"),
        "cut in the header.flac": (flac[:20], "."),
        "no samples.wav": (_wav(np.zeros(0)), "has no samples"),
        "of unknown length.flac": (bytes(endless), "does not say how long|has no samples"),
        "picture called.wav": (encode_png(smooth(8, 8)).numpy().tobytes(), "[Ff]ormat not recogni[sz]ed|unknown"),
    }
    broken = half.copy()
    broken[100] = np.nan
    infinite = half.copy()
    infinite[5000] = np.inf
    late = {
        "cut in the middle.flac": (flac[: len(flac) // 2], "gives|rror|sync"),
        "nan.wav": (_wav(broken, subtype="FLOAT"), "not finite"),
        "infinity.wav": (_wav(infinite, subtype="DOUBLE"), "not finite"),
    }
    _fill(zoo, bad, late)
    _sparse(root / "enormous.wav", _huge_wav(), 3 << 30)
    zoo.bad["enormous.wav"] = "has 1610612714 samples"
    _links(zoo, "wav")
    return zoo


def _huge_wav():
    """The header of a WAV of 3 GiB of silence."""
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", (3 << 30) - 8, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16,
                       b"data", (3 << 30) - 44)  # fmt: skip


def _fill(zoo, bad, late):
    for files, reasons in ((bad, zoo.bad), (late, zoo.late)):
        for name, (content, reason) in files.items():
            zoo.put(name, content)
            reasons[name] = reason


def _sparse(path, head, size):
    """A file that claims much and takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def _links(zoo, extension):
    """Links that lead nowhere, or in a circle, and a folder that holds itself; files that nobody may read."""
    (zoo.root / f"gone.{extension}").symlink_to("nowhere at all")
    zoo.bad[f"gone.{extension}"] = "No such file|is gone"
    (zoo.root / f"circle.{extension}").symlink_to(f"circle.{extension}")
    zoo.bad[f"circle.{extension}"] = "Too many levels of symbolic links|is gone"
    (zoo.root / "folder").mkdir()
    (zoo.root / "folder" / "itself").symlink_to(zoo.root)
    os.mkfifo(zoo.root / f"pipe.{extension}")  # never a sample, and never waited for
    name = f"secret.{extension}"
    zoo.put(name, b"nobody may read this")
    (zoo.root / name).chmod(0)
    zoo.bad[name] = "Permission denied|is neither|recogni[sz]ed|unknown format"  # root may read everything


def make_tars(root):
    """Two shards of six pictures with labels, one shard of what does not belong there, and one cut in the middle."""
    zoo = Zoo(root)
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"shard-{shard:03}.tar", "w") as tar:
            for i in range(6):
                name = f"{UNICODE if i == 5 else 'train'}/{shard}{i:04}"
                _add(tar, f"{name}.jpg", encode_jpeg(smooth(40, 50, 10 * shard + i)).numpy().tobytes())
                _add(tar, f"{name}.cls", str(i).encode())
                zoo.good[f"shard-{shard:03}.tar/{name}.jpg"] = (40, 50)
    jpeg = encode_jpeg(smooth(40, 50, 1)).numpy().tobytes()
    with tarfile.open(root / "odd.tar", "w") as tar:
        _add(tar, "fine.jpg", jpeg)
        _add(tar, "empty.jpg", b"")
        _add(tar, "text.jpg", b"this is no picture at all, but text")
        _add(tar, "../outside.jpg", jpeg)
        _add(tar, "/etc/absolute.jpg", jpeg)
        _add(tar, f"{LONG * 2}.jpg", jpeg)  # longer than a tar header has room for
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    zoo.good |= {"odd.tar/fine.jpg": (40, 50), f"odd.tar/{LONG * 2}.jpg": (40, 50)}
    zoo.bad |= {
        "odd.tar/empty.jpg": "is empty",
        "odd.tar/text.jpg": "is neither JPEG nor PNG",
        "odd.tar/../outside.jpg": "leads out of its archive",
        "odd.tar//etc/absolute.jpg": "leads out of its archive",
        "odd.tar/link.jpg": "is a link",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(4):
            _add(tar, f"{i}.jpg", jpeg)
    one = 512 + -(-len(jpeg) // 512) * 512
    zoo.put("cut.tar", buffer.getvalue()[: 2 * one + 512 + len(jpeg) // 2])
    zoo.good |= {"cut.tar/0.jpg": (40, 50), "cut.tar/1.jpg": (40, 50)}
    zoo.bad["cut.tar/2.jpg"] = "cut off"
    return zoo


def _add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
