"""Which model foreign weights are of, how it makes inputs, and what a fine-tuning put on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from d2v_fast import registry
from d2v_fast.config_json import from_dict
from d2v_fast.data.config import InputsConfig
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.interop import fairseq2, foreign, huggingface_heads, huggingface_settings, remote, shapes
from d2v_fast.interop.outputs import VALUE, Outputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.models.config import ModelConfig

LABELS = "labels.txt"
"""Beside a file of fairseq's: the names of its outputs."""

_FACTS = "d2v_fast.json"
"""What an export says about itself; `exporting` writes it."""


class Described(NamedTuple):
    """What can be known about foreign weights beside their values."""

    model: ModelConfig
    """Of what network they are."""

    inputs: InputsConfig
    """How samples become inputs, as far as it is said; else the defaults."""

    folder: Path
    """Where a tokenizer would lie."""


def described(path: Path) -> Described:
    """The settings of a folder or a file that `foreign.place` has found.

    A file beside a config.json is of the model that this describes. Of any other, the shapes of its tensors tell.

    Raises:
        RunError: It is of another kind of model, or does not say enough.
    """
    folder = path if path.is_dir() else path.parent
    kind = foreign.kind_of(folder)
    if kind is None:
        model = _of_shapes(path)
        inputs: Any = registry.get(model.modality).inputs()
        normalize = shapes.find(foreign.read(path).about, "normalize")
        if isinstance(normalize, bool) and hasattr(inputs, "sample_rate"):
            inputs = replace(inputs, normalize=normalize)
        return Described(model, inputs, folder)
    if kind == remote.MODEL_TYPE:
        model = remote.model_of(folder, foreign.settings(folder))
        inputs = registry.get(model.modality).inputs()
    elif "model_type" in foreign.settings(folder):
        model, inputs = huggingface_settings.settings_of(folder)
    else:
        model, inputs = _of_shapes(path), _timm_inputs(folder)
    return Described(model, _kept_inputs(folder, model.modality) or inputs, folder)


def outputs_of(path: Path) -> Outputs | None:
    """What a fine-tuning put on an encoder; None if there is nothing.

    A file of fairseq does not say what the outputs are called: then `labels.txt` beside it does, a name a line in the
    order of the outputs (of a recogniser: see `finetuning.imported`). Without it `labels` is empty.

    Raises:
        RunError: The weights cannot be read, or there is something that nothing here computes.
    """
    folder = path if path.is_dir() else path.parent
    kind, state = foreign.kind_of(folder), foreign.read(path).student
    try:
        if kind == remote.MODEL_TYPE:
            return remote.outputs_of(state, foreign.settings(folder), _symbols(folder))
        if kind is not None and "model_type" in foreign.settings(folder):
            return huggingface_heads.to_ours(state, foreign.settings(folder), _symbols(folder))
        if "w2v_encoder.proj.weight" in state:
            return Outputs("ctc", (), huggingface_heads.renamed(state, {"w2v_encoder.proj": "output"}))
        outputs = _of_fairseq(state, foreign.read(path).about) or _of_beit(state, folder if kind is not None else None)
        return outputs if outputs is None or outputs.labels else replace(outputs, labels=_names(folder))
    except RunError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # also of tensors that do not fit
        raise RunError(f"the outputs of the model in {path} cannot be used: {error}") from error


def _of_shapes(path: Path) -> ModelConfig:
    content = foreign.read(path)
    try:
        return shapes.model_of(content.student, content.about)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # a ConfigError is one of the first
        raise RunError(f"{path} does not say what model it is of: {error}") from error


def _of_fairseq(state: dict[str, Any], about: dict[str, Any]) -> Outputs | None:
    """Fairseq's classes of pictures (data2vec 2.0) and of texts."""
    if fairseq2.is_second(state) and "head.weight" in state:
        mode = str(shapes.find(about, "prediction_mode") or "MEAN_POOLING")
        if not mode.upper().endswith("MEAN_POOLING"):
            raise ValueError(f"its classes are read in another way than from the mean of the patches: {mode}")
        head = huggingface_heads.renamed(state, {"head": "output"})
        norm = huggingface_heads.renamed(state, {"fc_norm": "norm"}) if "fc_norm.weight" in state else {}
        return Outputs("classify", (), head | norm)
    heads = sorted({name.split(".")[1] for name in state if name.startswith("classification_heads.")})
    if not heads:
        return None
    if len(heads) > 1:
        raise ValueError(f"it has several heads: {', '.join(heads)}")
    own = f"classification_heads.{heads[0]}"
    head = huggingface_heads.renamed(state, {f"{own}.dense": "hidden", f"{own}.out_proj": "output"})
    if len(head["output.bias"]) == 1:
        raise ValueError("it gives one number for each text, and does not say in which unit")
    activation = shapes.find(about, "pooler_activation_fn") or "tanh"
    if activation != "tanh":
        raise ValueError(f"its head computes {activation}, where a head here computes tanh")
    return Outputs("classify", (), head, pooling="first")


def _names(folder: Path) -> tuple[str, ...]:
    """What labels.txt calls the outputs; () if there is none.

    Raises:
        RunError: It cannot be read, or names one twice.
    """
    path = folder / LABELS
    if not path.is_file():
        return ()
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used: {error}") from error
    if len(set(names)) < len(names) or "" in names:
        raise RunError(f"{path} must give each output a name of its own, one a line")
    return names


def _of_beit(state: dict[str, Any], folder: Path | None) -> Outputs | None:
    """A linear map on the mean, with BEiT's and timm's names."""
    if "head.weight" not in state or "cls_token" not in state:
        return None
    settings = {} if folder is None else foreign.settings(folder)
    labels = tuple(map(str, settings.get("label_names") or settings.get("pretrained_cfg", {}).get("label_names") or ()))
    if labels == (VALUE,):
        task: Any = "regress"
    else:
        task = "classify"
    head = huggingface_heads.renamed(state, {"head": "output"})
    if "fc_norm.weight" not in state:
        if settings.get("global_pool", "avg") != "avg":
            raise ValueError("its classes are read from the class token, which is pooled by nothing here")
        return Outputs(task, labels, head)
    return Outputs(task, labels, head | huggingface_heads.renamed(state, {"fc_norm": "norm"}), layers="block")


def _symbols(folder: Path) -> tuple[str, ...]:
    """The symbols of vocab.json by their numbers; () if there is none.

    Raises:
        RunError: It cannot be read.
    """
    path = folder / "vocab.json"
    if not path.is_file():
        return ()
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise ValueError("its numbers are not those from 0 on, without gaps")
        return tuple(sorted(numbers, key=numbers.__getitem__))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def _timm_inputs(folder: Path) -> InputsConfig:
    known, default = foreign.settings(folder).get("pretrained_cfg", {}), VisionInputs()
    try:
        mean, std = known.get("mean", default.mean), known.get("std", default.std)
        return replace(default, mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error


@dataclass(frozen=True)
class _Kept:
    inputs: InputsConfig


def _kept_inputs(folder: Path, modality: str) -> InputsConfig | None:
    """How the run that an export is from made inputs; None if the folder does not say so.

    Raises:
        RunError: It says something that cannot be used.
    """
    path = folder / _FACTS
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        inputs: Any = from_dict(_Kept, {"inputs": config["inputs"]}).inputs
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise RunError(f"{path} cannot be used: {error}") from error
    if inputs.modality != modality:
        return None
    return replace(inputs, tokenizer=None) if hasattr(inputs, "tokenizer") else inputs  # its own lies in the folder
