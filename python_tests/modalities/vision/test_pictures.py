from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.io import encode_jpeg, encode_png

from d2v_fast.data import DataError, SampleError, open_source
from d2v_fast.data.own import SOFTWARE
from d2v_fast.data.store import FileStore
from d2v_fast.modalities.vision import pictures as images
from d2v_fast.modalities.vision import sizes
from d2v_fast.modalities.vision.alpha import over
from d2v_fast.modalities.vision.config import VisionInputs

GREY = VisionInputs(mean=(0.5,), std=(0.5,))


def read_size(path):
    return sizes.read_size(FileStore(path.parent, [path.name]), 0)


def saved(path, image, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    image.save(path, **options)
    return path


def only(path, inputs):
    source = open_source(path.parent, "vision", inputs)
    return source.read(source._index.names.index(path.name))


@pytest.mark.parametrize(
    "options",
    [{"quality": 80}, {"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + b"\xff\xc0" * 400}],
)
def test_jpeg_is_as_pillow_reads_it(tmp_path, picture, options):
    image = Image.fromarray(picture(37, 53).permute(1, 2, 0).numpy())
    path = saved(tmp_path / "p" / "a.jpg", image, **options)
    assert read_size(path) == (37, 53)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(only(path, VisionInputs()).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    expected = np.asarray(Image.open(path).convert("L"))
    assert np.abs(only(path, GREY)[0].numpy().astype(int) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_png_of_every_kind_is_as_pillow_reads_it(tmp_path, picture, mode):
    image = Image.fromarray(picture(21, 34).permute(1, 2, 0).numpy()).convert(mode)
    path = saved(tmp_path / "p" / "a.png", image)
    assert read_size(path) == (21, 34)
    ours = only(path, VisionInputs())
    assert ours.shape == (3, 21, 34)
    assert ours.dtype == torch.uint8
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(ours.permute(1, 2, 0).numpy() - expected).max() <= 1
    assert np.abs(only(path, GREY)[0].numpy() - np.asarray(image.convert("RGB").convert("L")).astype(int)).max() <= 2


def test_cmyk_jpeg_becomes_rgb(tmp_path, picture):
    image = Image.fromarray(picture(24, 24).permute(1, 2, 0).numpy()).convert("CMYK")
    path = saved(tmp_path / "p" / "a.jpg", image, quality=95)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(only(path, VisionInputs()).permute(1, 2, 0).numpy() - expected).max() <= 2


@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_is_the_same_without_torchvisions_decoder(picture, monkeypatch, grey):
    data = encode_jpeg(picture(33, 47)).numpy()
    expected = images.decode(data, grey=grey, background=1.0).int()
    monkeypatch.setattr(images, "jpeg_decoder", lambda: None)
    assert (images.decode(data, grey=grey, background=1.0) - expected).abs().max() <= 2 * grey


def test_16_bit_png_keeps_the_high_byte(tmp_path):
    values = (np.arange(12 * 10, dtype=np.uint16) * 546).reshape(12, 10)
    path = saved(tmp_path / "p" / "a.png", Image.fromarray(values))
    for inputs in (GREY, VisionInputs()):
        assert np.array_equal(only(path, inputs)[0].numpy(), values >> 8)


def test_orientation_in_exif_is_not_applied(tmp_path, picture):
    image = Image.fromarray(picture(20, 30).permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "p" / "a.jpg", image, exif=exif)
    assert only(path, VisionInputs()).shape == (3, 20, 30)


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def broken_files():
    whole = encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8)).numpy().tobytes()
    png = encode_png(torch.arange(768).reshape(3, 16, 16).to(torch.uint8)).numpy().tobytes()
    return {
        "empty": (b"", "is empty"),
        "text": (b"hello, world, this is no picture", "is neither JPEG nor PNG"),
        "gif": (b"GIF89a", "is damaged: its header cannot be read"),
        "jpeg cut in the header": (whole[:80], "ends before its size"),
        "jpeg cut in the data": (whole[:-30], "cannot be decoded: Image is incomplete or truncated"),
        "png cut": (png[:-40], "cannot be decoded"),
        "png damaged": (png[:60] + bytes(20) + png[80:], "cannot be decoded"),
        "bomb": (png_header(100_000, 100_000) + png[33:], "claims to be 100000x100000 pixels"),
        "no pixels": (png_header(0, 16) + png[33:], "claims to be 16x0 pixels"),
    }


@pytest.mark.parametrize("kind", broken_files())
def test_a_broken_picture_is_named(tmp_path, picture, kind):
    root = tmp_path / "p"
    saved(root / "good.png", Image.fromarray(picture(16, 16).permute(1, 2, 0).numpy()))
    content, reason = broken_files()[kind]
    (root / "bad.jpg").write_bytes(content)
    source = open_source(root, "vision", VisionInputs())
    assert len(source) == 2
    with pytest.raises(SampleError, match=reason) as caught:
        source.read(0)
    assert caught.value.name == str(root / "bad.jpg")
    assert source.read(1).shape == (3, 16, 16)


def test_a_picture_that_vanishes_or_changes_is_named(pictures, picture):
    source = open_source(pictures, "vision", VisionInputs())
    path = pictures / source.name(2)
    size, other = path.stat().st_size, encode_png(picture(5, 6)).numpy().tobytes()
    path.write_bytes(other)
    with pytest.raises(SampleError, match=f"has {len(other)} bytes, but had {size} when the data was indexed"):
        source.read(2)
    path.write_bytes(other.ljust(size, b"\0"))
    with pytest.raises(SampleError, match=r"is 5x6, but was \d+x\d+ when the data was indexed"):
        source.read(2)
    path.unlink()
    with pytest.raises(SampleError, match="No such file"):
        source.read(2)


def test_unreadable_without_permission(pictures):
    path = pictures / "class 0" / "0.png"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    source = open_source(pictures, "vision", VisionInputs())
    with pytest.raises(SampleError, match="Permission denied"):
        source.read(0)


def test_the_index_is_sorted_and_used_again(pictures, tmp_path):
    run = tmp_path / "run"
    source = open_source(pictures, "vision", VisionInputs(), run=run)
    assert [source.name(i) for i in range(3)] == ["class 0/0.png", "class 0/3.JPG", "class 0/6.png"]
    assert source.sizes[1].tolist() == [49, 64]
    (pictures / "class 0" / "0.png").chmod(0o600)
    again = open_source(pictures, "vision", VisionInputs(), run=run)
    assert again.fingerprint == source.fingerprint
    (pictures / "class 0" / "0.png").unlink()
    once_more = open_source(pictures, "vision", VisionInputs(), run=run)
    assert (once_more.sizes == source.sizes).all()  # the plan stays
    with pytest.raises(SampleError, match=r"class 0/0.png: is gone"):
        once_more.read(0)


@pytest.mark.parametrize("extension", [".heic", ".avif", ".ppm"])
def test_other_formats_are_refused_with_the_remedy(tmp_path, extension):
    (tmp_path / f"a{extension}").write_bytes(b"x")
    with pytest.raises(DataError, match=f"1 {extension}, which cannot be read. Convert them first"):
        open_source(tmp_path, "vision", VisionInputs())


def jpeg_header(*segments):
    frame = b"\xff\xc1" + struct.pack(">HBHHB", 17, 8, 123, 456, 3) + bytes(9)
    return b"\xff\xd8" + b"".join(segments) + frame + bytes(40)


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (b"\xff\xfe\x00\x06\xff\xc0ab",),  # a comment that looks like a frame
        (b"\xff\xff\xff\xe0\x00\x04xy",),  # fill bytes before a marker
        (b"\xff\x00\xff\xd3\xff\x01",),  # markers without a length
        (b"junk",),
        (b"\xff\xc4\x00\x03a", b"\xff\xc8\x00\x03b", b"\xff\xcc\x00\x03c"),  # not frames, though numbered among them
    ],
)
def test_the_size_is_found_behind_any_markers(tmp_path, segments):
    (tmp_path / "a.jpg").write_bytes(jpeg_header(*segments))
    assert read_size(tmp_path / "a.jpg") == (123, 456)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 8])
