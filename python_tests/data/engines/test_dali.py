from __future__ import annotations

import io
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

import loading
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from d2v_fast.data import ArraySource, DataError, SampleError
from d2v_fast.data.plan import BatchPlan
from d2v_fast.masking import Masks
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.pictures import decode
from d2v_fast.modalities.vision.sampling import PicturePlan
from d2v_fast.modalities.windows import WindowPlan

pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')

from d2v_fast.data.engines import dali_graph

CPU = torch.device("cpu")
INPUTS = VisionInputs(jitter=0, mean=(0.0,) * 3, std=(1.0,) * 3)
SIZE = (20, 24)


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def one_colour(i):
    return saved(Image.new("RGB", SIZE[::-1], (i, i, i)))


def odd_jpeg():
    """Three bytes between two segments: libjpeg passes over them, DALI does not."""
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)), "JPEG")
    at = data.index(b"\xff\xc4")
    return data[:at] + bytes(3) + data[at:]


def bad_jpeg():
    """Its header and its end are right; nobody can decode it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    return saved(image, "JPEG", progressive=True).replace(b"\xff\xc4", b"\xff\xef")


class Files:
    """Pictures as the bytes of their files; sample i is of grey value i unless told otherwise."""

    modality, fingerprint = "vision", "x"

    def __init__(self, count, **others):
        self.files = [one_colour(i) for i in range(count)]
        for name, data in others.items():
            self.files[int(name[1:])] = data
        self.sizes = np.array([SIZE] * count)
        self.decoded_natively = []

    def __len__(self):
        return len(self.files)

    def name(self, index):
        return f"file {index}"

    def read(self, index):
        self.decoded_natively.append(index)
        try:
            return decode(np.frombuffer(self.encoded(index), np.uint8).copy(), grey=False, background=1.0)
        except RuntimeError as error:
            raise SampleError(self.name(index), str(error)) from error

    def encoded(self, index):
        if isinstance(self.files[index], Exception):
            raise self.files[index]
        return self.files[index]


def plan_of(*ids):
    boxes = np.array([[2, 3, 12, 12]] * len(ids))
    return BatchPlan(np.array(ids), 0, PicturePlan(boxes, np.zeros(len(ids), bool), np.ones((len(ids), 3))))


def no_masks(inputs, lengths, sample_ids, epoch):
    return Masks(torch.zeros(len(inputs), 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), None)


@pytest.fixture
def engine_of():
    engines = []

    def make(source, masks=no_masks, kind="dali", inputs=INPUTS, threads=1):
        engines.append(loading.engine_of(kind, source, inputs, masks, 16, threads, CPU))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def values(made):
    return (made.batch.inputs * 255).round().to(torch.int64)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_each_sample_gets_its_own_row_in_batches_of_any_size(engine_of, threads):
    source = Files(40)
    engine = engine_of(source, threads=threads)
    batches = [np.random.default_rng(i).permutation(40)[:size].tolist() for i, size in enumerate((3, 1, 8, 40, 2, 5))]
    futures = [engine.begin(partial(plan_of, *ids)) for ids in batches]
    for ids, future in zip(batches, futures, strict=True):
        made = future.result(30)
        assert values(made) == ids
        assert made.batch.sample_ids.tolist() == ids
        assert made.failures == {}
    assert source.decoded_natively == []


def test_batches_that_are_held_do_not_change(engine_of):
    engine = engine_of(Files(30))
    held = [engine.begin(partial(plan_of, *range(i, i + 4))).result(30) for i in range(20)]
    assert [values(made) for made in held] == [list(range(i, i + 4)) for i in range(20)]


def test_what_dali_is_not_given_is_made_natively_in_the_same_batch(engine_of):
    sixteen = saved(Image.fromarray(np.full(SIZE, 7 << 8, np.uint16)))
    source = Files(6, _1=saved(Image.new("CMYK", SIZE[::-1], (0, 0, 0, 255)), "JPEG"), _4=sixteen)
    made = engine_of(source).begin(partial(plan_of, *range(6))).result(30)
    assert values(made) == [0, 0, 2, 3, 7, 5]
    assert sorted(source.decoded_natively) == [1, 4]


def test_samples_without_files_are_made_natively(engine_of):
    source = ArraySource("vision", [np.full((*SIZE, 3), i, np.uint8) for i in range(5)])
    assert values(engine_of(source).begin(partial(plan_of, 3, 0, 4)).result(30)) == [3, 0, 4]


def test_a_clip_at_another_rate_is_made_natively(engine_of):
    class Clips:
        modality, fingerprint, sizes = "speech", "x", np.array([800, 800])

        def __init__(self):
            self.read_natively = []

        def __len__(self):
            return 2

        def name(self, index):
            return f"clip {index}"

        def encoded(self, index):
            file = io.BytesIO()
            soundfile.write(file, np.full(800 >> index, 0.25), 16000 >> index, format="WAV")
            return file.getvalue()

        def read(self, index):
            self.read_natively.append(index)
            return np.full(800, 0.25, np.float32)

    plan = BatchPlan(np.arange(2), 0, WindowPlan(np.array([0, 500]), np.array([800, 300])))
    inputs = SpeechInputs(normalize=False)
    batch = engine_of(clips := Clips(), inputs=inputs).begin(lambda: plan).result(30).batch
    assert clips.read_natively == [1]
    assert batch.lengths.tolist() == [800, 300]
    assert torch.equal(batch.inputs[0], torch.full((800,), 0.25))
    assert torch.equal(batch.inputs[1], torch.cat([torch.full((300,), 0.25), torch.zeros(500)]))


def test_a_file_that_kills_the_pipeline_is_named_and_nothing_else_is_lost(engine_of, monkeypatch):
    built = []
    graph = dali_graph.Graph
    monkeypatch.setattr(dali_graph, "Graph", lambda *args: built.append(1) or graph(*args))
    source = Files(24, _9=bad_jpeg())
    engines = [engine_of(source), engine_of(source, kind="native")]
    plans = [partial(plan_of, *range(i, i + 4)) for i in range(0, 24, 4)] * 2
    futures = [[engine.begin(plan) for plan in plans] for engine in engines]
    for i, (ours, native) in enumerate(zip(*futures, strict=True)):
        ours, native = ours.result(30), native.result(30)
        bad = i % 6 == 2
        assert list(ours.failures) == ([9] if bad else [])
        assert [str(error) for error in ours.failures.values()] == [str(error) for error in native.failures.values()]
        assert ours.batch.skipped == bad
        assert torch.equal(ours.batch.sample_ids, native.batch.sample_ids)
        assert values(ours) == values(native)
    assert len(built) == 2  # in the second round the file is known


def test_the_batch_that_killed_the_pipeline_is_the_native_one(engine_of):
    """Bit for bit, and the next one is DALI's again."""
    source = Files(8, _2=bad_jpeg(), _5=saved(Image.effect_noise(SIZE[::-1], 90).convert("RGB"), "JPEG"))
    ours, native = (engine_of(source, kind=kind) for kind in ("dali", "native"))
    plan = partial(plan_of, 5, 2, 7)
    first, expected = ours.begin(plan).result(30), native.begin(plan).result(30)
    assert torch.equal(first.batch.inputs, expected.batch.inputs)
    assert first.batch.sample_ids.tolist() == [5, 7]
    source.decoded_natively.clear()
    again = ours.begin(plan).result(30)
    assert source.decoded_natively == [2]
    assert again.batch.sample_ids.tolist() == [5, 7]
    assert (again.batch.inputs - expected.batch.inputs).abs().max() * 255 <= 2.01


