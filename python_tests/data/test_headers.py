"""Headers read by processes, and an index that goes on where a start was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loading import records
from PIL import Image, PngImagePlugin

from d2v_fast.data import DataError, SampleError, headers, opening
from d2v_fast.data import open_source as open_data
from d2v_fast.data.build import build
from d2v_fast.data.own import SOFTWARE
from d2v_fast.data.processes import in_processes, portable
from d2v_fast.data.store import FileStore
from d2v_fast.errors import OwnFile
from d2v_fast.modalities.speech import sound
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sizes import read_size

COUNT = 300


@pytest.fixture
def photos(tmp_path):
    """Pictures, of which one is broken, one gone, and one drawn by this program."""
    root = tmp_path / "photos"
    for i in range(COUNT):
        (root / str(i % 3)).mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((1 + i % 9, 1 + i % 7), dtype=np.uint8)
        Image.fromarray(pixels).save(root / str(i % 3) / f"{i:03}.{'png' if i % 2 else 'jpg'}")
    (root / "0" / "broken.png").write_bytes(b"x")
    os.symlink("nothing", root / "1" / "gone.png")
    said = PngImagePlugin.PngInfo()
    said.add_text("Software", SOFTWARE)
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(root / "2" / "ours.png", pnginfo=said)
    return root


def index_of(data, run, threads=2):
    open_data(data, "vision", VisionInputs(), run=run, threads=threads)
    return (run / "index.bin").read_bytes()


@pytest.mark.parametrize("what", ["folder", "shards", "manifest"])
def test_processes_make_the_index_that_threads_make(what, photos, tmp_path, monkeypatch, capsys):
    data = photos
    if what == "shards":
        data = tmp_path / "shards"
        data.mkdir()
        for shard in range(3):
            with tarfile.open(data / f"{shard}.tar", "w") as tar:
                for path in sorted((photos / str(shard)).iterdir()):
                    tar.add(path, path.name)
    if what == "manifest":
        data = tmp_path / "some.csv"
        data.write_text("path\nphotos/0/000.jpg\nphotos/1/001.png\nphotos/../../elsewhere.png\nphotos/0/broken.png\n")
    by_threads = index_of(data, tmp_path / "threads")
    monkeypatch.setattr(headers, "MANY", 1)
    started = []
    monkeypatch.setattr(headers, "in_processes", lambda *given: started.append(given[2]) or in_processes(*given))
    for processes in (1, 3):
        assert index_of(data, tmp_path / f"processes {processes}", processes) == by_threads
    assert started == [1, 3]


def test_a_manifest_is_the_same_by_processes(photos, tmp_path, monkeypatch, capsys):
    build(photos, tmp_path / "a.jsonl", deep=True)
    monkeypatch.setattr(headers, "MANY", 1)
    build(photos, tmp_path / "b.jsonl", deep=True)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl.broken.jsonl").read_bytes() == (tmp_path / "b.jsonl.broken.jsonl").read_bytes()


def test_a_start_that_is_killed_goes_on(photos, tmp_path):
    """In threads, at a file that takes for ever; the next start reads what is missing only."""
    run = tmp_path / "run"
    script = f"""
import time
from pathlib import Path
from d2v_fast.data import open_source
from d2v_fast.modalities.vision import pictures
from d2v_fast.modalities.vision.config import VisionInputs
read = pictures.read_size
def look(store, i):
    if i == 250:
        time.sleep(1000)
    return read(store, i)
