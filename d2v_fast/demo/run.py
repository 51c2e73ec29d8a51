"""The demo from data to picture."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.demo.outcome import Outcome
from d2v_fast.demo.picture import draw
from d2v_fast.demo.report import print_table, write_json
from d2v_fast.demo.task import DemoError, Task, require
from d2v_fast.evaluation import extract, knn_correct, logistic_correct
from d2v_fast.presets.small import shortened
from d2v_fast.run.settings import Notes
from d2v_fast.run.weights import load
from d2v_fast.training.trainer import Data2VecTrainer

MODALITIES = ("vision", "speech", "text")

PROBES: dict[str, Callable[..., np.ndarray]] = {
    "knn": knn_correct,
    "logistic": logistic_correct,
}
"""The probes, with the settings that `evaluation.probe` fixes: nothing is chosen by looking at results."""


def run(modality: str, folder: Path, steps: int | None) -> Path:
    """See `d2v_fast.demo.main`."""
    if modality not in MODALITIES:
        raise DemoError(f"there is no demo {modality!r}; choose {', '.join(MODALITIES[:-1])} or {MODALITIES[-1]}")
    for module in ("matplotlib", "sklearn"):  # before anything takes time
        require(module)
    began = time.perf_counter()
    task: Task = import_module(f"d2v_fast.demo.{modality}").task()
    config = presets.NAMES[task.preset]()
    if task.steps is not None:
        config = shortened(config, task.steps)
    if steps is not None:
        config = replace(config, steps=steps)
    print(f"{task.about}.\nPretraining {task.preset}: {config.steps} steps, in {folder}", flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, task.threads or threads))
    try:
        outcome = judge(task, config, folder, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    write_json(outcome, folder / "demo.json")
    print_table(outcome)
    draw(outcome, folder / "demo.png")
    print(f"{folder / 'demo.png'}: loss, monitors, masks and features; {folder / 'demo.json'}: the numbers")
    return folder


def judge(task: Task, config: Config, folder: Path, data_seconds: float = 0.0) -> Outcome:
    """Pretrain and probe: student, teacher, the student as it was before the first step, and the raw features."""
    began = time.perf_counter()
    trainer = Data2VecTrainer(config, data=task.source, out=folder, device="cpu", notes=Notes(preset=task.preset))
    random = copy.deepcopy(trainer.model.student.encoder)
    trainer.fit()
    trained = time.perf_counter()

    networks = {"random": random, "student": load(folder, "student"), "teacher": load(folder, "teacher")}
    correct, features = {}, {}
    parts = {"raw": (task.train.raw, task.test.raw)}
    for name, encoder in networks.items():
        train, test = (
            extract(encoder, part.inputs, config.inputs, positions=part.positions) for part in (task.train, task.test)
        )
        parts[name] = (train, test)
        features[name] = test
    for name, (train, test) in parts.items():
        correct[name] = {
            probe: _judged(function, train, test, task, floor=name == "raw") for probe, function in PROBES.items()
        }
    seconds = {"data": data_seconds, "pretraining": trained - began, "probes": time.perf_counter() - trained}
    return Outcome(task, config, folder, correct, features, seconds)


def _judged(
    probe: Callable[..., np.ndarray], train: np.ndarray, test: np.ndarray, task: Task, *, floor: bool
) -> np.ndarray:
    """Which test samples a probe names; raw features, the floor, are given the better of both scalings.

    Standardising suits a network's features, and costs pixels, say, 1.5 points: that would be in our own favour.
    """
    judged = [
        probe(train, task.train.labels, test, task.test.labels, standardize=standardize)
        for standardize in ((True, False) if floor else (True,))
    ]
    return max(judged, key=lambda correct: float(correct.mean()))
