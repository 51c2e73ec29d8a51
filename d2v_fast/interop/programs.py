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

from d2v_fast.interop.trained import Trained, Written
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
    """A network with both arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, C], or outputs."""
        found: Tensor = self.network(inputs, lengths)
        return found


class Whole(nn.Module):
    """A network whose inputs have no padding."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, T, C], or outputs."""
        found: Tensor = self.network(inputs)
        return found


def write_torch(folder: Path, trained: Trained) -> Written:
    """Write `model.pt2`, a program of torch.export.

    Args:
        folder: An empty folder.
        trained: What is written; its tokenizer is copied.

    Raises:
        ValueError: The modality is one of the user's own, or the program does not compute what the network computes.
    """
    shape = shape_of(trained.config.embedding)
    program = traced(trained.network, trained.encoder, shape)
    torch.export.save(program, folder / "model.pt2")
    loaded = torch.export.load(folder / "model.pt2").module()
    check(trained, shape, lambda *batch: loaded(*batch))
    _copy(trained.tokenizer, folder)
    return Written(_TORCH.format(_result(trained), _arguments(shape)), _notes(shape, trained))


def write_onnx(folder: Path, trained: Trained) -> Written:
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
    shape, path = shape_of(trained.config.embedding), folder / "model.onnx"
    module, batch = _module(trained.network, shape), example(trained.encoder, shape, 3, shape.sizes[0])
    free = [{i: name for i, name in enumerate(shape.names) if name in ("batch", "length")}, {0: "batch"}]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used")  # there are two of it
        written = torch.onnx.export(
            module,
            batch,
            dynamo=True,
            dynamic_shapes=tuple(free[: len(batch)]),
            input_names=["inputs", "lengths"][: len(batch)],
            output_names=[_result(trained)],
            verbose=False,
        )
    assert written is not None
    written.save(path)
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*batch: Tensor) -> Tensor:
        given = {put.name: value.numpy() for put, value in zip(session.get_inputs(), batch, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    check(trained, shape, run)
    _copy(trained.tokenizer, folder)
    return Written(_ONNX.format(_result(trained), _named(shape)), _notes(shape, trained))


def traced(network: nn.Module, encoder: Encoder, shape: Shape) -> torch.export.ExportedProgram:
    """The program of a network, which is the encoder or has it."""
    batch = example(encoder, shape, 3, shape.sizes[0])
    dynamic = torch.export.Dim.DYNAMIC
    free = [{i: dynamic for i, name in enumerate(shape.names) if name in ("batch", "length")}, {0: dynamic}]
    with torch.no_grad():
        return torch.export.export(_module(network, shape), batch, dynamic_shapes=tuple(free[: len(batch)]))


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


def check(trained: Trained, shape: Shape, run: Any) -> float:
    """How far what a program gives is from what its network gives, as a share of the largest; padding does not count.

    Args:
        trained: What it is a program of.
        shape: Of its inputs.
        run: Called with a batch of another size and length than the program was made with.

    Raises:
        ValueError: It is too far.
    """
    worst, what = 0.0, _result(trained)
    for rows, length in ((1, shape.sizes[0]), (2, shape.sizes[1])):
        batch = example(trained.encoder, shape, rows, length)
        with torch.no_grad():
            wanted, found = trained.network(*batch), run(*batch)
        if wanted.shape != found.shape:
            raise ValueError(f"the program gives {what} {list(found.shape)}, the network {list(wanted.shape)}")
        if len(batch) == 2 and wanted.dim() == 3:
            lengths = trained.encoder.token_lengths(batch[1])
            assert lengths is not None  # there are two inputs, so samples have lengths
            valid = torch.arange(wanted.shape[1]) < lengths[:, None]
            wanted, found = wanted[valid], found[valid]
        off = (found - wanted).abs().max() / wanted.abs().max()
        worst = max(worst, float(off))
        if not off <= TOLERANCE:
            raise ValueError(f"the program's {what} are off by {float(off):.1e} of the largest, so it is not written")
    return worst


def _module(network: nn.Module, shape: Shape) -> nn.Module:
    network.requires_grad_(False)
    return (WithLengths if "length" in shape.names else Whole)(network).eval()


def _result(trained: Trained) -> str:
    return "features" if trained.outputs is None else "logits"


def _copy(tokenizer: Path | None, folder: Path) -> None:
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _arguments(shape: Shape) -> str:
    return ", ".join(["inputs", "lengths"] if "length" in shape.names else ["inputs"])


def _named(shape: Shape) -> str:
    return ", ".join(f'"{name}": {name}' for name in _arguments(shape).split(", "))


def _notes(shape: Shape, trained: Trained) -> str:
    kind = "int64 token ids" if shape.vocabulary else "float32"
    sizes: Sequence[Any] = [name if name in ("batch", "length") else None for name in shape.names]
    rest = iter(shape.rest)
    lines = [
        f"`inputs`: {kind} [{', '.join(name or str(next(rest)) for name in sizes)}]. {_given(trained)}",
        "Inputs have to be made as the run made them: see `inputs` in the settings below.",
    ]
    if "length" in shape.names:
        lines.insert(
            1,
            "`lengths`: int64 [batch], how much of each row is no padding. What stands at padded tokens means nothing.",
        )
    if trained.tokenizer is not None:
        lines.append("`tokenizer.json` is a file of the `tokenizers` library; a sequence begins with the begin token.")
    return "\n".join(lines)


def _given(trained: Trained) -> str:
    """What comes out."""
    outputs = trained.outputs
    if outputs is None:
        return f"`features`: float32 [batch, tokens, {trained.config.transformer.dim}]."
    if outputs.task == "ctc":
        return f"`logits`: float32 [batch, frames, {len(outputs.labels)}], of symbols; symbol 0 is the blank."
    if outputs.task == "regress":
        return "`logits`: float32 [batch, 1], values in the unit of the labels."
    after = "sigmoid" if outputs.task == "tag" else "softmax"
    return f"`logits`: float32 [batch, {len(outputs.labels)}], before a {after}. `d2v_fast.json` names them: `labels`."


_TORCH = """
import torch

model = torch.export.load("FOLDER/model.pt2").module()
{} = model({})
"""
_ONNX = """
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
({},) = session.run(None, {{{}}})
"""
