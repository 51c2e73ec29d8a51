from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from loading import make_loader, open_source
from PIL import Image

from d2v_fast.data import DataError, LoaderConfig, SampleError, remote
from d2v_fast.data.formats import archives
from d2v_fast.data.index import FILE
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs

PLAIN = VisionInputs(crop_scale=(1, 1), flip=0.0, jitter=0.0)


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_every_member_is_a_sample_or_named(tar_zoo, capsys):
    zoo = tar_zoo()
    source = open_source(zoo.root, "vision", VisionInputs())
    assert sorted(names(source)) == sorted([*zoo.good, *zoo.bad])
    for i, name in enumerate(names(source)):
        if name in zoo.good:
            assert tuple(source.read(i).shape[1:]) == zoo.good[name]
        else:
            with pytest.raises(SampleError, match=zoo.bad[name]) as caught:
                source.read(i)
            assert caught.value.name == str(zoo.root / name)
    assert capsys.readouterr().err == ""  # each is named when it is met


def test_members_are_the_files_that_went_in(pictures, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(pictures, arcname="./p")
    files, members = open_source(pictures, "vision", PLAIN), open_source(tmp_path / "all.tar", "vision", PLAIN)
    by_name = {members.name(i).removeprefix("all.tar/p/"): i for i in range(len(members))}
    assert sorted(by_name) == names(files)
    for i in range(len(files)):
        assert torch.equal(files.read(i), members.read(by_name[files.name(i)]))
        assert files.encoded(i) == members.encoded(by_name[files.name(i)])


def test_a_run_resumes_without_reading_the_shards_again(tar_zoo, tmp_path, monkeypatch, picture_masks):
    zoo, run = tar_zoo(), tmp_path / "run"
    source = open_source(zoo.root, "vision", PLAIN, run=run)

    def batches(source, first):
        config = LoaderConfig(batch_size=5, max_skipped=1.0)
        options = {"inputs": PLAIN, "config": config, "seed": 3, "masks": picture_masks, "image_size": 16}
        with make_loader(source, **options, first_step=first) as loader:
            return [loader.step(n)[0] for n in range(first, 7)]

    whole = batches(source, 0)
    order = [i for batch in whole for i in batch.sample_ids.tolist()]
    assert len({source.name(i).split("/")[0] for i in order[:8]}) > 1  # shuffled over all shards
    monkeypatch.setattr(tarfile, "open", None)
    again = open_source(zoo.root, "vision", PLAIN, run=run)
    assert again.fingerprint == source.fingerprint
    for one, other in zip(whole[4:], batches(again, 4), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.rows, other.rows)
    (zoo.root / "odd.tar").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of another size \(odd.tar"):
        open_source(zoo.root, "vision", PLAIN, run=run)


def test_a_shard_that_changes_later_is_named(tar_zoo):
    zoo = tar_zoo()
    source = open_source(zoo.root / "shard-000.tar", "vision", PLAIN)
    path = zoo.root / "shard-000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SampleError, match=r"is cut off|decoded"):
        source.read(5)
    path.unlink()
    with pytest.raises(SampleError, match="No such file"):
        source.read(0)


def test_patterns_of_shards(tar_zoo):
    root = tar_zoo().root
    both = open_source(f"{root}/shard-{{000..001}}.tar", "vision", PLAIN)
    assert len(both) == 12
    assert len(open_source(f"{root}/shard-*.tar", "vision", PLAIN)) == 12
    assert len(open_source(f"{root}/{{odd,cut}}.tar", "vision", PLAIN)) == 10
    with pytest.raises(DataError, match=r"shard-002.tar cannot be read: No such file"):
        open_source(f"{root}/shard-{{000..002}}.tar", "vision", PLAIN)
    shards = [root / "shard-001.tar", str(root / "shard-000.tar")]
    assert open_source(shards, "vision", PLAIN).fingerprint == both.fingerprint
    with pytest.raises(DataError, match=r"shard-000.jpg is no .tar file"):
        open_source([root / "shard-000.jpg"], "vision", PLAIN)
    with pytest.raises(DataError, match="there is nothing at"):
        open_source(f"{root}/none-*.tar", "vision", PLAIN)


def test_clips_and_texts_in_shards(tmp_path, clips):
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        tar.add(clips, arcname="c")
    inputs = SpeechInputs(min_seconds=0.1)
    files, members = open_source(clips, "speech", inputs), open_source(tmp_path / "clips.tar", "speech", inputs)
    assert np.array_equal(np.sort(files.sizes), np.sort(members.sizes))
    where = {members.name(i).removeprefix("clips.tar/c/"): i for i in range(len(members))}
    for i in range(len(files)):
        assert np.array_equal(files.read(i), members.read(where[files.name(i)]))
        with soundfile.SoundFile(clips / files.name(i)) as file:
            assert (files.frames[i], files.rates[i]) == (file.frames, file.samplerate)
    (tmp_path / "t").mkdir()
    for i in range(4):
        (tmp_path / "t" / f"{i}.txt").write_text("the cat sat on the mat. " * 20)
    with tarfile.open(tmp_path / "texts.tar", "w") as tar:
        tar.add(tmp_path / "t", arcname=".")
    packed = open_source(tmp_path / "texts.tar", "text", TextInputs(block_size=16), vocab_size=300)
    loose = open_source(tmp_path / "t", "text", TextInputs(block_size=16), vocab_size=300)
    assert len(packed) == len(loose) > 5
    assert np.array_equal(np.sort(packed.tokens), np.sort(loose.tokens))


def test_what_is_no_shard_of_samples(tmp_path, clips):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(clips, arcname=".")
    with pytest.raises(DataError, match=r"a.tar.gz is no .tar file.*Unpack the compression first \(gunzip"):
        open_source(tmp_path / "a.tar.gz", "speech", SpeechInputs())
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.add(clips, arcname=".")
    with pytest.raises(DataError, match=r"b.tar has no JPEG, PNG, .* or GIF files, only 4 .wav, 4 .flac, 4 .ogg"):
        open_source(tmp_path / "b.tar", "vision", VisionInputs())
    (tmp_path / "c.tar").write_bytes(b"")
    (tmp_path / "d.tar").write_bytes(b"junk" * 1000)
    for name, reason in (("c.tar", "is empty"), ("d.tar", "is damaged behind member 0")):
        with pytest.raises(DataError, match=reason):
            open_source(tmp_path / name, "vision", VisionInputs())


def test_shards_at_an_address(tar_zoo, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    zoo = tar_zoo()
    system = fsspec.filesystem("memory")
    for shard in range(2):
        system.pipe_file(f"/bucket/shard-{shard:03}.tar", zoo.bytes(f"shard-{shard:03}.tar"))
    local = open_source(f"{zoo.root}/shard-*.tar", "vision", PLAIN)
    for address in ("memory://bucket/shard-{000..001}.tar", "memory://bucket/shard-*.tar", "memory://bucket"):
        source = open_source(address, "vision", PLAIN, run=tmp_path / f"run{len(address)}")
        assert len(source) == 12
        assert all(torch.equal(source.read(i), local.read(i)) for i in range(12))
        assert "memory://" in source.name(0)
    assert (tmp_path / "run15" / FILE).exists()
    for files in (fsspec.open_files("memory://bucket/*.tar"), fsspec.open(f"file://{zoo.root}/shard-000.tar")):
        opened = open_source(files, "vision", PLAIN)
        assert torch.equal(opened.read(3), local.read(3))
    system.rm("/bucket/shard-001.tar")
    remote.blocks.cache_clear()  # what was read is held in memory for a while
    with pytest.raises(SampleError, match=r"shard-001.tar"):
        source.read(11)
    with pytest.raises(DataError, match=r"no .tar files at memory://nowhere"):
        open_source("memory://nowhere", "vision", PLAIN)
    with pytest.raises(DataError, match="fsspec cannot open nonsense://"):
        open_source("nonsense://x.tar", "vision", PLAIN)


def archive(path, *members):
    """A tar archive of (name, content)."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def lying_header(name, size):
    """A header whose size is negative, as base-256 numbers can be."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size & ((1 << 96) - 1)).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def png(level=7):
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_a_negative_size_ends_the_archive(tmp_path, size):
    good = archive(tmp_path / "a.tar", ("a.png", png())).read_bytes()[:1024]
    (tmp_path / "a.tar").write_bytes(good + lying_header("b.png", size) + bytes(300_000))
    found, fault = archives.members(tmp_path, "a.tar", os.path.getsize(tmp_path / "a.tar"))
    assert found[0] == ("a.png", 512, len(png()), None)
    assert fault.startswith(f"is damaged behind member {len(found)}: ReadError")
    source = open_source(tmp_path / "a.tar", "vision", PLAIN)
    assert source.sizes[:, 0].tolist()[0] == 8
    assert not source.sizes[1:].any()  # what is lost counts, as one sample or two
    assert len(source) >= 2
    for i in range(1, len(source)):
        with pytest.raises(SampleError, match=r"claims to have -|is damaged behind"):
            source.read(i)


def test_a_header_that_claims_gigabytes_asks_for_no_memory(tmp_path):
    long = tarfile.TarInfo("long")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    found, fault = archives.members(tmp_path, "a.tar", 10_752)
    assert found == []
    assert "a header claims to have 1099511627776 bytes" in fault


def test_hidden_members_are_left_out_as_hidden_files_are(tmp_path):
    double = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(139)
    hidden = ["./._a.png", "__MACOSX/a.png", ".hidden/a.png", "x/.DS_Store", "x/._b.png", "../.c.png"]
    archive(tmp_path / "a.tar", ("./a.png", png()), ("x/b.png", png()), *((name, double) for name in hidden))
    source = open_source(tmp_path / "a.tar", "vision", PLAIN)
    assert names(source) == ["a.tar/a.png", "a.tar/x/b.png"]


def test_archives_joined_end_to_end_are_read_to_the_last(tmp_path):
    parts = [archive(tmp_path / f"{i}.part", (f"{i}.png", png(i))).read_bytes() for i in range(3)]
    (tmp_path / "all.tar").write_bytes(b"".join(parts))
    source = open_source(tmp_path / "all.tar", "vision", PLAIN)
    assert names(source) == [f"all.tar/{i}.png" for i in range(3)]
    assert [int(source.read(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    (tmp_path / "all.tar").write_bytes(parts[0] + b"no archive at all" * 100)
    source = open_source(tmp_path / "all.tar", "vision", PLAIN)
    with pytest.raises(SampleError, match=r"all.tar: is (cut off or )?damaged behind member 1"):
        source.read(1)


@pytest.mark.parametrize("name", ["A.TAR", "b.Tar"])
def test_endings_of_archives_in_any_case(tmp_path, name):
    archive(tmp_path / name, ("A.PNG", png()))
    for place in (tmp_path, tmp_path / name):
        assert names(open_source(place, "vision", PLAIN)) == [f"{name}/A.PNG"]
    (tmp_path / "c.TAR.GZ").write_bytes(b"x")
    with pytest.raises(DataError, match="Unpack the compression first"):
        open_source(tmp_path / "c.TAR.GZ", "vision", PLAIN)


def test_a_shard_that_disappears_is_its_samples_failure(tmp_path):
    for i in range(2):
        archive(tmp_path / f"{i}.tar", (f"{i}.png", png()))
    for place in (tmp_path, tmp_path / "{0..1}.tar"):
        run = tmp_path / f"run of {place.name}"
        before = open_source(place, "vision", PLAIN, run=run)
        data = (tmp_path / "1.tar").read_bytes()
        (tmp_path / "1.tar").unlink()
        source = open_source(place, "vision", PLAIN, run=run)
        assert source.fingerprint == before.fingerprint
        assert source.sizes.tolist() == before.sizes.tolist()
        assert source.read(0).shape[0] == 3
        with pytest.raises(SampleError, match=r"1.png: is gone"):
            source.read(1)
        (tmp_path / "1.tar").write_bytes(data)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_archive_by_another_name_is_called_that(tmp_path, clips, compression):
    with tarfile.open(tmp_path / "a.tar", f"w:{compression}") as tar:
        tar.add(clips, arcname=".")
    with pytest.raises(DataError, match=r"a\.tar: is compressed, whatever its name says: unpack it first"):
        open_source(tmp_path / "a.tar", "speech", SpeechInputs())


def test_a_name_that_begins_like_a_compressed_file(tmp_path):
    found, fault = archives.members(
        tmp_path, "a.tar", os.path.getsize(archive(tmp_path / "a.tar", ("BZh9.png", png())))
    )
    assert [name for name, *_ in found] == ["BZh9.png"]
    assert fault is None
