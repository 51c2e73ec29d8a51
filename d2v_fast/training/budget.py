"""`--for-budget`: measures a few steps on the user's own data and machine, and fits a preset to a time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import with_overrides
from d2v_fast.data import DataSource, Openable
from d2v_fast.modalities import modality_of, open_data, open_loader
from d2v_fast.presets.budget import Decision, decide
from d2v_fast.presets.scaling import is_given
from d2v_fast.run.metrics import Clock
from d2v_fast.training.distributed.feed import fetch
from d2v_fast.training.heap import keep_freed_memory
from d2v_fast.training.precision import own_modes, products, tensor_float32
from d2v_fast.training.trainer import Data2VecTrainer

WARMING, LEAST, SECONDS = 2, 4, 2.0
"""Steps that are not counted, steps that are at least, and the time after which no further one is begun."""


def fit_to_budget(preset: str, given: Mapping[str, Any], data: Openable, budget: float) -> Decision:
    """The preset with what was given, fitted to so many seconds.

    Args:
        preset: Its name. The network of a small preset may become smaller or larger, that of others stays.
        given: Dotted names of fields to values, which stay.
        data: What is trained on.
        budget: Seconds of the whole run.

    Raises:
        ConfigError: The time is too short, or a field has a value that cannot be used.
        DataError: The data cannot be used.
    """
    recipe = presets.preset(preset)
    asked = with_overrides(recipe, given)
    source = open_data(data, asked, None)
    suited, reasons = modality_of(asked).suited(source, asked)
    suited = {name: value for name, value in suited.items() if not is_given(name, given)}
    told = [reason for name, reason in reasons.items() if name in suited]
    if suited:
        source = open_data(data, with_overrides(asked, suited), None)
    made = decide(
        recipe,
        {**suited, **given},
        budget=budget,
        samples=len(source),
        measure=lambda config: seconds_per_step(config, source),
        ladder=preset.endswith("-small"),
    )
    return Decision(made.given, made.config, (*told, *made.reasons))


def seconds_per_step(config: Config, source: DataSource) -> tuple[float, float]:
    """The median time of a step, with its loading, and the samples that it sees, from the first steps of a run.

    Nothing is kept of them, and torch's random state is as before. Several processes share the steps, and for each that
    of the slowest counts, so all of them find the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Data2VecTrainer(config, data=source, out=folder)
        device, loop = trainer.device, trainer.loop
        if device.type == "cpu":
            keep_freed_memory()
        took: list[float] = []
        seen = 0
        with (
            own_modes(device),
            open_loader(config, source, device=device, deal=loop.deal) as loader,
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            tensor_float32(config.precision, device),
            products(config.numerics),
        ):
            step = 0
            while step < WARMING + LEAST or sum(took) < SECONDS:
                began = time.perf_counter()
                batches, counts = fetch(loop.world, loop.task, loader, step, linked=loop.kept.linked)
                loop.step(step, batches, Clock(), counts)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                slowest = max(loop.world.gather(time.perf_counter() - began, "while the budget was measured"))
                if step >= WARMING:
                    took.append(slowest)
                    seen += counts.samples
                step += 1
    return median(took), seen / len(took)
