"""What a run would be, without writing anything: parameters, memory, epochs and the first batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.errors import DataError
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.models import Data2Vec
from d2v_fast.training.precision import autocast
from d2v_fast.training.schedules import ema_decay, too_short
from d2v_fast.training.trainer import Data2VecTrainer


def dry_run(trainer: Data2VecTrainer) -> list[tuple[str, str]]:
    """(what, value) lines about the run that a trainer would make; nothing is written, and the trainer stays unused.

    The memory of the activations is counted, not guessed: one sample of the first batch goes through the model, and the
    bytes that its backward pass would need are summed and multiplied by the batch size. Everything else is the run's
    own: its model, device, kernels and loader, and so its errors.

    Raises:
        ConfigError: A field has a value that cannot be used.
        DataError: The data cannot be used.
    """
    config, device, model = trainer.config, trainer.device, trainer.model
    source = open_data(trainer.data, config, None)
    with open_loader(config, source, device=device) as loader:
        steps_per_epoch = loader.steps_per_epoch
        batches = [batch for batch in loader.step(0) if len(batch.sample_ids)]
    if not batches:
        raise DataError("no sample of the first step can be read")
    first = batches[0]
    masked = 0 if first.mask is None or first.rows is None else first.rows.numel() / max(1, first.mask.numel())
    return [
        ("parameters", _parameters(model)),
        ("memory", _memory(trainer, first)),
        ("batches", _batches(config, first, device)),
        ("samples", f"{len(source):,}"),
        *_length(config, steps_per_epoch),
        ("micro-batches", f"{config.loader.accumulation} per step"),
        *(
            (f"first batch: {name}", f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}")
            for name, value in vars(first).items()
            if isinstance(value, Tensor)
        ),
        ("first batch: masked", f"{masked:.1%} of the positions"),
        *_views(first),
    ]


def _parameters(model: Data2Vec) -> str:
    student, own, shared = _counts(model)
    return f"student {student:,}; teacher {own:,} of its own and {shared:,} shared with the student"


def _counts(model: Data2Vec) -> tuple[int, int, int]:
    """Parameters of the student, of the teacher alone, and of both."""
    known = {id(p) for p in model.student.parameters()}
    student = sum(p.numel() for p in model.student.parameters())
    own = sum(p.numel() for p in model.teacher.parameters() if id(p) not in known)
    shared = sum(p.numel() for p in model.teacher.parameters() if id(p) in known)
    return student, own, shared


def _memory(trainer: Data2VecTrainer, first: Batch) -> str:
    """What the device holds; on a CPU the prepared batches come to it, see `_batches`."""
    model, device = trainer.model, trainer.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        activations = _saved_bytes(model, _one(first).to(device), trainer.config) * len(first.inputs)
    student, own, _ = _counts(model)
    weights, optimizer = 4 * (student + own), 4 * 3 * student  # gradient and two moments
    copied = 2 * _bytes(first) if device.type == "cuda" else 0  # the one worked on, and the next one on its way
    total = weights + optimizer + activations + copied
    copies = f", two batches {_size(copied)}" if copied else ""
    return (
        f"about {_size(total)} on {device.type}: weights {_size(weights)}, gradient and moments {_size(optimizer)}, "
        f"activations {_size(activations)}{copies}"
    )


def _batches(config: Config, first: Batch, device: torch.device) -> str:
    """What the loader holds: the micro-batches of the step that is worked on, and of those that are prepared."""
    held = config.loader.accumulation * (config.loader.steps_ahead() + 1)
    kind = " of page-locked memory" if device.type == "cuda" else ""
    return f"about {_size(held * _bytes(first))}{kind}: {held:,} micro-batches of {_size(_bytes(first))} at once"


def _views(first: Batch) -> list[tuple[str, str]]:
    """How often each sample is masked, and how much of it is encoded."""
    lines = (
        [("first batch: views", f"{first.views} of each sample, for one pass of the teacher")]
        if first.views > 1
        else []
    )
    if first.kept is not None and first.mask is not None:
        share = first.kept.numel() / max(1, first.mask.numel())
        lines.append(("first batch: encoded", f"{share:.1%} of the positions of each view"))
    return lines


def _length(config: Config, steps_per_epoch: int) -> list[tuple[str, str]]:
    """How long the run is, and what it is too short for."""
    epochs = config.steps / steps_per_epoch
    lines = [("steps", f"{config.steps:,} ({steps_per_epoch:,} per epoch, {epochs:.1f} epochs)")]
    if config.steps == 0:
        return [*lines, ("remark", "nothing is trained: only the random start is written")]
    if epochs < 1:
        lines.append(
            ("remark", f"the run ends before it has seen every sample once; one epoch needs --steps {steps_per_epoch}")
        )
    ema = config.ema
    if ema.anneal_steps > config.steps and ema.start != ema.end:
        last = ema_decay(ema, config.steps - 1)
        lines.append(
            (
                "remark",
                f"the teacher's decay ends at {last:.6g}, not at ema.end {ema.end:.6g}: ema.anneal_steps is "
                f"{ema.anneal_steps:,}, more than the steps",
            )
        )
    remark = too_short(ema, config.steps)
    return lines if remark is None else [*lines, ("remark", remark)]


def _bytes(batch: Batch) -> int:
    return sum(value.nbytes for value in vars(batch).values() if isinstance(value, Tensor))


def _one(batch: Batch) -> Batch:
    """The first sample of a batch, with its views."""
    assert batch.mask is not None, "the loader of a run makes masks"
    assert batch.rows is not None, "the loader of a run makes masks"
    mask = batch.mask[: batch.views]
    return replace(
        batch,
        inputs=batch.inputs[:1],
        lengths=None if batch.lengths is None else batch.lengths[:1],
        masked_inputs=None if batch.masked_inputs is None else batch.masked_inputs[: batch.views],
        mask=mask,
        rows=batch.rows[batch.rows < mask.numel()],
        kept=None if batch.kept is None else batch.kept[batch.kept < mask.numel()],
        sample_ids=batch.sample_ids[:1],
    )


def _saved_bytes(model: Data2Vec, batch: Batch, config: Config) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters left out, each storage counted once."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # The tensors are held until the end, so that no address is used twice.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    every = (False,) * config.model.transformer.depth  # the most: a step without layer drop
    with hooks, autocast(config.precision, batch.inputs.device):
        model.forward(
            batch,
            skipped=every,  # never compiled for this
            teacher_autocast=not config.precision.teacher_float32,
        )
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