def test_a_jpeg_that_ends_before_its_size(tmp_path, length):
    (tmp_path / "a.jpg").write_bytes(jpeg_header()[:length])
    with pytest.raises(SampleError, match="ends before its size"):
        read_size(tmp_path / "a.jpg")


def test_no_warning_comes_with_a_jpeg(pictures, run_python):
    """Where warnings are errors, each JPEG would be unreadable."""
    code = f"""
        from d2v_fast.data import open_source
        from d2v_fast.modalities.vision.config import VisionInputs

        source = open_source({str(pictures)!r}, "vision", VisionInputs())
        for i in range(len(source)):
            source.read(i)
        """
    ended = run_python(code, PYTHONWARNINGS="error")
    assert (ended.returncode, ended.stderr) == (0, "")


FORMATS = {
    "a.jfif": ("JPEG", {"quality": 95}),
    "a.webp": ("WEBP", {"lossless": True}),
    "b.webp": ("WEBP", {"quality": 95}),
    "a.BMP": ("BMP", {}),
    "a.tif": ("TIFF", {}),
    "a.tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "a.gif": ("GIF", {}),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("inputs", [VisionInputs(), GREY], ids=["colour", "grey"])
def test_more_formats_are_as_pillow_reads_them(tmp_path, picture, name, inputs):
    form, options = FORMATS[name]
    image = Image.fromarray(picture(37, 50).permute(1, 2, 0).numpy())
    path = saved(tmp_path / "p" / name, image, format=form, **options)
    with Image.open(path) as expected:
        planes = np.array(expected.convert("L" if inputs is GREY else "RGB"))
    read = only(path, inputs).permute(1, 2, 0).numpy()
    assert np.abs(read.squeeze().astype(int) - planes).max() <= (2 if form == "JPEG" else 0)
    assert read_size(path) == (37, 50)


@pytest.mark.parametrize("size", [(1, 1), (300, 17), (16383, 2)])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"alpha": True}])
def test_sizes_of_webp(tmp_path, size, options):
    image = Image.new("RGBA" if options.pop("alpha", False) else "RGB", size, (9, 99, 200)[:3])
    if image.mode == "RGBA":
        image.putpixel((0, 0), (1, 2, 3, 4))
    path = saved(tmp_path / "a.webp", image, format="WEBP", **options)
    assert read_size(path) == (size[1], size[0])
    assert only(path, VisionInputs()).shape == (3, size[1], size[0])


