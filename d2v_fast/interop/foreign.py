"""Weights that another library wrote, read without running a line that came with them.

Taken: folders and safetensors of Hugging Face data2vec models, folders of timm's `beit`, and safetensors or torch files
with the names of fairseq 1.0 or the BEiT-based vision code. A torch file is a pickle, which can be a program: it is
read by torch's reader for tensors alone, and refused if it holds anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from d2v_fast.errors import RunError
from d2v_fast.files import exists
from d2v_fast.interop import fairseq, huggingface
from d2v_fast.models.config import ModelConfig
from d2v_fast.tensor_files import read_tensors

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_HUGGING_FACE = re.compile(r"(^|\.)(embeddings|feature_projection)\.")
_BLOCK = re.compile(r"(?:^|\.)(?<!pos_conv_embed\.)(?:layers?|blocks)\.(\d+)\.")
_CONVERT = (
    "Where you trust it, write its tensors into a safetensors file first: docs/export.md, 'Files that are refused', "
    "has the lines"
)


def place(path: str | Path) -> Path | None:
    """`path`, if it is a file of weights, or a folder whose config.json is one of transformers or timm; else None.

    None also for what cannot be read: `Run` says what is wrong with it.
    """
    try:
        found = Path(path).expanduser()
        if found.is_file():
            return found
        known = exists(found / "config.json") and not {"model_type", "architecture"}.isdisjoint(settings(found))
    except (OSError, ValueError, RuntimeError):  # RunError is one of the last
        return None
    return found if known else None


def settings(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says.

    Raises:
        RunError: It cannot be read, or is not JSON.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{folder / 'config.json'} cannot be read: it holds no settings")
    return content


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or a folder, by the names that they have there; all floating and finite, as float32.

    Raises:
        RunError: There are none, or the file is damaged, holds something else, or a value that is not finite.
    """
    state: dict[str, Tensor] = {}
    for file in _files(path):
        state |= _safe(file) if file.suffix == ".safetensors" else _unpickled(file)
    if not state:
        raise RunError(f"{path} holds no tensors")
    found = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue  # indices and ids that are computed from the settings
        if not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path} cannot be used: {name} has values that are not finite")
        found[name] = tensor.float().contiguous()
    return found


def weights(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """A student's tensors by our names: of the encoder ("encoder." first) and, as far as it is there, of the head.

    Shapes are not checked.

    Args:
        path: A file or a folder.
        config: Of the model that they are meant for.

    Raises:
        RunError: They cannot be read, or their names are those of another model; the message says which.
    """
    state = tensors(path)
    deepest = max((int(found[1]) for name in state for found in _BLOCK.finditer(name)), default=-1) + 1
    if deepest != config.transformer.depth:
        raise RunError(f"{path} cannot be used: it has {deepest} blocks, the model has {config.transformer.depth}")
    try:
        if any(_HUGGING_FACE.search(name) for name in state):
            return _encoder(huggingface.to_ours(state, config))
        if "cls_token" in state and "mask_token" not in state:  # timm's
            state["mask_token"] = torch.zeros_like(state["cls_token"])
        try:
            return fairseq.to_ours(state, config)
        except ValueError:  # without a head
            return _encoder(fairseq.to_ours(state, config, part="encoder"))
    except ValueError as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def _encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"encoder.{name}": tensor for name, tensor in state.items()}


def _files(path: Path) -> list[Path]:
    """The files that hold the tensors."""
    if not path.is_dir():
        return [path]
    there = [path / name for name in _FILES if exists(path / name)]
    if not there:
        raise RunError(f"{path} holds no weights: none of {', '.join(_FILES)}")
    if there[0].suffix != ".json":
        return there[:1]
    try:
        names = set(json.loads(there[0].read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{there[0]} cannot be read: {error}") from error
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise RunError(f"{there[0]} names {outside[0]!r}, which is no file of this folder")
    return [path / name for name in sorted(names)]


def _safe(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read, it may be cut off: {error}") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, of its entry "model" where it has one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # of any kind, as the file may hold anything; torch's advice to trust it is left out
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"{path} is no torch file of tensors alone: it is damaged, or holds code, which is not run "
            f"({type(error).__name__}: {reason[:200]}). {_CONVERT}"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise RunError(f"{path} holds no tensors by name")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
