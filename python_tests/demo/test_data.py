from pathlib import Path

import numpy as np
import pytest

from d2v_fast import presets
from d2v_fast.demo import speech, text, vision
from d2v_fast.demo.espeak import speak
from d2v_fast.demo.task import DemoError, held_out, require

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return vision.task()


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("espeakng_loader")
    patch = pytest.MonkeyPatch()
    patch.setattr(speech, "WORDS", speech.WORDS[:2])
    patch.setattr(speech, "SENTENCES", 1)
    yield speech.task()
    patch.undo()


@pytest.fixture(scope="module")
def docs():
    return text.task()


def contents(part):
    return {np.asarray(sample).tobytes() for sample in part.inputs}


def test_digits_are_all_there_once(digits):
    train, test = digits.train, digits.test
    assert len(train) + len(test) == 1797
    assert 0.2 < len(test) / 1797 < 0.3
    assert len(contents(train)) == len(train)
    assert not contents(train) & contents(test)
    assert train.inputs[0].shape == (8, 8)
    assert max(int(picture.max()) for picture in train.inputs) == 255
    assert np.bincount(test.labels, minlength=10).min() > 25
    np.testing.assert_array_equal(train.raw[3].reshape(8, 8), train.inputs[3])


def test_pretraining_sees_no_test_digit(digits):
    assert {digits.source.read(i).tobytes() for i in range(len(digits.source))} == contents(digits.train)


def test_the_split_is_the_same_every_time(digits):
    again = vision.task()
    assert again.source.fingerprint == digits.source.fingerprint
    np.testing.assert_array_equal(again.test.labels, digits.test.labels)


def test_held_out_share():
    share = np.mean([held_out(str(i).encode(), 0.25) for i in range(4000)])
    assert 0.22 < share < 0.28
    assert not held_out(b"anything", 0.0)
    assert held_out(b"anything", 1.0)
    thirds = [[held_out(str(i).encode(), 1 / 3, k / 3) for i in range(300)] for k in range(3)]
    assert [sum(of_one) for of_one in zip(*thirds, strict=True)] == [1] * 300


def test_voices_of_the_test_words_are_never_heard_before(words):
    heard = {words.source.name(i).split(":")[0] for i in range(len(words.source))}
    voices = speech.espeak().voices
    hidden = {voice for voice in voices if held_out(voice.encode(), speech.TEST_SHARE)}
    assert len(voices) > 60
    assert len(hidden) > 10
    assert heard == set(voices) - hidden
    assert len(words.test) == 2 * len(hidden) == 2 * len(np.unique(words.test.groups))
    assert not contents(words.train) & contents(words.test)
    assert len(contents(words.train)) == len(words.train)


def test_words_are_speech_at_16_khz(words):
    seconds = np.array([len(clip) for clip in words.train.inputs]) / speech.SAMPLE_RATE
    assert 0.1 < seconds.min() < np.median(seconds) < 0.7
    assert all(clip.dtype == np.int16 and np.abs(clip).max() > 300 for clip in words.train.inputs)
    assert words.source.sizes[:, 0].min() >= presets.speech_small().inputs.min_seconds * speech.SAMPLE_RATE
    assert set(words.train.labels) == {0, 1}


def test_speech_is_the_same_every_time_and_differs_between_arguments():
    lines = [("window", "whisper", 175, 50), ("window", "whisper", 120, 50), ("window", "f3", 175, 50)]
    (rate, first), (_, again) = speak(lines), speak(lines)
    assert rate == 22050
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(first[1]) > 1.2 * len(first[0])
    with pytest.raises(DemoError, match="no voice 'en-us\\+nobody'"):
        speak([("window", "nobody", 175, 50)])


def test_docstrings_of_a_folder(tmp_path: Path):
    (tmp_path / "one.py").write_text('"""A module that is about one thing."""\ndef f():\n    """Too short."""\n')
    package = tmp_path / "two"
    package.mkdir()
    (package / "a.py").write_text('class A:\n    """This class   belongs\n    to the package two."""\n')
    (package / "b.py").write_text('def g():\n    """This class belongs to the package two."""\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.py").write_text('"""A test that nobody wants to see here."""\n')
    assert text.docstrings(tmp_path) == [
        ("one", "A module that is about one thing."),
        ("two", "This class   belongs\nto the package two."),
    ]


def test_texts_are_held_out_and_judged_where_something_is_hidden(docs):
    train, test = docs.train, docs.test
    counts = np.bincount(test.labels, minlength=len(docs.classes))
    assert len(docs.classes) == text.LETTERS
    assert text.EXAMPLES[1] >= counts.max() >= counts.min() > 0.7 * text.EXAMPLES[1]
    assert not contents(train) & contents(test)
    mask = docs.source.mask_id
    for part in (train, test):
        assert all(sample[0] == 0 and (sample == mask).sum() == 1 for sample in part.inputs)
        assert all(sample[place] == mask for sample, place in zip(part.inputs, part.positions, strict=True))
    assert len(train.raw) == len(train)


def test_what_is_missing_is_named_with_the_line_that_installs_it():
    with pytest.raises(DemoError, match=r"needs no_such_module .*pip install 'd2v_fast\[demo\]'"):
        require("no_such_module.part")
