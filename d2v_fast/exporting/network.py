"""The network of a run, as an export takes it."""

from __future__ import annotations

from typing import Literal

import torch

from d2v_fast.errors import RunError
from d2v_fast.files import exists
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.predict import Finetuned
from d2v_fast.interop.outputs import VALUE, Outputs
from d2v_fast.interop.trained import Trained
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import load


def trained_of(run: Run, network: Literal["student", "teacher"]) -> Trained:
    """The encoder of a run; of a fine-tuning, with its outputs.

    Raises:
        RunError: The run cannot be read, or has no such network.
    """
    tokenizer = run.path / "tokenizer.json"
    config, kept = run.config, tokenizer if exists(tokenizer) else None
    path = run.single or run.path
    if not isinstance(config, FinetuneConfig):
        encoder = load(path, network)
        return Trained(encoder=encoder, network=encoder, config=config.model, inputs=config.inputs, tokenizer=kept)
    if network == "teacher":
        raise RunError(f'{run.path} is a fine-tuning, which has no teacher: give network="student" (--network student)')
    tuned = Finetuned(path, device="cpu")
    whole = tuned.task.network
    wrong = [name for name, value in whole.state_dict().items() if not torch.isfinite(value).all()]
    if wrong:
        raise RunError(f"{run.path} cannot be exported: {wrong[0]} has values that are not finite")
    if config.task.name == "regress":  # values in the unit of the labels
        with torch.no_grad():
            whole.head.output.weight.mul_(config.task.std)
            whole.head.output.bias.mul_(config.task.std).add_(config.task.mean)
    head = config.head
    after = not config.model.transformer.norm_first  # a post-norm encoder's output is its last block's
    outputs = Outputs(
        config.task.name,
        (VALUE,) if config.task.name == "regress" else config.task.classes,
        whole.head.state_dict(),
        pooling=head.pooling,
        layers="last" if head.layers == "block" and after else head.layers,
        dropout=head.dropout,
    )
    return Trained(
        encoder=whole.encoder,
        network=whole,
        config=config.model,
        inputs=config.inputs,
        tokenizer=kept,
        outputs=outputs,
    )