def transparent(mode):
    """A picture whose left half cannot be seen and hides red; and what it looks like on white."""
    image = Image.new("RGBA", (8, 6), (200, 0, 0, 0))
    image.paste((0, 0, 100, 255), (4, 0, 8, 6))
    shown = Image.new("RGB", (8, 6), "white")
    shown.paste((0, 0, 100), (4, 0, 8, 6))
    if mode == "P":
        image = image.quantize(4)
    elif mode == "LA":
        grey = Image.new("LA", (8, 6), (10, 0))
        grey.paste((100, 255), (4, 0, 8, 6))
        shown = Image.new("RGB", (8, 6), "white")
        shown.paste((100, 100, 100), (4, 0, 8, 6))
        image = grey
    return image, np.array(shown)


@pytest.mark.parametrize(
    ("name", "mode"),
    [(f"a.{form}", "RGBA") for form in ("png", "webp", "gif", "tiff")]
    + [("a.png", "LA"), ("a.png", "P"), ("a.tiff", "LA")],
)
def test_transparent_pictures_are_laid_on_a_background(tmp_path, name, mode):
    image, white = transparent(mode)
    path = saved(tmp_path / "p" / name, image, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(only(path, VisionInputs()).permute(1, 2, 0).numpy(), white)
    black = only(path, VisionInputs(background=0.0)).permute(1, 2, 0).numpy()
    assert (black[:, :4] == 0).all()
    assert np.array_equal(black[:, 4:], white[:, 4:])
    with Image.open(path) as opened:
        dropped = np.array(opened.convert("RGB"))
    assert np.array_equal(only(path, VisionInputs(background=None)).permute(1, 2, 0).numpy(), dropped)


def test_half_transparent_arrays_and_files_look_alike(tmp_path):
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (9, 11, 4), dtype=np.uint8)
    path = saved(tmp_path / "p" / "a.png", Image.fromarray(array))
    exact = array[..., :3] * (array[..., 3:] / 255) + 127 * (1 - array[..., 3:] / 255)
    inputs = VisionInputs(background=127 / 255)
    read = only(path, inputs)
    assert np.abs(read.permute(1, 2, 0).numpy() - exact).max() <= 0.501
    assert torch.equal(over(torch.from_numpy(array).permute(2, 0, 1), inputs.background), read)


@pytest.mark.parametrize("error", [MemoryError(), AssertionError("oh"), RecursionError("deep"), KeyError("k")])
def test_any_exception_of_a_decoder_is_that_pictures_failure(pictures, monkeypatch, error):
    def fails(*arguments, **options):
        raise error

    source = open_source(pictures, "vision", VisionInputs())
    monkeypatch.setattr(images, "decode", fails)
    with pytest.raises(SampleError, match=f"0.png: reading it failed: {type(error).__name__}"):
        source.read(0)


def test_what_data_show_has_drawn_is_no_picture(pictures, tmp_path):
    run = tmp_path / "run"
    before = open_source(pictures, "vision", VisionInputs(), run=run)
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    saved(pictures / "drawn.png", Image.new("RGB", (30, 30)), pnginfo=mark)
    saved(pictures / "class 0" / "data-show.png", Image.new("RGB", (30, 30)))
    assert open_source(pictures, "vision", VisionInputs(), run=run).fingerprint == before.fingerprint
    assert open_source(pictures, "vision", VisionInputs()).fingerprint == before.fingerprint
