"""Features of whole data sets in a file: every source, every format, and nothing that depends on the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import d2v_fast
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation import embed as module
from d2v_fast.evaluation import read_embedded
from d2v_fast.evaluation.embed import embed

EVERY = ["speech", "vision", "text", "series"]
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Modality to a tiny run, trained once."""
    return {}, tmp_path_factory


@pytest.fixture
def run_of(runs, make_config, train):
    made, factory = runs

    def get(modality):
        if modality not in made:
            # as released: several position convolutions, each of which reads what the one before made of the padding
            deeper = {"model": {"embedding": {"position_depth": 3}}} if modality == "speech" else {}
            made[modality] = train(make_config(modality, steps=2, **deeper), factory.mktemp(modality) / "run")
        return made[modality]

    return get


def clips(count):
    """Clips of a few lengths: some share one, some do not."""
    return [RNG.standard_normal(5000 + 800 * (i % 5)).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize("ending", [".safetensors", ".npy", ".parquet"])
@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_every_format_holds_the_same(run_of, tmp_path, ending, pool, layers):
    run, data = run_of("speech"), ArraySource("speech", clips(7), [f"clip/ü{i}" for i in range(7)])
    out = d2v_fast.embed(run, data, out=tmp_path / f"a{ending}", layers=layers, pool=pool, batch_size=3)
    found = read_embedded(out)
    encoder = d2v_fast.load(run)
    tokens = [encoder.features(data.read(i), pooled=False).numpy() for i in range(7)]
    expected = np.stack([t.mean(0) for t in tokens]) if pool == "mean" else np.concatenate(tokens)
    last = found.features if layers == "last" else found.features[:, -1]
    assert found.features.dtype == np.float32
    assert found.features.shape == (*expected.shape[:1], *(() if layers == "last" else (3,)), 32)
    np.testing.assert_allclose(last, expected, atol=1e-5)
    assert found.names == [f"clip/ü{i}" for i in range(7)]
    assert found.ids.tolist() == list(range(7))
    assert (found.counts is None) == (pool == "mean")
    if pool == "none":
        assert found.counts.tolist() == [len(t) for t in tokens]
    beside = {"a.npy.names.jsonl"} if ending == ".npy" else set()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, *beside}


@pytest.mark.parametrize("modality", EVERY)
@pytest.mark.parametrize("network", ["student", "teacher", "initial"])
def test_layers_of_each_network(run_of, make_data, tmp_path, modality, network):
    run, data = run_of(modality), make_data(modality)
    every = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "a.npy", network=network, layers="all")).features
    last = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "b.npy", network=network)).features
    some = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "c.npy", network=network, layers=[2, 0])).features
    named = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "e.npy", network=network, layers="1")).features
    np.testing.assert_array_equal(every[:, 1], named)
    assert every.shape[1:] == (3, 32)
    np.testing.assert_array_equal(every[:, 2], last)
    np.testing.assert_array_equal(every[:, [2, 0]], some)
    assert np.abs(every[:, 0] - every[:, 1]).max() > 1e-5
    assert np.abs(every[:, 1] - every[:, 2]).max() > 1e-5
    if network != "student":
        other = read_embedded(d2v_fast.embed(run, data, out=tmp_path / "d.npy")).features
        assert np.abs(other - last).max() > 1e-6


@pytest.mark.parametrize("modality", EVERY)
def test_a_sample_does_not_depend_on_its_batch(run_of, make_data, tmp_path, modality):
    """Batches of one and of many, alone and among others: no padding, so the released convolutions leak nothing."""
    run, data = run_of(modality), make_data(modality)
    if modality == "speech":
        data = ArraySource("speech", clips(20))
    found = [
        read_embedded(embed(run, data, out=tmp_path / f"{size}.npy", layers="all", pool="none", batch_size=size))
        for size in (1, 4, 64)
    ]
    assert len(found[0]) >= 16
    scale = np.abs(found[0].features).max()
    for other in found[1:]:
        assert other.counts.tolist() == found[0].counts.tolist()
        np.testing.assert_allclose(other.features, found[0].features, rtol=0, atol=2e-6 * scale)


def test_padding_would_change_a_clip(run_of):
    """The control of the test above: a batch filled up with zeros gives other features with these convolutions."""
    encoder = d2v_fast.load(run_of("speech"))
    one = encoder.prepare(clips(1)[0])
    padded = torch.nn.functional.pad(one, (0, 4000))
    alone = encoder(one[None])[0]
    beside = encoder(padded[None], torch.tensor([len(one)]))[0, : len(alone)]
    assert (alone - beside).abs().max() > 1e-5


