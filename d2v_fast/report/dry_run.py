"""What a run would be, without writing anything: parameters, memory, epochs and the first batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, Openable
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.models import Data2Vec
from d2v_fast.training.precision import autocast


def dry_run(config: Config, data: Openable) -> list[tuple[str, str]]:
    """(what, value) lines about the run that `config` would make of `data`; nothing is written.

    The memory of the activations is counted, not guessed: one sample of the first batch goes through the model, and the
    bytes that its backward pass would need are summed and multiplied by the batch size.

    Raises:
        ConfigError: A field has a value that cannot be used.
        DataError: The data cannot be used.
    """
    source = open_data(data, config, None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # One step ahead is enough to look at.
    ahead = replace(config, loader=replace(config.loader, prefetch=1))
    with open_loader(ahead, source, device=device) as loader:
        steps_per_epoch = loader.steps_per_epoch
        batches = [batch for batch in loader.step(0) if len(batch.sample_ids)]
    if not batches:
        raise DataError("no sample of the first step can be read")
    with torch.random.fork_rng(devices=[]):
        model = Data2Vec(config.model)
        model.to(device).train()
        for encoder in (model.student.encoder, model.teacher):
            encoder.checkpoint_activations = config.precision.checkpoint_activations
        activations = _saved_bytes(model, _one(batches[0]).to(device), config) * len(batches[0].inputs)
    student = sum(p.numel() for p in model.student.parameters())
    shared = {id(p) for p in model.student.parameters()}
    own = sum(p.numel() for p in model.teacher.parameters() if id(p) not in shared)
    reused = sum(p.numel() for p in model.teacher.parameters() if id(p) in shared)
    weights = 4 * (student + own)
    optimizer = 4 * 3 * student  # gradient and two moments
    batch_bytes = sum(value.nbytes for value in vars(batches[0]).values() if isinstance(value, Tensor))
    total = weights + optimizer + activations + batch_bytes
    epochs = config.steps / steps_per_epoch
    lines = [
        ("parameters", f"student {student:,}; teacher {own:,} of its own and {reused:,} shared with the student"),
        (
            "memory",
            f"about {_size(total)}: weights {_size(weights)}, gradient and moments {_size(optimizer)}, "
            f"activations {_size(activations)}, batch {_size(batch_bytes)}",
        ),
        ("samples", f"{len(source):,}"),
        ("steps", f"{config.steps:,} ({steps_per_epoch:,} per epoch, {epochs:.1f} epochs)"),
        ("micro-batches", f"{config.loader.accumulation} per step"),
    ]
    for name, value in vars(batches[0]).items():
        if isinstance(value, Tensor):
            lines.append((f"first batch: {name}", f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"))
    masked = batches[0].rows.numel() / max(1, batches[0].mask.numel())
    return [*lines, ("first batch: masked", f"{masked:.1%} of the positions")]


def _one(batch: Batch) -> Batch:
    """The first sample of a batch, with its views."""
    mask = batch.mask[: batch.views]
    return replace(
        batch,
        inputs=batch.inputs[:1],
        lengths=None if batch.lengths is None else batch.lengths[:1],
        masked_inputs=None if batch.masked_inputs is None else batch.masked_inputs[: batch.views],
        mask=mask,
        rows=batch.rows[batch.rows < mask.numel()],
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
        model(batch, skipped=every, teacher_autocast=not config.precision.teacher_float32)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
