"""Weights out of a run: an encoder ready for features, or the start of another run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from d2v_fast import registry, rng
from d2v_fast.config import Config
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.files import exists
from d2v_fast.interop import foreign
from d2v_fast.interop.described import described
from d2v_fast.modalities import modality_of
from d2v_fast.models import Data2Vec, Encoder, build_encoder
from d2v_fast.models.config import ModelConfig
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.reader import Run

_SHOWN = 3
"""How many tensors that do not fit a message names."""


Network = Literal["student", "teacher", "initial"]
"""Which weights of a run are meant."""


_drawing = threading.RLock()


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Within the context, new weights are a function of `seed` alone, and parameters that can be trained.

    They are made on the CPU, the same for every device, one model after the other: torch draws from one generator for
    all threads.
    """
    with _drawing, torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False):
        torch.default_generator.manual_seed(rng.derive(seed, "weights"))
        yield


def new_model(config: Config) -> Data2Vec:
    """The pair with the random weights of a run's start: a function of `seed` and `model` alone, on the CPU.

    Raises:
        ConfigError: The section `model` contradicts itself.
    """
    with drawn_from(config.seed):
        try:
            return Data2Vec(config.model)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error


def load(run: str | Path, network: Network = "student") -> Encoder:
    """The encoder of a run, in eval mode on the CPU: `encoder(inputs, lengths)` gives features [B, T, C].

    Preprocessing comes along: `encoder.features(samples)` gives features of paths, arrays, or texts (with the tokenizer
    that the run keeps); `encoder.prepare(sample)` makes inputs [...] of a sample as the run did.

    Args:
        run: A run's folder, whose newest good checkpoint is taken (of a fine-tuning: the best), or the folder of one
            checkpoint; or weights of another library (`interop.foreign`). A folder of transformers or timm holds one
            network, whatever `network` says.
        network: The student, which the papers fine-tune; the teacher, its moving average; or the initial one, the
            random start that belongs to the run's seed, bit for bit, which needs no checkpoint (also of a run that
            `init_from` started elsewhere: its start without that).

    Raises:
        RunError: There is no run, no good checkpoint in it, or its weights cannot be used; the message says why.
        ValueError: `network` is something else.
    """
    if network not in get_args(Network):
        raise ValueError(f"network must be 'student', 'teacher' or 'initial', got {network!r}")
    if (folder := foreign.place(run)) is not None:
        return _load_foreign(folder, network)
    opened = Run(run)
    config = opened.config
    if network == "initial":
        encoder = new_model(config).student.encoder
    else:
        with torch.device("cpu"):
            encoder = build_encoder(config.model)
        checkpoint = opened.best()  # all of whose files are there
        if network == "teacher" and not exists(checkpoint.folder / "teacher.safetensors"):
            raise RunError(f'{checkpoint.folder} has no teacher: give network="student" (--network student)')
        fill(encoder, checkpoint, network, prefix="encoder." if network == "student" else "", finite=True)
    encoder.inputs = modality_of(config).for_features(config.inputs, opened.path)
    return encoder.eval()


def load_student(model: Data2Vec, path: str | Path) -> None:
    """Put the student weights of the run or checkpoint at `path` into student and teacher.

    Weights of other libraries (`interop.foreign`) serve as well; where they have no head, the model keeps its own.

    Raises:
        RunError: They do not fit the model; the message names what differs.
    """
    if (folder := foreign.place(path)) is not None:
        tensors = foreign.weights(folder, model.config)
        head = {
            name: value
            for name, value in model.student.state_dict().items()
            if not name.startswith("encoder.") and all(key.startswith("encoder.") for key in tensors)
        }
        put(model.student, head | tensors, f"the weights in {folder}")
        model.reset_teacher()
        return
    fill(model.student, Run(path).newest(), "student", finite=True)
    model.reset_teacher()


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    network: Literal["student", "teacher"],
    *,
    prefix: str = "",
    finite: bool = False,
) -> None:
    """Put a network's tensors into a module.

    Args:
        module: What they were taken from, or the part of it that `prefix` names.
        checkpoint: Where they are.
        network: Which ones.
        prefix: Begins the names of the tensors that are meant; the others are left alone.
        finite: Refuse values that are not finite.

    Raises:
        RunError: A tensor is missing, is not part of the module, has another shape, or is not finite.
    """
    tensors = {
        name.removeprefix(prefix): value
        for name, value in checkpoint.tensors(network).items()
        if name.startswith(prefix)
    }
    own = module.state_dict()
    wrong = _differences(own, tensors)
    if not wrong and finite:
        wrong = [
            f"{name} has values that are not finite"
            for name, value in tensors.items()
            if value.is_floating_point() and not torch.isfinite(value).all()
        ]
    _refuse(wrong, f"the {network}'s weights in {checkpoint.folder}")
    module.load_state_dict(tensors)


def _load_foreign(folder: Path, network: Network) -> Encoder:
    """The encoder of weights of another library."""
    if network == "initial":
        raise RunError(f"{folder} is no run of this library: there is no initial network, only the one that is there")
    config, inputs, where = described(folder)
    if network == "teacher" and folder.is_file():
        tensors = foreign.teacher(folder, config)
    else:
        tensors = encoder_weights(folder, config)
    if foreign.lacks_norm(foreign.read(folder).student):
        raise RunError(
            f"{folder} is fine-tuned, and its encoder has no norm at its end: its features are not those of an encoder "
            "here. d2v_fast.finetuning.load takes all of it; finetune and --init-from begin with a new norm"
        )
    with torch.device("meta"):  # the settings may be those of a larger model than the file's
        _refuse(_differences(build_encoder(config).state_dict(), tensors), f"the weights in {folder}")
    with torch.device("cpu"):
        encoder = build_encoder(config)
    encoder.load_state_dict(tensors)
    encoder.inputs = registry.get(config.modality).for_features(inputs, where)
    return encoder.eval()


def encoder_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of an encoder of another library, as in `Encoder.state_dict()`.

    Raises:
        RunError: See `foreign.weights`.
    """
    prefix, found = "encoder.", foreign.weights(folder, config, "encoder")
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def put(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put tensors, which were checked to be finite, into a module.

    Args:
        module: Where to.
        tensors: One for each of its own.
        what: They are, for the message.

    Raises:
        RunError: They do not fit.
    """
    _refuse(_differences(module.state_dict(), tensors), what)
    module.load_state_dict(dict(tensors))


def _refuse(wrong: list[str], what: str) -> None:
    if wrong:
        more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
        raise RunError(f"{what} cannot be used for this model: {'; '.join(wrong[:_SHOWN])}{more}")


def _differences(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps `tensors` from being the values of `own`."""
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is not part of this model" for name in tensors if name not in own]
    return wrong + [
        f"{name} has shape {list(tensors[name].shape)}, this model {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