def test_a_whole_file_that_dali_cannot_decode_is_told_and_decoded_natively(engine_of, monkeypatch, capfd):
    monkeypatch.setattr(
        "d2v_fast.modalities.vision.dali.is_plain_picture", lambda *_, **__: True
    )  # would keep such a file away
    source = Files(8, _2=odd_jpeg())
    engine = engine_of(source)
    for _ in range(2):
        assert engine.begin(partial(plan_of, 1, 2, 3)).result(30).batch.sample_ids.tolist() == [1, 2, 3]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("d2v-fast")]
    assert len(told) == 1
    assert told[0].startswith("d2v-fast: DALI cannot decode one of 3 samples that are whole; they are decoded natively")
    assert "Current pipeline" not in told[0]
    assert sorted(source.decoded_natively) == [1, 1, 2, 2, 3, 3]
    assert values(engine.begin(partial(plan_of, 4, 5)).result(30)) == [4, 5]
    assert len(source.decoded_natively) == 6


def test_dali_that_fails_again_and_again_is_an_error(engine_of, monkeypatch, capfd):
    def fail(self):
        raise RuntimeError("no memory")

    monkeypatch.setattr(dali_graph.Graph, "take", fail)
    monkeypatch.setattr(dali_graph.Graph, "__init__", lambda self, *args: setattr(self, "batch_size", 9))
    monkeypatch.setattr(dali_graph.Graph, "start", lambda self, samples: None)
    engine = engine_of(Files(9))
    for i in range(2):
        assert engine.begin(partial(plan_of, i)).result(30).batch is not None
    with pytest.raises(DataError, match=r"DALI fails on batch after batch \(no memory\): use loader.engine native"):
        engine.begin(partial(plan_of, 2)).result(30)


