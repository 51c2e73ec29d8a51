"""Weights out of a run: an encoder ready for features, or the start of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from d2v_fast.config import Config
from d2v_fast.config_json import from_dict
from d2v_fast.errors import RunError
from d2v_fast.models import Data2Vec, Encoder, build_encoder
from d2v_fast.run import checkpoint as checkpoints
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.directory import read_config


def load(run: str | Path, network: Literal["student", "teacher"] = "student") -> Encoder:
    """The encoder of a run, in eval mode on the CPU: `encoder(inputs, lengths)` gives features [B, T, C].

    Args:
        run: A run's folder, whose newest good checkpoint is taken, or the folder of one checkpoint.
        network: The student, which the papers fine-tune, or the teacher, its moving average.

    Raises:
        RunError: There is no run, or no good checkpoint in it.
        ValueError: `network` is something else.
    """
    if network not in ("student", "teacher"):
        raise ValueError(f"network must be 'student' or 'teacher', got {network!r}")
    config, checkpoint = open_checkpoint(run)
    tensors = checkpoint.tensors(network)
    encoder = build_encoder(config.model)
    encoder.load_state_dict(_encoder_part(tensors) if network == "student" else tensors)
    return encoder.eval()


def open_checkpoint(path: str | Path) -> tuple[Config, Checkpoint]:
    """The configuration and the checkpoint of a run (its newest good one) or of a checkpoint's folder.

    Raises:
        RunError: It is neither, or not whole.
    """
    folder = Path(path).expanduser()
    if (folder / "state.json").is_file():
        checkpoint = checkpoints.read(folder)
        return from_dict(Config, checkpoint.state["config"]), checkpoint
    config = read_config(folder)
    newest = checkpoints.newest(folder / "checkpoints")
    if newest is None:
        raise RunError(f"{folder} has no checkpoint yet")
    return config, newest


def load_student(model: Data2Vec, path: str | Path) -> None:
    """Put the student weights of the run or checkpoint at `path` into student and teacher.

    Raises:
        RunError: They do not fit the model; the message names what differs.
    """
    _, checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors("student")
    own = model.student.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is not part of this model" for name in tensors if name not in own]
    wrong += [
        f"{name} has shape {list(tensors[name].shape)}, this model {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise RunError(f"the weights of {checkpoint.folder} do not fit this model: {'; '.join(wrong[:3])}{more}")
    model.student.load_state_dict(tensors)
    model.reset_teacher()


def _encoder_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "encoder."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
