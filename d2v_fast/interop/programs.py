"""An encoder as a program that needs no line of this library: torch.export, ONNX.

A program takes `inputs`, and `lengths` where the modality has padding, and gives `features`; batch and length are free.
It holds operators of torch (of ONNX) alone.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2v_fast.config import Config
from d2v_fast.interop.processors import Written
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.series.config import SeriesEmbedding
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding
from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.modalities.text.config import TextEmbedding
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models import Encoder

TOLERANCE = 1e-3
"""Of the largest feature: what a program may be off before it is not written. It is far less where all is well."""


class Shape(NamedTuple):
    """What inputs look like."""

    names: tuple[str, ...]
    """Of each dimension; "batch" and "length" are free."""

    sizes: tuple[int, int]
    """Two lengths for the example and for the check; the same where the length is fixed."""

    rest: tuple[int, ...]
    """Sizes of what is behind the batch and, where it is free, the length."""

    vocabulary: int = 0
    """Inputs are token ids below it; 0: numbers."""


class WithLengths(nn.Module):
    """`Encoder.forward` with both arguments."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, C]."""
        features: Tensor = self.encoder(inputs, lengths)
        return features


class Whole(nn.Module):
    """`Encoder.forward` of inputs that have no padding."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, T, C]."""
        features: Tensor = self.encoder(inputs)
        return features


def write_torch(folder: Path, encoder: Encoder, config: Config, tokenizer: Path | None) -> Written:
    """Write `model.pt2`, a program of torch.export.

    Args:
        folder: An empty folder.
        encoder: In eval mode, on the CPU.
        config: Of its run.
        tokenizer: The `tokenizers` JSON file of its run, where it has one; it is copied.

    Raises:
        ValueError: The modality is one of the user's own, or the program does not compute what the encoder computes.
    """
    shape = shape_of(config.model.embedding)
    program = traced(encoder, shape)
    torch.export.save(program, folder / "model.pt2")
    loaded = torch.export.load(folder / "model.pt2").module()
    check(encoder, shape, lambda *batch: loaded(*batch))
    _copy(tokenizer, folder)
    return Written(_TORCH.format(_arguments(shape)), _notes(shape, config, tokenizer))


