"""Remote files: read in blocks, ahead, from a cache of bounded size, and again where that fails."""

from __future__ import annotations

import io
import os
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from d2v_fast.data import DataError, SampleError, open_source, remote
from d2v_fast.data.kept_blocks import KeptBlocks
from d2v_fast.data.remote import BLOCK, Blocks, RemoteFile, remote_bytes
from d2v_fast.errors import ConfigError, Unreachable
from d2v_fast.modalities.vision.config import VisionInputs

fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402  (where fsspec is)

SIZE = 5 * BLOCK + 777
CONTENT = np.random.default_rng(0).bytes(SIZE)


class Flaky(MemoryFileSystem):
    """A memory of its own, whose reads are counted, and fail as often as a test says."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012  (fsspec's own has it on the class)
    pseudo_dirs = [""]  # noqa: RUF012  (as above)
    asked: list = []  # noqa: RUF012  (as above)
    failing = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path, start=None, end=None, **others):
        type(self).asked.append((start, end))
        if type(self).failing > 0:
            type(self).failing -= 1
            raise RuntimeError("503 Slow Down")
        return super().cat_file(path, start, end, **others)


@pytest.fixture
def flaky(monkeypatch):
    """The file system with one file; nothing of an earlier test is remembered, and nobody waits."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    monkeypatch.delenv(remote.FOLDER, raising=False)
    remote.blocks.cache_clear()
    Flaky.store.clear()
    Flaky.asked.clear()
    Flaky.failing = 0
    fsspec.filesystem("flaky").pipe_file("/a.bin", CONTENT)
    yield Flaky
    Flaky.failing = 0
    remote.blocks.cache_clear()


