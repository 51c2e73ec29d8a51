"""Weights that another library wrote, read without running a line that came with them.

Taken: folders and safetensors of Hugging Face data2vec models, folders with our own modelling file, folders of timm's
`beit`, and safetensors or torch files with the names of fairseq (1.0 and 2.0) or of the BEiT-based vision code. A torch
file is a pickle, which can be a program: it is read by torch's reader for tensors alone, and refused if it holds
anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from d2v_fast.errors import RunError
from d2v_fast.files import exists
from d2v_fast.interop import fairseq, fairseq2, huggingface
from d2v_fast.models.config import ModelConfig
from d2v_fast.tensor_files import read_tensors

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_HUGGING_FACE = re.compile(r"(^|\.)(embeddings|feature_projection)\.")
_OURS = "blocks.0.attention.qkv.weight"
_TUNED = re.compile(r"head\.(layer_weights|norm\.|hidden\.|output\.)")
_TEACHER = "_ema."
_WRAPPERS = ("w2v_encoder.w2v_model.", "model.")
ABOUT = "settings"
"""The key of a safetensors file's metadata that holds settings as JSON, which `examples/convert_trusted.py` writes."""

_BLOCK = re.compile(r"(?:^|\.)(?<!pos_conv_embed\.)(?:layers?|blocks)\.(\d+)\.")
_CONVERT = (
    "Where you trust it, write its tensors into a safetensors file first, with examples/convert_trusted.py "
    "(docs/export.md, 'Files that are refused')"
)


def place(path: str | Path) -> Path | None:
    """`path`, if it is a file of weights, or a folder with one, or with a config.json of transformers or timm; or None.

    None also for what cannot be read: `Run` says what is wrong with it.
    """
    try:
        found = Path(path).expanduser()
        if found.is_file() or any(exists(found / name) for name in _FILES):
            return found
        return None if kind_of(found) is None else found
    except (OSError, ValueError, RuntimeError):  # RunError is one of the last
        return None


def kind_of(folder: Path) -> str | None:
    """What model a folder's config.json says that it holds; None if that is none of transformers or timm.

    Raises:
        RunError: It cannot be read.
    """
    if not exists(folder / "config.json"):
        return None
    found = settings(folder)
    kind = found.get("model_type", found.get("architecture"))
    return None if kind is None else str(kind)


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


class Content(NamedTuple):
    """What is in a file or a folder."""

    student: dict[str, Tensor]
    """Tensors by the names that they have there; all floating and finite, as float32."""

    teacher: dict[str, Tensor]
    """Those of a teacher beside it, by names of its own; {} if there is none."""

    about: dict[str, Any]
    """Settings that came along in the file, as plain values."""


def read(path: Path) -> Content:
    """What is in a file or a folder.

    Raises:
        RunError: There are no tensors, or a file is damaged, holds something else, or a value that is not finite.
    """
    state: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    if path.is_dir():
        kind_of(path)  # refuses settings that are damaged, also where they are not needed
    for file in _files(path):
        found, about = _safe(file) if file.suffix == ".safetensors" else _unpickled(file)
        state |= found
    if not state:
        raise RunError(f"{path} holds no tensors")
    student, teacher = {}, {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue  # indices and ids that are computed from the settings
        _check_stored(path, name, tensor)
        if not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path} cannot be used: {name} has values that are not finite")
        value = tensor.detach().float().contiguous()
        if name.startswith(_TEACHER):
            teacher[name[len(_TEACHER) :]] = value
        else:
            student[_unwrapped(name)] = value
    return Content(student, teacher, about)


def weights(path: Path, config: ModelConfig, part: fairseq.Part = "student") -> dict[str, Tensor]:
    """A student's tensors by our names: of the encoder ("encoder." first) and, as far as it is there, of the head.

    What was put on the encoder by a fine-tuning is left out. Shapes are not checked.

    Args:
        path: A file or a folder.
        config: Of the model that they are meant for.
        part: "student", or "encoder" for that alone, whatever else there is.

    Raises:
        RunError: They cannot be read, or their names are those of another model; the message says which.
    """
    return _translated(path, read(path).student, config, part)


