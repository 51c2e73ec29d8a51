"""What comes with a loaded encoder: the random start of its run, and preprocessing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer

import d2v_fast
from d2v_fast.errors import RunError, SampleError
from d2v_fast.training.trainer import Data2VecTrainer

EVERY = ["speech", "vision", "text", "series"]


@pytest.mark.parametrize("modality", EVERY)
def test_the_initial_network_is_the_start_of_the_run_bit_for_bit(make_config, make_data, tmp_path, modality):
    trainer = Data2VecTrainer(make_config(modality, steps=2, seed=5), data=make_data(modality), out=tmp_path / "run")
    start = {name: value.clone() for name, value in trainer.model.student.encoder.state_dict().items()}
    run = trainer.fit()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    initial = d2v_fast.load(run, network="initial")
    assert torch.equal(torch.random.get_rng_state(), before)
    found = initial.state_dict()
    assert start.keys() == found.keys()
    assert [name for name in start if not torch.equal(start[name], found[name])] == []
    assert not initial.training
    trained = d2v_fast.load(run).state_dict()
    assert any(not torch.equal(trained[name], found[name]) for name in found)


def test_the_initial_network_needs_no_checkpoint(make_config, train, tmp_path):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert not d2v_fast.load(run, network="initial").training
    with pytest.raises(RunError, match="has no checkpoint yet"):
        d2v_fast.load(run)


def test_features_of_texts(make_config, train, tmp_path):
    run = train(make_config("text", steps=1), tmp_path / "run")
    encoder = d2v_fast.load(run)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    text = "the teacher sees"
    ids = [0, *tokenizer.encode(text, add_special_tokens=False).ids, 2][:16]
    expected = encoder(torch.tensor([ids]))[0].detach()
    torch.testing.assert_close(encoder.features(text, pooled=False), expected)
    torch.testing.assert_close(encoder.features([text])[0], expected.mean(0))
    (tmp_path / "text.txt").write_text(text)
    torch.testing.assert_close(encoder.features(tmp_path / "text.txt"), expected.mean(0))
    long, empty = encoder.features([text * 50, ""], pooled=False)
    assert [len(long), len(empty)] == [16, 2]  # cut to the longest; begin and end token
    torch.testing.assert_close(encoder.features(np.array(ids)), expected.mean(0))


def test_a_run_without_its_tokenizer_says_so(make_config, train, tmp_path):
    run = train(make_config("text", steps=1), tmp_path / "run")
    (run / "tokenizer.json").unlink()
    with pytest.raises(SampleError, match=r"tokenizer is not there \(.*tokenizer\.json\): put it there"):
        d2v_fast.load(run).features(["a text"])


def test_features_of_pictures(make_config, train, tmp_path):
    encoder = d2v_fast.load(train(make_config("vision", steps=1), tmp_path / "run"))
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = encoder(encoder.prepare(picture)[None])[0].detach()
    found = encoder.features([tmp_path / "a.png", str(tmp_path / "a.png"), picture])
    torch.testing.assert_close(found, expected.mean(0).expand(3, -1))
    torch.testing.assert_close(encoder.features(picture), expected.mean(0))


def test_features_of_sound(make_config, train, tmp_path):
    encoder = d2v_fast.load(train(make_config("speech", steps=1), tmp_path / "run"))
    clips = [np.random.default_rng(i).integers(-9000, 9000, n).astype(np.int16) for i, n in enumerate((9000, 5000))]
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16000)
    paths = encoder.features([tmp_path / "0.wav", tmp_path / "1.wav"], pooled=False)
    arrays = encoder.features(clips, pooled=False)
    for path, array in zip(paths, arrays, strict=True):
        torch.testing.assert_close(path, array)
    assert len(paths[0]) > len(paths[1])


def test_features_of_a_series_file(make_config, train, tmp_path):
    encoder = d2v_fast.load(train(make_config("series", steps=1), tmp_path / "run"))
    signal = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", signal)
    torch.testing.assert_close(encoder.features(tmp_path / "a.npy"), encoder.features(signal))


def test_what_makes_no_features_is_named(make_config, train, tmp_path):
    encoder = d2v_fast.load(train(make_config("vision", steps=1), tmp_path / "run"))
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "b.png").write_bytes(b"no picture either")
    for given, words in [
        (tmp_path / "gone.png", r"there is no file .*gone\.png"),
        (tmp_path / "a.txt", r"a\.txt is no JPEG"),
        (tmp_path / "b.png", r"b\.png"),
        (np.zeros((4, 4), np.float64), "sample 0"),
    ]:
        with pytest.raises(SampleError, match=words):
            encoder.features([given])
    with pytest.raises(ValueError, match="at least one sample"):
        encoder.features([])