def write_onnx(folder: Path, encoder: Encoder, config: Config, tokenizer: Path | None) -> Written:
    """Write `model.onnx`, checked in onnxruntime; arguments and errors as `write_torch` has them.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'd2v_fast[export]'") from error
    shape, path = shape_of(config.model.embedding), folder / "model.onnx"
    module, batch = _module(encoder, shape), example(encoder, shape, 3, shape.sizes[0])
    free = [{i: name for i, name in enumerate(shape.names) if name in ("batch", "length")}, {0: "batch"}]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used")  # there are two of it
        written = torch.onnx.export(
            module,
            batch,
            dynamo=True,
            dynamic_shapes=tuple(free[: len(batch)]),
            input_names=["inputs", "lengths"][: len(batch)],
            output_names=["features"],
            verbose=False,
        )
    assert written is not None
    written.save(path)
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*batch: Tensor) -> Tensor:
        given = {put.name: value.numpy() for put, value in zip(session.get_inputs(), batch, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    check(encoder, shape, run)
    _copy(tokenizer, folder)
    return Written(_ONNX.format(_named(shape)), _notes(shape, config, tokenizer))


def traced(encoder: Encoder, shape: Shape) -> torch.export.ExportedProgram:
    """The program of an encoder."""
    batch = example(encoder, shape, 3, shape.sizes[0])
    dynamic = torch.export.Dim.DYNAMIC
    free = [{i: dynamic for i, name in enumerate(shape.names) if name in ("batch", "length")}, {0: dynamic}]
    with torch.no_grad():
        return torch.export.export(_module(encoder, shape), batch, dynamic_shapes=tuple(free[: len(batch)]))


def shape_of(embedding: Any) -> Shape:
    """What the inputs of an encoder look like.

    Raises:
        ValueError: The modality is one of the user's own.
    """
    if isinstance(embedding, VisionEmbedding):
        side, names = embedding.image_size, ("batch", "channels", "height", "width")
        return Shape(names, (side, side), (embedding.channels, side, side))
    if isinstance(embedding, TextEmbedding):
        longest = embedding.max_length
        return Shape(("batch", "length"), (longest, max(2, longest // 2)), (), embedding.vocab_size)
    if isinstance(embedding, SpectrogramEmbedding):
        longest = embedding.max_frames
        return Shape(("batch", "length", "bins"), (longest, max(embedding.patch[0], longest // 2)), (embedding.bins,))
    if isinstance(embedding, FramesEmbedding):
        sizes = (embedding.samples(25), embedding.samples(12) + 1)
        if isinstance(embedding, SpeechEmbedding):
            return Shape(("batch", "length"), sizes, ())
        if isinstance(embedding, SeriesEmbedding):
            return Shape(("batch", "length", "channels"), sizes, (embedding.channels,))
    raise ValueError(f"what the inputs of {embedding.modality} look like is not known here: call torch.export yourself")


def example(encoder: Encoder, shape: Shape, rows: int, length: int) -> tuple[Tensor, ...]:
    """Inputs, and lengths if there is padding: the first row is full, the others are shorter and shorter."""
    random = torch.Generator().manual_seed(rows)
    dtype = next(encoder.parameters()).dtype
    if "length" not in shape.names:
        return (torch.randn(rows, *shape.rest, generator=random, dtype=dtype),)
    lengths = torch.tensor([length - i * length // (2 * rows) for i in range(rows)])
    size = (rows, length, *shape.rest)
    if not shape.vocabulary:
        return torch.randn(size, generator=random, dtype=dtype), lengths
    pad = encoder.config.pad_id
    tokens = torch.randint(0, shape.vocabulary, size, generator=random)
    tokens[tokens == pad] = (pad + 1) % shape.vocabulary
    return torch.where(torch.arange(length) < lengths[:, None], tokens, pad), lengths


def check(encoder: Encoder, shape: Shape, run: Any) -> float:
    """How far the features of a program are from the encoder's, as a share of the largest; padding does not count.

    Args:
        encoder: The encoder.
        shape: Of its inputs.
        run: Called with a batch of another size and length than the program was made with.

    Raises:
        ValueError: It is too far.
    """
    worst = 0.0
    for rows, length in ((1, shape.sizes[0]), (2, shape.sizes[1])):
        batch = example(encoder, shape, rows, length)
        with torch.no_grad():
            wanted, found = encoder(*batch), run(*batch)
        if wanted.shape != found.shape:
            raise ValueError(f"the program gives features {list(found.shape)}, the encoder {list(wanted.shape)}")
        valid = torch.ones(wanted.shape[:2], dtype=torch.bool)
        if len(batch) == 2:
            valid = torch.arange(wanted.shape[1]) < encoder.token_lengths(batch[1])[:, None]  # type: ignore[index]
        off = (found - wanted)[valid].abs().max() / wanted[valid].abs().max()
        worst = max(worst, float(off))
        if not off <= TOLERANCE:
            raise ValueError(f"the program's features are off by {float(off):.1e} of the largest, so it is not written")
    return worst


def _module(encoder: Encoder, shape: Shape) -> nn.Module:
    encoder.requires_grad_(False)
    return (WithLengths if "length" in shape.names else Whole)(encoder).eval()


def _copy(tokenizer: Path | None, folder: Path) -> None:
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _arguments(shape: Shape) -> str:
    return ", ".join(["inputs", "lengths"] if "length" in shape.names else ["inputs"])


def _named(shape: Shape) -> str:
    return ", ".join(f'"{name}": {name}' for name in _arguments(shape).split(", "))


def _notes(shape: Shape, config: Config, tokenizer: Path | None) -> str:
    kind = "int64 token ids" if shape.vocabulary else "float32"
    sizes: Sequence[Any] = [name if name in ("batch", "length") else None for name in shape.names]
    rest = iter(shape.rest)
    lines = [
        f"`inputs`: {kind} [{', '.join(name or str(next(rest)) for name in sizes)}]. `features`: float32 "
        f"[batch, tokens, {config.model.transformer.dim}].",
        "Inputs have to be made as the run made them: see `inputs` in the settings below.",
    ]
    if "length" in shape.names:
        lines.insert(
            1,
            "`lengths`: int64 [batch], how much of each row is no padding. What stands at padded tokens means nothing.",
        )
    if tokenizer is not None:
        lines.append("`tokenizer.json` is a file of the `tokenizers` library; a sequence begins with the begin token.")
    return "\n".join(lines)


_TORCH = """
import torch

model = torch.export.load("FOLDER/model.pt2").module()
features = model({})
"""
_ONNX = """
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(features,) = session.run(None, {{{}}})
"""