def test_a_folder_of_pictures_with_broken_ones(run_of, tmp_path, capsys):
    folder = tmp_path / "pictures"
    (folder / "a").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(RNG.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)).save(folder / "a" / f"{i}.png")
    (folder / "a" / "3.png").write_bytes(b"no picture")
    whole = (folder / "a" / "4.png").read_bytes()
    (folder / "a" / "4.png").write_bytes(whole[: len(whole) // 2])  # the header is good
    out = d2v_fast.embed(run_of("vision"), folder, out=tmp_path / "out" / "f.safetensors")
    found = read_embedded(out)
    assert found.names == ["a/0.png", "a/1.png", "a/2.png", "a/5.png"]
    assert found.ids.tolist() == [0, 1, 2, 5]
    lines = [json.loads(line) for line in (tmp_path / "out" / "f.safetensors.broken.jsonl").read_text().splitlines()]
    assert [line["path"].rsplit("/", 1)[1] for line in lines] == ["3.png", "4.png"]
    assert all(line["reason"] for line in lines)
    told = capsys.readouterr().err
    assert "3.png: " in told
    assert "2 of 6 samples left out" in told


def test_nothing_but_broken_samples(run_of, tmp_path):
    with pytest.raises(DataError, match=r"none of the 2 samples can be read; .*gone1\.png: .*no file"):
        embed(run_of("vision"), [tmp_path / "gone1.png", tmp_path / "gone2.png"], out=tmp_path / "a.npy")
    assert not (tmp_path / "a.npy").exists()


def test_lists_of_paths_texts_and_arrays(run_of, tmp_path):
    for i, clip in enumerate(clips(3)):
        soundfile.write(tmp_path / f"{i}.wav", clip / 8, 16000)
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    found = read_embedded(embed(run_of("speech"), paths, out=tmp_path / "a.npy"))
    assert found.names == [str(path) for path in paths]
    np.testing.assert_allclose(found.features, d2v_fast.load(run_of("speech")).features(paths), atol=1e-5)
    texts = ["the teacher", "sees all of it", "the student"]
    found = read_embedded(embed(run_of("text"), texts, out=tmp_path / "b.npy"))
    assert found.names == ["text 0", "text 1", "text 2"]
    np.testing.assert_allclose(found.features, d2v_fast.load(run_of("text")).features(texts), atol=1e-5)
    pictures = [RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(2)]
    assert len(read_embedded(embed(run_of("vision"), pictures, out=tmp_path / "c.npy"))) == 2


def test_documents_of_a_corpus_are_by_themselves(run_of, tmp_path):
    texts = ["the teacher", "sees all of it", "the student"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = read_embedded(embed(run_of("text"), tmp_path / "c.jsonl", out=tmp_path / "a.npy"))
    np.testing.assert_allclose(found.features, d2v_fast.load(run_of("text")).features(texts), atol=1e-5)


def test_another_tokenizer_is_never_trained(make_config, train, tmp_path):
    run = train(make_config("text", steps=1), tmp_path / "run")
    (run / "tokenizer.json").unlink()
    (tmp_path / "c.txt").write_text("the teacher sees all of it " * 50)
    with pytest.raises(DataError, match=r"there is no file .*tokenizer\.json: copy the tokenizer"):
        embed(run, tmp_path / "c.txt", out=tmp_path / "a.npy")


def test_it_continues_where_it_was_interrupted(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4)
    data = ArraySource("speech", clips(18))
    whole = read_embedded(embed(run_of("speech"), data, out=tmp_path / "whole.npy"))
    read, original, limit = [], ArraySource.read, [9]

    def counted(self, index):
        if len(read) >= limit[0]:
            raise KeyboardInterrupt
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(ArraySource, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        embed(run_of("speech"), data, out=tmp_path / "a.npy")
    assert not (tmp_path / "a.npy").exists()
    limit[0], before = 10_000, len(read)
    with pytest.raises(DataError, match=r"beginning of something else \(network was 'student', is 'teacher'\)"):
        embed(run_of("speech"), data, out=tmp_path / "a.npy", network="teacher")
    found = read_embedded(embed(run_of("speech"), data, out=tmp_path / "a.npy"))
    assert sorted(set(read[before:])) == list(range(8, 18))  # two parts of four were done
    np.testing.assert_array_equal(found.features, whole.features)
    assert found.names == whole.names
    assert not (tmp_path / "a.npy.parts").exists()


def test_memory_holds_a_few_samples(run_of, tmp_path):
    """Samples are made when they are read; how many of them live at once is counted."""
    import weakref

    class Watched(ArraySource):
        alive = most = 0

        def read(self, index):
            clip = np.array(super().read(index))
            Watched.alive += 1
            Watched.most = max(Watched.most, Watched.alive)
            weakref.finalize(clip, self.gone)
            return clip

        def gone(self):
            Watched.alive -= 1

    embed(run_of("speech"), Watched("speech", clips(200)), out=tmp_path / "a.npy", batch_size=4)
    assert 0 < Watched.most <= 24


def test_what_cannot_be_asked_for(run_of, tmp_path):
    run, data = run_of("vision"), [RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)]
    (tmp_path / "there.npy").write_text("mine")
    for options, error, words in [
        ({"out": tmp_path / "a.txt"}, ConfigError, r"ends in one of \.safetensors, \.npy, \.parquet"),
        ({"out": tmp_path / "there.npy"}, DataError, "is there already: delete it, or give another name"),
        ({"layers": "5"}, ConfigError, r"this encoder has layers 0 to 2"),
        ({"layers": "first"}, ConfigError, 'give "last", "all", or numbers from 0 to 2'),
        ({"layers": [1, 1]}, ConfigError, "each can be asked for once"),
        ({"pool": "max"}, ConfigError, 'pool is "mean" or "none"'),
        ({"batch_size": 0}, ConfigError, "batch_size at least 1"),
    ]:
        with pytest.raises(error, match=words):
            embed(run, data, **{"out": tmp_path / "a.npy", **options})
    with pytest.raises(DataError, match="data is empty"):
        embed(run, [], out=tmp_path / "a.npy")
    assert (tmp_path / "there.npy").read_text() == "mine"
    with pytest.raises(DataError, match=r"is no file of features"):
        read_embedded(tmp_path / "gone.npy")
