from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loading import engine_of, stages_of

from d2v_fast.data import ArraySource, DataError, SampleError
from d2v_fast.data.engines import choice as choosing
from d2v_fast.data.engines.choice import choose_engine
from d2v_fast.data.engines.engine import assemble
from d2v_fast.data.engines.native import NativeEngine
from d2v_fast.data.plan import BatchPlan
from d2v_fast.masking import Masks
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PicturePlan
from d2v_fast.modalities.windows import WindowPlan

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ARRAYS = ArraySource("vision", np.zeros((3, 8, 8), np.uint8))


class Files(ArraySource):
    def encoded(self, index):
        return b"a file"


PICTURES = Files("vision", np.zeros((3, 8, 8), np.uint8))


def no_masks(inputs, lengths, sample_ids, epoch):
    return Masks(torch.zeros(len(inputs), 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), None)


def made(name, device, source=PICTURES):
    return engine_of(name, source, VisionInputs(), no_masks, 8, 1, device)


@pytest.fixture(autouse=True)
def fresh():
    choosing._tell_native.cache_clear()


@pytest.fixture
def choice(monkeypatch):
    """Replaces both engines by their names, and says whether DALI is installed."""

    def make(installed):
        monkeypatch.setattr(choosing, "_has_dali", lambda: installed)
        monkeypatch.setattr("d2v_fast.data.engines.native.NativeEngine", lambda *arguments: "native")
        dali = SimpleNamespace(DaliEngine=lambda *arguments: "dali")  # in place of the module, which imports DALI
        monkeypatch.setitem(sys.modules, "d2v_fast.data.engines.dali", dali)

    return make


@pytest.mark.parametrize(
    ("name", "installed", "device", "expected"),
    [
        ("auto", True, CPU, "native"),
        ("auto", True, GPU, "dali"),
        ("auto", False, GPU, "native"),
        ("native", True, GPU, "native"),
        ("dali", True, CPU, "dali"),
    ],
)
def test_the_choice(choice, name, installed, device, expected):
    choice(installed)
    assert made(name, device) == expected


def test_a_run_goes_on_with_the_engine_it_was_begun_with(choice):
    choice(True)
    assert choose_engine("auto", PICTURES, GPU, "native") == "native"
    assert choose_engine("auto", PICTURES, CPU, "dali") == "dali"
    assert choose_engine("native", PICTURES, GPU, "dali") == "native"  # an engine by name is part of the configuration
    choice(False)
    assert choose_engine("auto", PICTURES, GPU, "native") == "native"
    with pytest.raises(DataError, match=r"dali when this run was begun.*pip install.*--init-from"):
        choose_engine("auto", PICTURES, GPU, "dali")


def test_auto_on_a_gpu_without_dali_says_so_once(choice, capsys):
    choice(False)
    made("auto", CPU)
    assert capsys.readouterr().err == ""
    made("auto", GPU)
    made("auto", GPU)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        'DALI is not installed: the native engine decodes on the CPU (install it with `pip install "d2v_fast' in error
    )


def test_samples_in_memory_need_no_dali(choice, capsys):
    for installed in (True, False):
        choice(installed)
        assert made("auto", GPU, ARRAYS) == "native"
    assert capsys.readouterr().err == ""


def test_dali_that_is_not_there(choice):
    choice(False)
    with pytest.raises(DataError, match=r'loader.engine is dali, but .* not installed: .*"d2v_fast\[dali\]"`, or use'):
        made("dali", CPU)


def test_text_is_never_decoded(choice):
    class Text(ArraySource):
        modality = "text"

        def __init__(self):
            pass

    choice(True)
    assert engine_of("auto", Text(), TextInputs(), no_masks, None, 1, GPU) == "native"
    with pytest.raises(DataError, match="text has nothing to decode"):
        engine_of("dali", Text(), TextInputs(), no_masks, None, 1, GPU)


def test_another_engine():
    with pytest.raises(DataError, match=r"loader.engine is 'fast'; choose auto, dali or native"):
        made("fast", CPU)


def test_the_cpu_has_the_native_engine():
    native = made("auto", CPU)
    assert isinstance(native, NativeEngine)
    native.close()


def clip_plan(*lengths):
    lengths = np.array(lengths)
    return BatchPlan(np.arange(10, 10 + len(lengths)), 7, WindowPlan(np.zeros_like(lengths), lengths))


def test_failed_rows_are_taken_out_with_their_lengths():
    asked = []

    def masks(inputs, lengths, sample_ids, epoch):
        asked.append((inputs[:, 0].tolist(), lengths.tolist(), sample_ids.tolist(), epoch))
        mask = torch.zeros(2 * len(inputs), 5, dtype=torch.bool)
        return Masks(mask, torch.zeros(0, dtype=torch.int64), None)

    inputs = torch.arange(4.0)[:, None].expand(4, 9)
    errors = {3: SampleError("d", "is odd"), 1: SampleError("b", "is empty")}
    result = assemble(inputs, clip_plan(9, 4, 6, 5), errors, stages_of(masks), pin=False)
    assert asked == [([0, 2], [9, 6], [10, 12], 7)]
    assert list(result.failures) == [11, 13]
    assert result.failures[13].reason == "is odd"
    batch = result.batch
    assert batch.lengths.tolist() == [9, 6]
    assert batch.sample_ids.tolist() == [10, 12]
    assert batch.skipped == 2
    assert batch.views == 2


def test_a_batch_may_be_empty():
    def masks(*_):
        raise AssertionError("there is nothing to mask")

    errors = {0: SampleError("a", "is empty"), 1: SampleError("b", "is empty")}
    result = assemble(torch.zeros(2, 9), clip_plan(9, 4), errors, stages_of(masks), pin=False)
    assert result.batch.skipped == 2
    assert len(result.batch.inputs) == len(result.batch.sample_ids) == 0
    assert result.batch.mask is None


def test_pictures_have_no_lengths():
    plan = BatchPlan(np.arange(2), 0, PicturePlan(np.zeros((2, 4)), np.zeros(2, bool), np.ones((2, 3))))
    assert assemble(torch.zeros(2, 3, 4, 4), plan, {}, stages_of(no_masks), pin=False).batch.lengths is None


def test_speech_on_the_native_engine():
    clip = np.linspace(-1, 1, 40, dtype=np.float32)
    source = ArraySource("speech", [clip, clip[:20]])
    native = engine_of("native", source, SpeechInputs(normalize=False), no_masks, None, 1, CPU)
    plan = BatchPlan(np.array([1, 0]), 0, WindowPlan(np.array([4, 10]), np.array([12, 15])))
    batch = native.begin(lambda: plan).result(30).batch
    native.close()
    assert torch.equal(batch.inputs[0], torch.tensor([*clip[4:16], 0, 0, 0]))
    assert torch.equal(batch.inputs[1], torch.tensor(clip[10:25]))
    assert batch.lengths.tolist() == [12, 15]