pictures.read_size = look
open_source(Path({str(photos)!r}), "vision", VisionInputs(), run=Path({str(run)!r}), threads=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        while records(run / opening.PART) < 200:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (run / "index.bin").exists()
    with (run / opening.PART).open("ab") as file:
        file.write(b"half a record")
    looked = []
    monkey = pytest.MonkeyPatch()
    monkey.setattr("d2v_fast.modalities.vision.pictures.read_size", lambda s, i: looked.append(i) or read_size(s, i))
    with monkey.context():
        again = index_of(photos, run)
    monkey.undo()
    assert 53 <= len(looked) <= 103  # 300 pictures and 3 that are none, of which at least 200 were known
    assert again == index_of(photos, tmp_path / "at once")
    assert not (run / opening.PART).exists()


def test_what_was_found_of_other_files_is_not_believed(photos, tmp_path):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2v_fast.data.opening._index", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            index_of(photos, run)
    assert records(run / opening.PART) == COUNT
    other = tmp_path / "other"
    shutil.copytree(photos, other, symlinks=True)
    for path in other.rglob("*.png"):  # as large as the old ones, and other pictures
        if path.name != "ours.png" and path.exists():
            path.write_bytes(path.read_bytes()[:16] + bytes([0, 0, 0, 77]) + path.read_bytes()[20:])
    assert index_of(other, run) == index_of(other, tmp_path / "at once")


def test_processes_end_with_the_one_that_started_them():
    script = """
import os
from pathlib import Path
from d2v_fast.data.processes import _Worker
worker = _Worker(os.path.basename)
assert worker.ask("a/b") == "b"
print(worker._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, text=True)
    pid = int(done.stdout)
    limit = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_process_that_ends_is_named_with_what_it_read(photos, tmp_path, monkeypatch):
    (tmp_path / "ending_reader.py").write_text(
        "import os\ndef look(store, i):\n    return os._exit(7) if store.names[i] == '2/002.jpg' else (1, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import ending_reader  # written above: the worker finds it by the same path

    monkeypatch.setattr(headers, "MANY", 1)
    store = FileStore(photos, ["1/001.png", "2/002.jpg"])
    with pytest.raises(DataError, match=r"a process ended \(exit code 7\) while it read .*1/001.png to .*2/002.jpg"):
        list(headers.headers(ending_reader.look, store, range(2), 2, "reading"))


def test_what_cannot_be_given_to_a_process():
    assert portable(read_size)
    assert portable(partial(max, 3))
    assert not portable(lambda: None)
    assert not portable(partial(max, lambda: None))


def test_a_broken_sample_comes_back_as_it_is(photos, monkeypatch):
    monkeypatch.setattr(headers, "MANY", 1)
    store = FileStore(photos, ["0/broken.png", "2/ours.png", "1/gone.png", "0/000.jpg"])
    found = dict(headers.headers(read_size, store, range(4), 1, "reading"))
    assert isinstance(found[0], SampleError)
    assert found[0].reason == "is neither JPEG nor PNG, WebP, BMP, TIFF or GIF"
    assert found[0].name == str(photos / "0/broken.png")
    assert isinstance(found[1], OwnFile)
    assert found[2].reason == "No such file or directory"
    assert found[3] == (1, 1)


def sounds(folder):
    """WAV files of many kinds, and what is wrong with some."""
    draw = np.random.default_rng(0)
    for subtype in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW", "IMA_ADPCM"):
        for channels in (1, 2):
            clip = draw.uniform(-0.5, 0.5, (1000, channels))
            soundfile.write(folder / f"{subtype}{channels}.wav", clip, 16000, format="WAV", subtype=subtype)
    soundfile.write(folder / "extensible.wav", draw.uniform(-1, 1, 1000), 8000, format="WAVEX", subtype="PCM_16")
    plain = (folder / "PCM_161.wav").read_bytes()
    for at in range(0, 44, 2):  # each field of the header is another number
        spoiled = bytearray(plain)
        spoiled[at] ^= 5
        (folder / f"spoiled{at:02}.wav").write_bytes(spoiled)
    (folder / "cut.wav").write_bytes(plain[:-100])
    (folder / "longer.wav").write_bytes(plain + b"more")
    (folder / "head.wav").write_bytes(plain[:44])
    (folder / "half.wav").write_bytes(plain[:30])
    (folder / "empty.wav").write_bytes(b"")
    return sorted(path.name for path in folder.iterdir())


def test_a_plain_wav_is_what_libsndfile_says(tmp_path, monkeypatch):
    names = sounds(tmp_path)
    store = FileStore(tmp_path, names)
    found = [headers.header(sound.read_header, store, i) for i in range(len(names))]
    short = [name for i, name in enumerate(names) if sound.plain_wav(store, i) is not None]
    assert (
        {"PCM_161.wav", "PCM_162.wav"} <= set(short) <= {"PCM_161.wav", "PCM_162.wav", "spoiled24.wav", "spoiled25.wav"}
    )
    monkeypatch.setattr(sound, "plain_wav", lambda *_: None)
    for i, name in enumerate(names):
        known = headers.header(sound.read_header, store, i)
        assert (getattr(found[i], "reason", found[i])) == getattr(known, "reason", known), name


def test_parts_of_a_plain_wav(tmp_path):
    sounds(tmp_path)
    spans = np.array([[0.01, 0.02], [0.05, np.nan]])
    names = ["PCM_161.wav [0.01 s + 0.02 s]", "PCM_161.wav [from 0.05 s]"]
    store = FileStore(tmp_path, names, spans=spans)
    assert [sound.read_length(store, i) for i in range(2)] == [(320, 16000), (200, 16000)]


def test_a_store_of_some_samples_opens_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.tar", "b.tar", "c.wav"):
        (tmp_path / name).write_bytes(rng.bytes(100))
    places = np.array([[1, 5], [-1, 0], [0, 7], [1, 20]])
    names = ["b.tar/x.wav", "c.wav", "a.tar/y.wav", "b.tar/z.wav"]
    whole = FileStore(
        tmp_path, names, places=places, file_bytes=np.array([9, 100, 8, 7]), containers=["a.tar", "b.tar"]
    )
    some = whole.some([3, 1])
    assert list(some.names) == ["b.tar/z.wav", "c.wav"]
    assert [some.read(0).tobytes(), some.read(1).tobytes()] == [whole.read(3).tobytes(), whole.read(1).tobytes()]
    assert some.label(0) == whole.label(3)
    assert places.tolist() == [[1, 5], [-1, 0], [0, 7], [1, 20]]


def test_speech_by_processes(tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    sounds(tmp_path / "clips")
    indices = []
    for i, many in enumerate((1000, 1)):
        monkeypatch.setattr(headers, "MANY", many)
        open_data(tmp_path / "clips", "speech", SpeechInputs(min_seconds=0.0), run=tmp_path / str(i))
        indices.append((tmp_path / str(i) / "index.bin").read_bytes())
    assert indices[0] == indices[1]