def test_a_device_that_dali_cannot_work_on(engine_of, monkeypatch):
    def fail(*args):
        raise RuntimeError("no CUDA-capable device")

    monkeypatch.setattr(dali_graph, "Graph", fail)
    engine = engine_of(Files(3))
    for _ in range(2):
        with pytest.raises(DataError, match=r"DALI cannot work on cpu \(no CUDA-capable device\): use loader.engine"):
            engine.begin(partial(plan_of, 1)).result(30)


def test_a_file_that_is_gone_is_named(engine_of):
    engine = engine_of(Files(4, _1=SampleError("file 1", "is gone"), _3=OSError("oh")))
    made = engine.begin(partial(plan_of, 0, 1, 2)).result(30)
    assert made.batch.sample_ids.tolist() == [0, 2]
    assert str(made.failures[1]) == "file 1: is gone"
    other = engine.begin(partial(plan_of, 2, 3)).result(30)
    assert [str(error) for error in other.failures.values()] == ["file 3: reading it failed: OSError: oh"]
    none = engine.begin(partial(plan_of, 1)).result(30)
    assert list(none.failures) == [1]
    assert len(none.batch.sample_ids) == len(none.batch.inputs) == 0


def test_an_unforeseen_error_after_a_dead_pipeline_is_its_samples_alone(engine_of):
    """The file kills the pipeline, and reading it natively fails in a way that nobody foresaw."""
    source = Files(12, _1=bad_jpeg())
    read = source.read
    source.read = lambda index: {}["oh"] if index == 1 else read(index)
    engine = engine_of(source)
    futures = [engine.begin(partial(plan_of, *range(i, i + 3))) for i in (0, 3, 6, 9)]
    first = futures[0].result(30)
    assert [str(error) for error in first.failures.values()] == ["file 1: reading it failed: KeyError: 'oh'"]
    assert values(first) == [0, 2]
    assert [values(future.result(30)) for future in futures[1:]] == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_errors_of_the_plan_and_of_the_masks_become_the_batchs(engine_of):
    def no(*args):
        raise ValueError("no mask")

    engine = engine_of(Files(4), masks=no)
    with pytest.raises(ValueError, match="no mask"):
        engine.begin(partial(plan_of, 0)).result(30)
    with pytest.raises(KeyError, match="oh"):
        engine.begin(lambda: {}["oh"]).result(30)


def test_a_batch_that_nobody_wants_is_not_made(engine_of):
    gate, masked = threading.Event(), []

    def masks(inputs, lengths, sample_ids, epoch):
        masked.append(sample_ids.tolist())
        return no_masks(inputs, lengths, sample_ids, epoch)

    engine = engine_of(Files(9), masks=masks)
    first = engine.begin(lambda: (gate.wait(30), plan_of(0))[1])
    second, third = engine.begin(partial(plan_of, 1)), engine.begin(partial(plan_of, 2))
    second.cancel()
    gate.set()
    assert first.result(30).batch is not None
    assert third.result(30).batch is not None
    with pytest.raises(CancelledError):
        second.result()
    assert [1] not in masked


def test_closing_ends_all_threads_and_drops_the_rest():
    def ours():
        return [thread for thread in threading.enumerate() if thread.name.startswith("d2v-data")]

    before = len(ours())
    engine = loading.engine_of("dali", Files(40), INPUTS, no_masks, 16, 2, CPU)
    assert len(ours()) == before + 3
    futures = [engine.begin(partial(plan_of, *range(40))) for _ in range(20)]
    futures[0].result(30)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 20
    assert len(ours()) == before
    engine.close()


def test_a_process_may_end_without_closing(run_python, tmp_path):
    """In the middle of the work."""
    for i in range(8):
        wave = 0.1 * np.random.default_rng(i).standard_normal(100_000)
        soundfile.write(tmp_path / f"{i}.flac", wave, 16000)
    code = """
        import torch
        import sys
        sys.path.insert(0, {fixtures!r})
        from loading import make_loader
        from d2v_fast.data import LoaderConfig, open_source
        from d2v_fast.modalities.speech.config import SpeechInputs
        from d2v_fast.masking import Masks

        inputs = SpeechInputs()
        masks = lambda x, *_: Masks(torch.zeros(len(x), 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), None)
        config = LoaderConfig(engine="dali", batch_size=4, prefetch=8)
        loader = make_loader(open_source({root!r}, "speech", inputs), inputs=inputs, config=config, seed=0, masks=masks)
        loader.step(0)
    """
    ended = run_python(
        code.format(root=str(tmp_path), fixtures=str(Path(loading.__file__).parent)), OMP_NUM_THREADS="1"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