def test_any_part_has_its_bytes(flaky):
    draw = np.random.default_rng(1)
    for _ in range(300):
        start, end = sorted(draw.integers(0, SIZE + 1, 2).tolist())
        assert remote_bytes("flaky://a.bin", start, end) == CONTENT[start:end]
    assert remote_bytes("flaky://a.bin", SIZE - 5, SIZE + 5) == CONTENT[-5:]
    assert remote_bytes("flaky://a.bin", SIZE, SIZE + 10) == b""
    assert all(start % BLOCK == 0 and end % BLOCK == 0 for start, end in flaky.asked)
    fetched = [number for start, end in flaky.asked for number in range(start // BLOCK, end // BLOCK)]
    assert sorted(set(fetched)) == sorted(fetched), "what is in memory is not fetched again"


def test_reading_in_order_reads_ahead(flaky):
    file = io.BufferedReader(RemoteFile("flaky://a.bin", 100, SIZE - 150))
    assert file.read(1000) == CONTENT[100:1100]
    assert [file.read(10_000) for _ in range(200)] == [
        CONTENT[a : a + 10_000][: max(0, SIZE - 50 - a)] for a in range(1100, 1100 + 200 * 10_000, 10_000)
    ]
    assert len(flaky.asked) == 2
    assert file.seek(-3, os.SEEK_END) == SIZE - 153
    assert file.read() == CONTENT[SIZE - 53 : SIZE - 50]


def test_reading_here_and_there_fetches_one_block(flaky):
    for number in (4, 1, 3):
        remote_bytes("flaky://a.bin", number * BLOCK + 7, number * BLOCK + 9)
    assert [(start // BLOCK, end // BLOCK) for start, end in flaky.asked] == [(4, 5), (1, 2), (3, 4)]


def test_memory_is_bounded(flaky):
    kept = Blocks(most=2 * BLOCK)
    for number in (0, 2, 4, 2, 0):
        kept.read("flaky://a.bin", number * BLOCK, number * BLOCK + 1)
    assert [start // BLOCK for start, _ in flaky.asked] == [0, 2, 4, 0]
    assert kept._bytes == sum(map(len, kept._blocks.values())) <= 2 * BLOCK


def test_a_disk_is_asked_before_the_network(flaky, tmp_path, monkeypatch):
    monkeypatch.setenv(remote.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(remote.GIGABYTES, "0.5")
    assert remote_bytes("flaky://a.bin", 0, SIZE) == CONTENT
    asked = len(flaky.asked)
    remote.blocks.cache_clear()  # as in another process
    assert remote_bytes("flaky://a.bin", 0, SIZE) == CONTENT
    assert len(flaky.asked) == asked
    remote.blocks.cache_clear()
    spoiled = max((tmp_path / "cache").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"?")
    assert remote_bytes("flaky://a.bin", 0, SIZE) == CONTENT
    assert len(flaky.asked) == asked + 1
    remote.blocks.cache_clear()
    fsspec.filesystem("flaky").pipe_file("/a.bin", CONTENT[::-1])  # another file at the same address
    assert remote_bytes("flaky://a.bin", 0, SIZE) == CONTENT[::-1]


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_disk_holds_no_more_than_it_may(tmp_path):
    """What was not used for longest goes first."""
    kept = KeptBlocks(tmp_path / "cache", 100_000)
    for i in range(200):
        kept.put(f"block {i}", bytes([i % 256]) * 5000)
        assert size_of(tmp_path / "cache") <= 100_000
        for path in (tmp_path / "cache").rglob("*"):  # older by a second with each block
            if path.is_file():
                os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        assert kept.get("block 0") == bytes(5000)
    there = [i for i in range(200) if kept.get(f"block {i}") is not None]
    assert len(there) >= 15
    assert there == [0, *range(200 - len(there) + 1, 200)]


def test_several_processes_share_the_disk(tmp_path):
    both = [KeptBlocks(tmp_path / "cache", 200_000) for _ in range(2)]
    for i in range(300):
        both[i % 2].put(f"block {i}", os.urandom(2000))
        assert size_of(tmp_path / "cache") <= 200_000 * 1.1 + 2016


def test_a_disk_that_is_full_is_told_once(tmp_path, flaky, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(remote.FOLDER, str(tmp_path / "file"))
    assert remote_bytes("flaky://a.bin", 0, SIZE) == CONTENT
    assert caplog.text.count("keeps no blocks of remote files: Not a directory") == 1


def test_threads(flaky, tmp_path, monkeypatch):
    monkeypatch.setenv(remote.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(remote.GIGABYTES, "0.0006")
    wrong = []

    def work(seed):
        draw = np.random.default_rng(seed)
        for _ in range(40):
            start, end = sorted(draw.integers(0, SIZE, 2).tolist())
            if remote_bytes("flaky://a.bin", start, end) != CONTENT[start:end]:
                wrong.append((start, end))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert size_of(tmp_path / "cache") <= 600_000


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_a_size_that_is_none(flaky, monkeypatch, given):
    monkeypatch.setenv(remote.GIGABYTES, given)
    with pytest.raises(ConfigError, match=rf"D2V_FAST_CACHE_GB is '{given}': it is a number of GB above 0"):
        remote_bytes("flaky://a.bin", 0, 1)


def test_what_fails_is_tried_again_and_then_named(flaky):
    flaky.failing = 2
    assert remote_bytes("flaky://a.bin", 0, 9) == CONTENT[:9]
    flaky.failing = 3
    with pytest.raises(
        Unreachable, match=r"flaky://a.bin cannot be read \(tried 3 times\): RuntimeError: 503 Slow Down"
    ):
        remote_bytes("flaky://a.bin", BLOCK, BLOCK + 9)
    with pytest.raises(FileNotFoundError):
        remote_bytes("flaky://nothing.bin", 0, 9)


@pytest.fixture
def shards(flaky):
    """Two shards of pictures that are larger than a block together."""
    system, pixels = fsspec.filesystem("flaky"), np.random.default_rng(0).integers(0, 256, (12, 100, 100, 3), np.uint8)
    for shard in range(2):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for i in range(6):
                content = io.BytesIO()
                Image.fromarray(pixels[6 * shard + i]).save(content, "PNG")
                member = tarfile.TarInfo(f"{i}.png")
                member.size = content.tell()
                content.seek(0)
                tar.addfile(member, content)
        system.pipe_file(f"/shard-{shard}.tar", packed.getvalue())
    flaky.asked.clear()
    return pixels


def opened(run=None):
    return open_source("flaky://shard-{0..1}.tar", "vision", VisionInputs(), run=run)


def test_shards_that_fail_now_and_then_are_read_as_ever(flaky, shards):
    flaky.failing = 2
    source = opened()
    assert len(source) == 12
    assert source.sizes.tolist() == [[100, 100]] * 12
    for i in range(12):
        flaky.failing = 2
        assert np.array_equal(source.read(i).permute(1, 2, 0).numpy(), shards[i])


def test_a_shard_that_goes_on_failing_stops_the_start_and_is_no_broken_sample(flaky, shards, tmp_path, monkeypatch):
    flaky.failing = 10**9
    with pytest.raises(DataError, match=r"flaky://shard-[01].tar cannot be read \(tried 3 times\).*Start again"):
        opened(tmp_path / "run")
    assert not (tmp_path / "run" / "index.bin").exists()
    flaky.failing = 0
    listing = remote.Blocks.read
    count = [0]

    def fails_later(self, *given):  # when the members are listed, and the headers are to be read
        count[0] += 1
        if count[0] == 18:
            flaky.failing = 10**9
            self._blocks.clear()
        return listing(self, *given)

    monkeypatch.setattr(remote.Blocks, "read", fails_later)
    with pytest.raises(DataError, match=r"flaky://shard-[01].tar cannot be read \(tried 3 times\).*Start again"):
        opened(tmp_path / "run")
    assert count[0] >= 18
    flaky.failing = 0
    assert len(opened(tmp_path / "run")) == 12


def test_a_shard_that_fails_while_it_is_trained_on_is_named(flaky, shards):
    source = opened()
    remote.blocks()._blocks.clear()
    flaky.failing = 10**9
    with pytest.raises(SampleError, match=r"shard-0.tar/3.png: flaky://shard-0.tar cannot be read \(tried 3 times\)"):
        source.read(3)
    flaky.failing = 0
    assert source.read(3).shape == (3, 100, 100)
