"""Odd and broken files in training: named once, left out, counted; the rest is the same on both engines."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from loading import make_loader

from d2v_fast.data import LoaderConfig, open_source
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')

from d2v_fast.data.engines import dali_graph

PICTURES = VisionInputs(jitter=0, mean=(0.0,) * 3, std=(1.0,) * 3)
CLIPS = SpeechInputs(min_seconds=0.1, max_seconds=1.0)
EPOCHS = 6


@pytest.fixture
def built(monkeypatch):
    """Every pipeline that is built."""
    graphs = []

    def build(*arguments):
        graphs.append(graph(*arguments))
        return graphs[-1]

    graph = dali_graph.Graph
    monkeypatch.setattr(dali_graph, "Graph", build)
    return graphs


@pytest.fixture
def trained(picture_masks, clip_masks, capsys):
    """trained(engine, root, inputs) -> (batches of several epochs, what was told of each file, the loader)."""

    def run(engine, root, inputs):
        speech = isinstance(inputs, SpeechInputs)
        source = open_source(root, "speech" if speech else "vision", inputs)
        capsys.readouterr()
        with make_loader(
            source,
            inputs=inputs,
            config=LoaderConfig(engine=engine, batch_size=6, max_skipped=1.0, pad=speech),
            seed=2,
            masks=clip_masks if speech else picture_masks,
            image_size=None if speech else 16,
        ) as loader:
            batches = [loader.step(n)[0] for n in range(EPOCHS * loader.steps_per_epoch)]
        told = Counter(line for line in capsys.readouterr().err.splitlines() if line.startswith("d2v-fast: skipped"))
        return source, batches, told, loader

    return run


def named(told, root, name):
    """How often a file was named, and why."""
    start = f"d2v-fast: skipped {root / name}: "
    return [(count, line[len(start) :]) for line, count in told.items() if line.startswith(start)]


def check_told(told, zoo):
    """Every broken file once, with its path and the reason, and nothing else."""
    broken = zoo.bad | zoo.late
    for name, reason in broken.items():
        ((count, found),) = named(told, zoo.root, name)
        assert count == 1
        assert re.search(reason, found), (name, found)
    assert len(told) == len(broken)


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_a_folder_full_of_odd_and_broken_files(kind, picture_zoo, clip_zoo, trained, built):
    zoo, inputs = (picture_zoo(), PICTURES) if kind == "pictures" else (clip_zoo(), CLIPS)
    runs = {engine: trained(engine, zoo.root, inputs) for engine in ("native", "dali")}
    source = runs["native"][0]
    for engine, (_, batches, told, loader) in runs.items():
        met = Counter(source.name(i) for batch in batches for i in batch.sample_ids.tolist())
        assert not set(met) & set(zoo.bad | zoo.late), engine
        # three epochs, each of which leaves out less than a batch, meet every file that can be read
        short = {name for name, samples in zoo.good.items() if kind == "clips" and samples < 1600}
        assert set(met) == set(zoo.good) - short
        assert max(met.values()) == EPOCHS
        check_told(told, zoo)
        assert loader.skipped == sum(batch.skipped for batch in batches) > len(told)
        assert all(len(batch.sample_ids) + batch.skipped == 6 for batch in batches)
    assert runs["native"][2] == runs["dali"][2]  # word for word
    for native, dali in zip(runs["native"][1], runs["dali"][1], strict=True):
        assert torch.equal(native.sample_ids, dali.sample_ids)
        assert torch.equal(native.rows, dali.rows)
        assert (native.inputs - dali.inputs).abs().max() <= (2.01 / 255 if kind == "pictures" else 2e-6)
    assert 1 <= len(built) <= 4  # a file kills one pipeline at most, and few do


def test_shards(tar_zoo, trained):
    zoo = tar_zoo()
    runs = [trained(engine, zoo.root, PICTURES) for engine in ("native", "dali")]
    for source, batches, told, _ in runs:
        met = {source.name(i) for batch in batches for i in batch.sample_ids.tolist()}
        assert met == set(zoo.good)
        check_told(told, zoo)
    assert runs[0][2] == runs[1][2]
    for native, dali in zip(runs[0][1], runs[1][1], strict=True):
        assert torch.equal(native.sample_ids, dali.sample_ids)
        assert (native.inputs - dali.inputs).abs().max() <= 2.01 / 255


@pytest.mark.parametrize("engine", ["native", "dali"])
def test_files_that_break_while_training(engine, picture_zoo, picture_masks, capsys):
    """After the index was made: gone, emptied, cut, replaced by a picture of another size."""
    zoo = picture_zoo(extra_good=40)
    source = open_source(zoo.root, "vision", PICTURES)
    more = [zoo.root / f"more/{i:03}.jpg" for i in range(5)]
    whole = more[0].read_bytes()
    more[0].unlink()
    more[1].write_bytes(b"")
    more[2].write_bytes(whole[: len(whole) // 2])
    more[3].write_bytes((zoo.root / "alpha.png").read_bytes()[:500])
    more[4].write_bytes((zoo.root / "one pixel.png").read_bytes())
    config = LoaderConfig(engine=engine, batch_size=5, max_skipped=1.0)
    with make_loader(source, inputs=PICTURES, config=config, seed=0, masks=picture_masks, image_size=16) as loader:
        batches = [loader.step(n)[0] for n in range(2 * loader.steps_per_epoch)]
    error = capsys.readouterr().err
    for path in more:
        assert error.count(f"skipped {path}: ") == 1
    met = {source.name(i) for batch in batches for i in batch.sample_ids.tolist()}
    assert not met & {f"more/{i:03}.jpg" for i in range(5)}
    assert {f"more/{i:03}.jpg" for i in range(5, 40)} <= met


@pytest.mark.parametrize("first_step", [0, 2])
def test_a_pipeline_that_dies_is_replaced_at_the_same_step(picture_zoo, picture_masks, built, first_step):
    """The batches are those of a run in which the file was never broken, but for the one sample."""
    zoo = picture_zoo(extra_good=40)
    source = open_source(zoo.root, "vision", PICTURES)
    config = LoaderConfig(engine="dali", batch_size=10, max_skipped=1.0)

    def steps(first, count):
        arguments = {"inputs": PICTURES, "config": config, "seed": 0, "masks": picture_masks, "image_size": 16}
        with make_loader(source, **arguments, first_step=first) as loader:
            return [loader.step(n)[0] for n in range(first, count)]

    before = steps(0, 6)
    victim = next(i for i in before[2].sample_ids.tolist() if source.name(i).startswith("more/"))
    path = zoo.root / source.name(victim)
    data = path.read_bytes()
    at = data.index(b"\xff\xda")  # the scan refers to tables of colours that are not there
    path.write_bytes(data[: at + 6] + bytes([9, 9, 9, 9]) + data[at + 10 :])
    built.clear()
    after = steps(first_step, 6)
    assert len(built) == 2
    for old, new in zip(before[first_step:], after, strict=True):
        keep = old.sample_ids != victim
        assert new.skipped - old.skipped == int((~keep).sum())
        assert torch.equal(old.sample_ids[keep], new.sample_ids)
        assert (old.inputs[keep] - new.inputs).abs().max() <= 2.01 / 255
        assert torch.equal(old.mask[keep], new.mask)
    assert sum(np.isin(victim, batch.sample_ids.numpy()) for batch in before[first_step:]) >= 1
