"""Fine-tuned networks of other libraries: to predict with, and as the start of another fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2v_fast import registry
from d2v_fast.data.config import LoaderConfig
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.finetuning.config import FinetuneConfig, OutputConfig, TaskConfig
from d2v_fast.finetuning.ctc_config import CtcConfig
from d2v_fast.finetuning.tasks import SupervisedTask
from d2v_fast.finetuning.vocabulary import Case, Vocabulary
from d2v_fast.interop import foreign
from d2v_fast.interop.described import LABELS, described, outputs_of
from d2v_fast.interop.outputs import Outputs
from d2v_fast.log import tell
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import encoder_weights, put

_VOCABULARIES = ("vocab.json", "dict.ltr.txt")


class Opened(NamedTuple):
    """A fine-tuned network that is not built yet."""

    config: FinetuneConfig
    """What it is."""

    path: Path
    """The folder of the run or of the model."""

    step: int
    """Optimizer steps of its checkpoint; 0 if nobody knows."""

    fill: Callable[[SupervisedTask], None]
    """Puts its weights into a task."""


def opened(run: str | Path) -> Opened:
    """A run with its best checkpoint, or a fine-tuned model of another library.

    Raises:
        RunError: There is none, or it is no fine-tuning, or cannot be read.
    """
    if (path := foreign.place(run)) is not None:
        config, tensors, where = finetuned_of(path)
        return Opened(config, where, 0, lambda task: put(task.network, tensors, f"the weights in {path}"))
    found = Run(run)
    if not isinstance(found.config, FinetuneConfig):
        raise RunError(f"{found.path} is no fine-tuning: d2v_fast.load takes the encoder of a pretraining run")
    checkpoint = found.best()
    return Opened(found.config, found.path, checkpoint.step, lambda task: task.load(checkpoint))


def finetuned_of(path: Path) -> tuple[FinetuneConfig, dict[str, Tensor], Path]:
    """A fine-tuned network of another library: its configuration, its tensors by our names, and where it lies.

    Args:
        path: What `interop.foreign.place` has found.

    Raises:
        RunError: It is not fine-tuned, or cannot be used; the message says why.
    """
    outputs = outputs_of(path)
    if outputs is None:
        raise RunError(f"{path} is not fine-tuned: it holds an encoder, which d2v_fast.load takes")
    model, inputs, where = described(path)
    labels = outputs.labels
    if not labels and outputs.task == "ctc" and (file := vocabulary(where)) is not None:
        labels = _read(file).symbols
    if len(labels) != len(outputs.state["output.weight"]):
        count = len(outputs.state["output.weight"])
        files = " or ".join(_VOCABULARIES) if outputs.task == "ctc" else f"{LABELS} (a name a line)"
        called = f"{len(labels)} names are given" if labels else "does not say what they are called"
        raise RunError(f"{path} has {count} outputs, and {called}; {files} beside it would")
    modality: Any = registry.get(model.modality)
    try:
        config = FinetuneConfig(
            task=TaskConfig(name=outputs.task, classes=() if outputs.task == "regress" else labels),
            model=model,
            inputs=modality.for_features(inputs, where),
            head=OutputConfig(**settings(outputs)),
            ctc=CtcConfig(case=_case(labels)),
            loader=LoaderConfig(batch_size=32, holdout=0.1, pad=modality.pads),
        )
    except ConfigError as error:
        raise RunError(f"{path} cannot be used: {error}") from error
    encoder = {f"encoder.{name}": value for name, value in encoder_weights(path, model).items()}
    return config, encoder | {f"head.{name}": value for name, value in outputs.state.items()}, where


def settings(outputs: Outputs) -> dict[str, Any]:
    """The fields of `OutputConfig`."""
    return {
        "pooling": outputs.pooling,
        "layers": outputs.layers,
        "norm": outputs.norm,
        "hidden": outputs.hidden,
        "dropout": outputs.dropout,
    }


def defaults(path: Path, task: str) -> dict[str, Any]:
    """Fields, by dotted name, with which a fine-tuning for the same task can begin with the outputs that are there."""
    outputs = _outputs(path)
    if outputs is None or outputs.task != task:
        return {}
    fields: Mapping[str, Any] = settings(outputs)
    found = {f"head.{name}": value for name, value in fields.items()}
    folder = path if path.is_dir() else path.parent
    if task == "ctc" and (file := vocabulary(folder)) is not None:
        found |= {"ctc.vocabulary": str(file.resolve()), "ctc.case": _case(_read(file).symbols)}
    return found


def take_head(head: nn.Module, task: TaskConfig, path: Path) -> None:
    """Put the outputs that are there into a new head, if they are for the same labels; says what it did.

    Args:
        head: What is on the encoder.
        task: What is learned.
        path: What `interop.foreign.place` has found.
    """
    outputs = _outputs(path)
    if outputs is None:
        return
    labels = outputs.labels or (task.classes if outputs.task == "ctc" else ())
    if outputs.task != task.name or (task.name != "regress" and set(labels) != set(task.classes)):
        tell(f"the outputs of {path} are for other labels ({outputs.task}): the head begins with random weights")
        return
    state = dict(outputs.state)
    if task.name == "regress":  # here the network gives standardised values
        state["output.weight"] = state["output.weight"] / task.std
        state["output.bias"] = (state["output.bias"] - task.mean) / task.std
    elif len(labels) == len(state["output.weight"]):
        order = torch.tensor([labels.index(name) for name in task.classes])
        state = {name: value[order] if name.startswith("output.") else value for name, value in state.items()}
    own = head.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
        tell(f"the outputs of {path} are made in another way than head.* says: the head begins with random weights")
        return
    head.load_state_dict(state)
    tell(f"the head begins with the outputs of {path}")


def vocabulary(folder: Path) -> Path | None:
    """The file of a recogniser's symbols."""
    return next((folder / name for name in _VOCABULARIES if (folder / name).is_file()), None)


def _outputs(path: Path) -> Outputs | None:
    """None, and a word about it, where they are nothing that a head here computes."""
    try:
        return outputs_of(path)
    except RunError as error:
        tell(f"{error}: the head begins with random weights")
        return None


def _read(file: Path) -> Vocabulary:
    try:
        return Vocabulary.load(file)
    except DataError as error:
        raise RunError(str(error)) from error


def _case(symbols: tuple[str, ...]) -> Case:
    """What is to be done to transcripts that are written with these symbols."""
    letters = "".join(symbol for symbol in symbols if len(symbol) == 1)
    return "upper" if letters.isupper() else "lower" if letters.islower() else "keep"
