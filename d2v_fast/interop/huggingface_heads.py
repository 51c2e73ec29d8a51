"""Fine-tuned models of transformers: Data2VecAudioForCTC, ...ForSequenceClassification, ...ForImageClassification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2v_fast.interop.outputs import NORM_EPS, VALUE, Outputs
from d2v_fast.models.config import ModelConfig

_NEVER = -1e4
"""As a weight in a softmax it leaves nothing: transformers' weighted sum has the embedded input in it, ours has not."""


class Native(NamedTuple):
    """A head as one of transformers' own classes has it."""

    name: str
    """Of the class."""

    state: dict[str, Tensor]
    """Its tensors."""

    settings: dict[str, Any]
    """What its configuration has more than an encoder's."""


def from_ours(outputs: Outputs, config: ModelConfig) -> Native:
    """The class that computes these outputs from our encoder.

    Args:
        outputs: What is on the encoder.
        config: Of the encoder, one that transformers has room for.

    Raises:
        ValueError: There is none; the message says what it lacks.
    """
    own = outputs.state
    if config.modality == "speech" and outputs.task == "ctc":
        _require(outputs, "Data2VecAudioForCTC", layers="last", norm=False, hidden=False)
        settings = {"final_dropout": outputs.dropout, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
        state = renamed(own, {"output": "lm_head"})
        return Native("Data2VecAudioForCTC", state, settings | outputs.called())
    if config.modality == "speech":
        weighted = outputs.layers == "weighted"
        name = "Data2VecAudioForSequenceClassification"
        _require(outputs, name, layers="weighted" if weighted else "last", pooling="mean", norm=False, hidden=False)
        dim = own["output.weight"].shape[1]
        state = {"projector.weight": torch.eye(dim), "projector.bias": torch.zeros(dim)}
        state |= renamed(own, {"output": "classifier"})
        if weighted:
            state["layer_weights"] = torch.cat([torch.tensor([_NEVER]), own["layer_weights"]])
        return Native(name, state, {"classifier_proj_size": dim, "use_weighted_layer_sum": weighted} | outputs.called())
    if config.modality == "text":
        name = "Data2VecTextForSequenceClassification"
        _require(outputs, name, layers="last", pooling="first", norm=False, hidden=True)
        state = renamed(own, {"hidden": "classifier.dense", "output": "classifier.out_proj"})
        return Native(name, state, {"classifier_dropout": outputs.dropout} | outputs.called())
    name = "Data2VecVisionForImageClassification"
    _require(outputs, name, layers="block", pooling="mean", norm=True, hidden=False)
    if config.transformer.norm_eps != NORM_EPS:
        raise ValueError(f"{name} has one eps for all norms; here are {config.transformer.norm_eps} and {NORM_EPS}")
    state = renamed(own, {"norm": "data2vec_vision.pooler.layernorm", "output": "classifier"})
    return Native(name, state, {"use_mean_pooling": True} | outputs.called())


def to_ours(state: Mapping[str, Tensor], settings: Mapping[str, Any], symbols: tuple[str, ...]) -> Outputs | None:
    """The outputs of a fine-tuned model; None of a model without.

    Args:
        state: Its tensors.
        settings: Its config.json.
        symbols: Of its vocabulary, if it has one.

    Raises:
        ValueError: Nothing here computes them.
    """
    names = {name: int(number) for number, name in _numbered(settings.get("id2label")).items()}
    labels = tuple(sorted(names, key=names.__getitem__))
    problem = settings.get("problem_type")
    task = {"multi_label_classification": "tag", "regression": "regress"}.get(problem or "", "classify")
    if "lm_head.weight" in state and "data2vec_audio.masked_spec_embed" in state:
        head = renamed(state, {"lm_head": "output"})
        return Outputs("ctc", symbols, head, dropout=float(settings.get("final_dropout", 0.0)))
    if "projector.weight" in state:  # two maps with a mean between them are one
        first, second = state["projector.weight"], state["classifier.weight"]
        head = {
            "output.weight": (second.double() @ first.double()).float(),
            "output.bias": (second.double() @ state["projector.bias"].double() + state["classifier.bias"]).float(),
        }
        outputs = Outputs(_one(task, labels), labels, head)
        if "layer_weights" not in state:
            return outputs
        shares = state["layer_weights"].softmax(0)
        if shares[0] != 0:
            raise ValueError(
                f"its weighted sum has the embedded input in it, with a share of {float(shares[0]):.2g}; here are "
                "the outputs of the blocks alone"
            )
        return Outputs(outputs.task, labels, head | {"layer_weights": state["layer_weights"][1:]}, layers="weighted")
    if "classifier.out_proj.weight" in state:
        head = renamed(state, {"classifier.dense": "hidden", "classifier.out_proj": "output"})
        dropout = settings.get("classifier_dropout")
        dropout = settings.get("hidden_dropout_prob", 0.0) if dropout is None else dropout
        return Outputs(_one(task, labels), labels, head, pooling="first", dropout=float(dropout))
    if "classifier.weight" in state:
        norm = "data2vec_vision.pooler.layernorm"
        if f"{norm}.weight" not in state:
            raise ValueError("its classes are read from the class token, which is pooled by nothing here")
        head = renamed(state, {norm: "norm", "classifier": "output"})
        return Outputs(_one(task, labels), labels, head, layers="block")
    return None


def renamed(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of layers under other names."""
    return {f"{to}.{kind}": state[f"{name}.{kind}"] for name, to in layers.items() for kind in ("weight", "bias")}


def _one(task: str, labels: tuple[str, ...]) -> Any:
    """A single output without another word is a value, as transformers takes it."""
    return "regress" if task == "classify" and labels in ((VALUE,), ("LABEL_0",)) else task


def _numbered(found: Any) -> dict[str, str]:
    return {str(i): str(name) for i, name in found.items()} if isinstance(found, dict) else {}


def _require(outputs: Outputs, name: str, **wanted: Any) -> None:
    for part, value in wanted.items():
        if getattr(outputs, part) != value:
            raise ValueError(f"{name} has head.{part}={value} and no other; head.{part} is {getattr(outputs, part)}")
