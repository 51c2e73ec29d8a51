"""What a fine-tuning would be, without writing anything: classes, labels, time, memory and disk."""

from __future__ import annotations

import time
from datetime import timedelta

import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data import Loader
from d2v_fast.data.store import human_bytes
from d2v_fast.errors import DataError
from d2v_fast.finetuning.finetune import Finetuning
from d2v_fast.training.distributed.feed import count
from d2v_fast.training.precision import autocast, own_modes

_TRIES = 3
"""Micro-batches that are timed, after one that is not."""

_SHOWN = 20
"""Classes that are listed."""


def dry_run(tuning: Finetuning) -> list[tuple[str, str]]:
    """(what, value) lines about the run that this would be; nothing is written.

    Memory and time are measured: micro-batches of the first step go through the network, forward and backward, and the
    parameters stay as they are.

    Raises:
        DataError: No sample of the first step can be read.
    """
    config, sets, network = tuning.config, tuning.sets, tuning.task.network
    parts = [("train", sets.train), ("validate", sets.validation)]
    counts = [(what, f"{len(part):,} samples{_classes(part.counts())}") for what, part in parts if part is not None]
    left_out = [("left out", f"{count:,} labels: {reason}") for reason, count in sets.left_out.items()]
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    every = sum(p.numel() for p in network.parameters())
    devices = [tuning.device] if tuning.device.type == "cuda" else []
    with tuning.open_loader(sets, 0) as loader, own_modes(tuning.device), torch.random.fork_rng(devices=devices):
        per_epoch, short = loader.steps_per_epoch, loader.left_out
        kept, seconds = _measured(tuning, [batch for batch in loader.step(0) if len(batch.sample_ids)])
        checking = _validation_seconds(tuning, loader)
    checks = -(-config.steps // config.log.validate_every) if sets.validation is not None else 0
    whole = config.steps * config.loader.accumulation * seconds + checks * checking
    checkpoints = config.checkpoint.keep + (sets.validation is not None)
    weights, rest = 4 * every, 12 * trained
    return [
        *counts,
        *left_out,
        ("too short", f"{short:,} samples"),
        ("parameters", f"{trained:,} of {every:,} are trained"),
        ("steps", f"{config.steps:,} ({per_epoch:,} per epoch, {config.steps / per_epoch:.1f} epochs)"),
        ("micro-batches", f"{config.loader.accumulation} per step, {seconds:.3g} s each"),
        ("time", f"about {timedelta(seconds=round(whole))} on {tuning.device}, {checks} validations included"),
        (
            "memory",
            f"about {human_bytes(weights + rest + kept)} on {tuning.device.type}: weights {human_bytes(weights)}, "
            f"gradient and moments {human_bytes(rest)}, activations {human_bytes(kept)}",
        ),
        ("checkpoints", f"up to {human_bytes(checkpoints * (4 * every + 8 * trained))} on the disk"),
    ]


def _classes(counts: dict[str, int]) -> str:
    """How many samples each class has, of many classes the first ones."""
    shown = "".join(f"; {name} {count:,}" for name, count in list(counts.items())[:_SHOWN])
    more = len(counts) - _SHOWN
    return f" of {len(counts)} classes{shown}{f'; and {more} more' if more > 0 else ''}" if counts else ""


def _measured(tuning: Finetuning, batches: list[Batch]) -> tuple[int, float]:
    """Bytes that the forward pass of the largest of some micro-batches keeps, and the seconds of one."""
    if not batches:
        raise DataError("no sample of the first step can be read")
    loop, step = tuning.loop, tuning.config.encoder.freeze_steps  # before it the encoder has no gradients
    largest = max(batches, key=lambda batch: batch.inputs.numel())
    known = {p.untyped_storage().data_ptr() for p in tuning.task.network.parameters()}
    kept: dict[int, Tensor] = {}  # held until the end, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, autocast(tuning.config.precision, tuning.device):
        tuning.task.losses(largest.to(tuning.device), step, 0)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    kept.clear()
    times = []
    for i in range(1 + _TRIES):
        began = time.perf_counter()
        batch = batches[i % len(batches)]
        loop.forward_backward(step, [batch], count(loop.task, [batch]))
        if tuning.device.type == "cuda":
            torch.cuda.synchronize(tuning.device)
        times.append(time.perf_counter() - began)
        loop.update.clear()
    return size, sum(times[1:]) / _TRIES


def _validation_seconds(tuning: Finetuning, loader: Loader) -> float:
    """Seconds of a validation, from its first batch; 0 if there is none."""
    held = tuning.sets.validation
    first = None if held is None else next(iter(loader.validation()), None)
    if held is None or first is None:
        return 0.0
    began = time.perf_counter()
    tuning.task.validate(iter([first.to(tuning.device)]))
    return (time.perf_counter() - began) * len(held) / len(first.sample_ids)