def teacher(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """A teacher's tensors by our names, as in `Encoder.state_dict()`; what it does not average is the student's.

    Raises:
        RunError: There is none, or see `weights`.
    """
    content = read(path)
    if not content.teacher:
        raise RunError(f'{path} has no teacher: give network="student" (--network student)')
    own = _translated(path, content.student, config, "encoder")
    encoder = {name.removeprefix("encoder."): value for name, value in own.items() if name.startswith("encoder.")}
    try:
        names = fairseq2 if config.encodes_kept else fairseq
        return encoder | names.to_ours(content.teacher, config, part="encoder")
    except ValueError as error:
        raise RunError(f"the teacher in {path} cannot be used: {error}") from error


def _translated(path: Path, state: dict[str, Tensor], config: ModelConfig, part: fairseq.Part) -> dict[str, Tensor]:
    depth = _depth(state)
    if depth != config.transformer.depth:
        raise RunError(f"{path} cannot be used: it has {depth} blocks, the model has {config.transformer.depth}")
    if any(name.endswith(_OURS) for name in state):
        rooms = ("encoder.", "head.", "decoder.")
        state = {name if name.startswith(rooms) else f"encoder.{name}": state[name] for name in state}
        return {name: value for name, value in state.items() if not _TUNED.match(name)}
    try:
        if fairseq2.is_second(state):
            if part == "student" and any(".decoder." in name for name in state):
                return fairseq2.to_ours(state, config)
            return _encoder(fairseq2.to_ours(state, config, part="encoder"))
        if any(_HUGGING_FACE.search(name) for name in state):
            return _encoder(huggingface.to_ours(_with_norm(state, huggingface.NORM), config))
        if "cls_token" in state and "mask_token" not in state:  # timm's, and fine-tuned ones
            state = _with_norm(state | {"mask_token": torch.zeros_like(state["cls_token"])}, "norm")
        try:
            return fairseq.to_ours(state, config)
        except ValueError:  # without a head
            return _encoder(fairseq.to_ours(state, config, part="encoder"))
    except ValueError as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def _depth(state: Mapping[str, Tensor]) -> int:
    """How many blocks there are; data2vec 2.0 has some of them, its prenet, under a name of their own."""
    deepest: dict[str, int] = {}
    for name in state:
        if not name.startswith("head.") and ".decoder." not in name:
            for found in _BLOCK.finditer(name):
                lists = name[: found.start(1)]
                deepest[lists] = max(deepest.get(lists, 0), int(found[1]) + 1)
    return sum(deepest.values())


def lacks_norm(state: Mapping[str, Tensor]) -> bool:
    """Whether a fine-tuned picture model has a norm after its mean, and none at the end of its encoder."""
    if fairseq2.is_second(state):
        return False
    return any(name in state for name in ("data2vec_vision.pooler.layernorm.weight", "fc_norm.weight"))


def _with_norm(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """With a norm that has learned nothing, where a fine-tuned picture model has none at the end of its encoder."""
    if not lacks_norm(state) or f"{name}.weight" in state:
        return state
    like = next(value for key, value in state.items() if key.endswith(("pooler.layernorm.weight", "fc_norm.weight")))
    return state | {f"{name}.weight": torch.ones_like(like), f"{name}.bias": torch.zeros_like(like)}


def _unwrapped(name: str) -> str:
    """A name without that of the module that a fine-tuning wrapped around the model."""
    return next((name[len(prefix) :] for prefix in _WRAPPERS if name.startswith(prefix)), name)


def _check_stored(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what would have to be computed, or made larger, to be read.

    Raises:
        RunError: It is such a tensor.
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RunError(f"{path} cannot be used: {name} is no plain tensor (sparse, quantized, or expanded)")


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


def _safe(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        found = read_tensors(path)
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))  # the library has checked it
        about = json.loads(header.get("__metadata__", {}).get(ABOUT, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read, it may be cut off: {error}") from error
    return found, about if isinstance(about, dict) else {}


def _unpickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a torch file, of its entry "model" where it has one, and its settings."""
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
    if not isinstance(content, Mapping):
        raise RunError(f"{path} holds no tensors by name")
    model = content["model"] if isinstance(content.get("model"), Mapping) else content
    found = {name: value for name, value in model.items() if isinstance(name, str) and isinstance(value, Tensor)}
    for averaged in (model.get("_ema"), content.get("model_ema")):
        if isinstance(averaged, Mapping):
            found |= {f"{_TEACHER}{name}": value for name, value in averaged.items() if isinstance(value, Tensor)}
    about = content.get("cfg")
    return found, dict(about) if isinstance(about, Mapping) else {}
