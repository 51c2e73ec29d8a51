"""A run at work, whatever it is: the encoder of a pretraining, or the whole network of a fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import torch

from d2v_fast.data import Openable
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.predict import Finetuned
from d2v_fast.finetuning.predictions import Evaluation, Predictions, check_file
from d2v_fast.interop import foreign
from d2v_fast.models import Encoder
from d2v_fast.run import weights
from d2v_fast.run.reader import Run


@overload
def load(run: str | Path, network: weights.Network, *, device: str | torch.device | None = None) -> Encoder: ...


@overload
def load(
    run: str | Path, network: None = None, *, device: str | torch.device | None = None, **decoding: Any
) -> Any: ...


def load(
    run: str | Path,
    network: weights.Network | None = None,
    *,
    device: str | torch.device | None = None,
    **decoding: Any,
) -> Encoder | Finetuned:
    """A run ready for use: of a pretraining its encoder, of a fine-tuning its network.

    Example:
        >>> d2v_fast.load("runs/photos").features(["1.jpg", "2.jpg"])
        >>> d2v_fast.load("runs/classes").predict("new/").records()

    Args:
        run: See `run.weights.load`.
        network: "student", "teacher" or "initial": that encoder, of a fine-tuning too. By default the student's encoder
            of a pretraining, and the whole network of a fine-tuning.
        device: "cpu", "cuda", ...; by default the CPU for an encoder, and for a fine-tuned network a GPU if there is
            one.
        **decoding: See `Finetuned`.

    Returns:
        An `Encoder` in eval mode, with `features`; or a `Finetuned`, with `predict`, `evaluate` and `encoder`.

    Raises:
        RunError: See `run.weights.load`.
        ConfigError: See `Finetuned`.
        ValueError: There is no such network.
    """
    tuned = foreign.place(run) is None and network is None and isinstance(Run(run).config, FinetuneConfig)
    if tuned or decoding:
        return Finetuned(run, device=device, **decoding)
    return weights.load(run, "student" if network is None else network).to(device or "cpu")


def predict(
    run: str | Path,
    data: Openable | Any,
    *,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    decoding: dict[str, Any] | None = None,
    **options: Any,
) -> Predictions:
    """What a fine-tuned run says about new samples, as `d2v-fast predict` does.

    Example:
        >>> d2v_fast.predict("runs/classes", "new/", out="answers.jsonl").records()

    Args:
        run: A fine-tuned run, or a fine-tuned model of another library.
        data: See `Finetuned.predict`.
        out: A file for the predictions, .jsonl or .csv.
        device: See `load`.
        decoding: See `Finetuned`.
        **options: See `Finetuned.predict`.

    Raises:
        ConfigError: The file cannot be one.
        DataError: The data cannot be used.
        RunError: The run cannot be read, or is no fine-tuning.
    """
    if out is not None:
        check_file(out)
    found = Finetuned(run, device=device, **(decoding or {})).predict(data, **options)
    if out is not None:
        found.write(out)
    return found


def evaluate(
    run: str | Path,
    data: Openable | Any,
    *,
    device: str | torch.device | None = None,
    decoding: dict[str, Any] | None = None,
    **options: Any,
) -> Evaluation:
    """How good a fine-tuned run is on labelled samples, as `d2v-fast evaluate` says it.

    Args:
        run: See `predict`, also for `device` and `decoding`.
        data: Samples with labels, others than those that it was trained and validated on.
        device: See `load`.
        decoding: See `Finetuned`.
        **options: See `Finetuned.evaluate`.

    Raises:
        DataError: The data or its labels cannot be used.
        RunError: The run cannot be read, or is no fine-tuning.
    """
    return Finetuned(run, device=device, **(decoding or {})).evaluate(data, **options)
