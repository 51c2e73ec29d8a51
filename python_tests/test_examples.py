"""The examples run as their first lines say, on data made here."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import d2v_fast
from d2v_fast.models import build_encoder

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run_example(monkeypatch):
    """Call with an example's name and its arguments; gives the module after its main has run."""

    def run(name: str, *arguments: object) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their types up there
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        module.main()
        return module

    return run


def write_data(folder: Path, modality: str) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for i in range(48):
        if modality == "vision":
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        elif modality == "speech":
            tone = np.sin(np.arange(12000) * generator.uniform(0.01, 0.2)) + 0.1 * generator.standard_normal(12000)
            soundfile.write(folder / f"{i}.wav", 0.3 * tone, 16000)
        else:
            words = generator.choice(["one", "two", "three", "four", "five", "six"], 120)
            (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


def write_classes(folder: Path, count: int) -> Path:
    """Pictures of two kinds, dark and bright, in folders of their class."""
    generator = np.random.default_rng(count)
    for i in range(count):
        place = folder / ("dark", "bright")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((generator.random((8, 8)) * 80 + 120 * (i % 2)).astype(np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of pictures, of two steps."""
    folder = tmp_path_factory.mktemp("pretrained")
    data = write_data(folder / "photos", "vision")
    return d2v_fast.pretrain("vision-tiny", data=data, out=folder / "run", steps=2)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_pretrain_folder_level_1_trains_and_continues(run_example, tmp_path, capsys):
    data, run = write_data(tmp_path / "photos", "vision"), tmp_path / "run"
    run_example("pretrain_folder", data, run, "--steps", 2)
    assert [line["step"] for line in lines(run)] == [2]
    run_example("pretrain_folder", data, run, "--steps", 3)
    assert [line["step"] for line in lines(run)] == [2, 3]
    assert "features of 48 samples, 64 numbers each" in capsys.readouterr().out


@pytest.mark.parametrize(("modality", "batch", "width"), [("speech", 8, 128), ("text", 16, 96)])
def test_pretrain_folder_level_2(run_example, tmp_path, capsys, modality, batch, width):
    data, run = write_data(tmp_path / "data", modality), tmp_path / "run"
    run_example(
        "pretrain_folder", data, run, "--preset", f"{modality}-tiny", "--batch", batch, "--micro-batch", 4, "--steps", 2
    )
    config = json.loads((run / "config.json").read_text())
    loader = config.get("config", config)["loader"]
    assert loader["accumulation"] == batch // 4
    assert loader["batch_seconds"] == (4 if modality == "speech" else None)
    assert loader["holdout"] == 0.05
    (line,) = lines(run)
    assert line["validation_loss"] > 0
    assert f"{width} numbers each" in capsys.readouterr().out


def test_finetune(run_example, pretrained, tmp_path, capsys):
    data, test = write_classes(tmp_path / "labelled", 60), write_classes(tmp_path / "test", 20)
    new, out = write_data(tmp_path / "new", "vision"), tmp_path / "classes"
    run_example("finetune", pretrained, data, out, "--steps", 60, "--test", test, "--new", new)
    printed = capsys.readouterr().out
    (accuracy,) = re.findall(r"^accuracy: (\S+) \[\S+, \S+\] of 20 samples$", printed, re.MULTILINE)
    assert float(accuracy) > 0.9
    assert len(re.findall(r"^{'name': '\d+.png', 'label': '(?:dark|bright)', ", printed, re.MULTILINE)) == 48
    assert not d2v_fast.Run(out).config.encoder.from_scratch


def test_features(run_example, pretrained, tmp_path, capsys):
    data, out = write_classes(tmp_path / "labelled", 60), tmp_path / "features.npy"
    run_example("features", pretrained, data, out)
    printed = capsys.readouterr().out
    for pair in ("teacher", "student"), ("student", "initial"), ("teacher", "initial"):
        assert re.search(rf"^linear: {pair[0]} \S+ \(layer \d\), {pair[1]} ", printed, re.MULTILINE), pair
    assert np.load(out).shape == (60, 64)
    assert re.search(r"(?:student|teacher), 60 samples, 64 numbers each", printed)


def test_export(run_example, pretrained, tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed (extra export)")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    run_example("export", pretrained, tmp_path / "a.png", tmp_path / "exported")
    difference = float(capsys.readouterr().out.split("largest difference ")[1])
    assert 0 <= difference < 1e-4


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_use_public_names(example):
    """Modules and names without an underscore; 60 lines, but for a whole modality of one's own."""
    text = example.read_text()
    assert len(text.splitlines()) <= (150 if example.stem == "own_modality" else 60)
    tree = ast.parse(text)
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = [
        alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
    ]
    attributes = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    private = [name for name in [*modules, *names, *attributes] if "._" in name or name.startswith("_")]
    assert set(private) <= {"__future__", "__init__", "__doc__"}


def test_own_loop(run_example, tmp_path, capsys):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", generator.integers(0, 256, (40, 8, 8), dtype=np.uint8))
    out = tmp_path / "weights.pt"
    arguments = ("--images", tmp_path / "images.npy", "--steps", 6, "--out", out)
    module = run_example("own_loop", *arguments)
    assert capsys.readouterr().out.count("explained") == 2
    weights = torch.load(out, weights_only=True)
    for state in weights.values():
        build_encoder(module.MODEL).load_state_dict(state, strict=True)
    # Both averages have left the start, and are not the same.
    name = "blocks.0.ffn.up.weight"
    assert not torch.equal(weights["teacher"][name], weights["average"][name])


def test_own_loop_learns():
    """On pictures with something to learn: the loss comes well below that of the mean prediction, with which it starts.

    The target moves with the teacher, so the loss also rises again; where depends on the last bits, so on the threads.
    """
    spec = importlib.util.spec_from_file_location("example_own_loop", EXAMPLES / "own_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 8)
    phase, slope = torch.rand(64, 1, 1) * 6, torch.rand(64, 1, 1) * 4
    images = torch.sin(slope * x[:, None] + 3 * x + phase).unsqueeze(1)
    model, slow, losses = module.train(images, steps=200, batch_size=16)
    assert len(losses) == 200
    stretches = np.convolve(losses, np.full(20, 1 / 20), mode="valid")
    assert stretches.min() < 0.7 * np.mean(losses[:5])
    assert not model.teacher.training
    assert not slow.training


@pytest.fixture
def forget_points():
    """The registry without the example's modality, before and after."""
    from d2v_fast import registry

    registry._registered.pop("points", None)
    yield
    registry._registered.pop("points", None)


def test_own_modality(run_example, tmp_path, capsys, forget_points):
    """Points are pretrained by public names only, and a few steps make their features better than the random start."""
    run = tmp_path / "run"
    run_example("own_modality", run, "--steps", 60)
    start, trained = (
        float(line.split("name ")[1].split("%")[0])
        for line in capsys.readouterr().out.splitlines()
        if "nearest neighbours" in line
    )
    assert trained > start + 1
    assert lines(run)[-1]["step"] == 60
    inputs = json.loads((run / "config.json").read_text())["inputs"]
    assert inputs["kind"] == "PointInputs"


def test_own_modality_uses_public_names_only():
    """Modules without an underscore, names without one, at most 150 lines."""
    text = (EXAMPLES / "own_modality.py").read_text()
    assert len(text.splitlines()) <= 150
    imported = [line for line in text.splitlines() if line.startswith("from d2v_fast")]
    assert imported == [
        "from d2v_fast import Data2VecTrainer, modalities, presets, rng",
        "from d2v_fast.config import Config",
        "from d2v_fast.evaluation import extract, knn_accuracy",
    ]
    private = [word for word in text.replace("(", " ").replace(".", " ").split() if word.startswith("_")]
    assert set(private) <= {"__future__", "__init__", "__doc__,", "__name__"}
