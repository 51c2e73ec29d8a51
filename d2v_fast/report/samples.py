"""A picture of samples as they are stored, as the teacher sees them, and as the student does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource
from d2v_fast.modalities import open_loader
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.sampling import plan_clips
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PictureSampling
from d2v_fast.models import token_count
from d2v_fast.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = {"vision": 8, "speech": 3, "text": 6}
_DPI = 110
_COLUMNS = 168
"""Characters that fit beside each other."""

_TOKENS = 400
"""Tokens of a block that are shown."""

_FRAME = plots.COLOURS[1]


def draw(source: DataSource, config: Config, path: Path, name: str) -> None:
    """Writes the picture, a PNG.

    Args:
        source: The data.
        config: Its inputs, masks and seed are shown.
        path: Of the PNG.
        name: Of the configuration, for the title.

    Raises:
        ImportError: matplotlib is not installed; the message is the line that installs it.
        DataError: None of the samples that would be shown can be read.
    """
    count = _SHOWN[source.modality]
    if source.modality == "text":
        count = max(2, min(count, 2 * _TOKENS // int(np.asarray(source.sizes)[0])))
    config = replace(config, loader=replace(config.loader, batch_size=count, batch_seconds=None, batch_tokens=None))
    with open_loader(config, source) as loader:
        batch: Batch = loader.step(0)[0]
    if len(batch.sample_ids) == 0:
        raise DataError("none of the samples that were drawn can be read: draw others by --seed")
    {"vision": _pictures, "speech": _clips, "text": _texts}[source.modality](source, config, batch, path, name)


def _pictures(source: DataSource, config: Config, batch: Batch, path: Path, name: str) -> None:
    """Three rows: whole pictures with their crops, the crops, the crops with masked patches grey."""
    inputs = cast(VisionInputs, config.inputs)
    grid = cast(tuple[int, int], token_count(config.model, None))
    ids = batch.sample_ids.numpy()
    plan = PictureSampling(inputs, 0).draw(np.asarray(source.sizes)[ids], ids, 0, config.seed, 0)
    seen = batch.inputs * torch.tensor(inputs.std)[:, None, None] + torch.tensor(inputs.mean)[:, None, None]
    crops = seen.permute(0, 2, 3, 1).clamp(0, 1).numpy()
    crops = crops.repeat(3 // crops.shape[-1], axis=-1)
    masks = batch.mask[:: batch.views].view(-1, *grid).numpy()
    count = len(ids)
    figure = plots.figure(1.55 * count, 5.6)
    figure.suptitle(f"{name}: {masks.mean():.0%} of {grid[0]} x {grid[1]} patches masked", fontsize=11)
    axes = figure.subplots(3, count, squeeze=False)
    large = masks.repeat(crops.shape[1] // grid[0], axis=1).repeat(crops.shape[2] // grid[1], axis=2)
    for i in range(count):
        whole = _planes(source.read(int(ids[i])))
        axes[0, i].imshow(whole, cmap="gray", vmin=0, vmax=255)
        top, left, height, width = plan.boxes[i].tolist()
        _frame(axes[0, i], left, top, width, height)
        mirrored = ", mirrored" if plan.flips[i] else ""
        axes[0, i].set_title(f"{whole.shape[1]} x {whole.shape[0]}{mirrored}", fontsize=7, pad=3)
        axes[1, i].imshow(crops[i])
        axes[2, i].imshow(np.where(large[i, :, :, None], _grey(), crops[i]))
    rows = ("stored, with its crop", "the teacher sees", "the student sees")
    for row, label in zip(axes, rows, strict=True):
        for one in row:
            one.set(xticks=[], yticks=[], anchor="C")
            one.spines[:].set(color="#CCCCCC", linewidth=0.6)
        row[0].set_ylabel(label, fontsize=9)
    figure.savefig(path, dpi=_DPI, format="png")


def _frame(axes: Axes, left: int, top: int, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=_FRAME, linewidth=1.6, clip_on=False)
    )


def _grey() -> np.ndarray:
    return np.array([int(plots.MASKED[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _planes(picture: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    if isinstance(picture, torch.Tensor):
        picture = picture.permute(1, 2, 0).numpy() if picture.ndim == 3 else picture.numpy()
    if picture.ndim == 3:
        picture = picture[..., :3] if picture.shape[-1] > 2 else picture[..., 0]
    return np.asarray(picture)


def _clips(source: DataSource, config: Config, batch: Batch, path: Path, name: str) -> None:
    """For each clip: its whole waveform with the window that is used, and the window's spectrogram with its mask."""
    from d2v_fast.demo.speech import log_mel

    inputs = cast(SpeechInputs, config.inputs)
    ids, rate = batch.sample_ids.numpy(), inputs.sample_rate
    valid = [batch.inputs.shape[1]] * len(ids) if batch.lengths is None else batch.lengths.tolist()
    figure = plots.figure(11, 2.9 * len(ids) + 0.4)
    masked = batch.rows.numel() / sum(int(token_count(config.model, length)) for length in valid) / batch.views
    figure.suptitle(f"{name}: {masked:.0%} of the frames masked (grey)", fontsize=11)
    axes = figure.subplots(2 * len(ids), 1, squeeze=False, height_ratios=[1, 2.2] * len(ids))[:, 0]
    for i, (sample, length) in enumerate(zip(ids.tolist(), valid, strict=True)):
        raw = torch.as_tensor(source.read(sample))
        whole = (raw / 32768 if raw.dtype == torch.int16 else raw.float()).numpy()
        start = int(plan_clips(np.array([len(whole)]), ids[i : i + 1], length, config.seed, 0).starts[0])
        _wave(axes[2 * i], whole, start, length, rate, source.name(sample))
        window = batch.inputs[i, :length].numpy()
        frames = int(token_count(config.model, length))
        mask = batch.mask[i * batch.views, :frames].numpy()
        plots.masked_spectrogram(axes[2 * i + 1], log_mel(window).T, mask, seconds=length / rate, title="")
        axes[2 * i + 1].set(title="")
        axes[2 * i + 1].set_xlabel("seconds of the window", fontsize=8)
        axes[2 * i + 1].tick_params(labelsize=8)
    figure.savefig(path, dpi=_DPI, format="png")


def _wave(axes: Axes, whole: np.ndarray, start: int, length: int, rate: int, name: str) -> None:
    """The largest and the smallest sample of each of 1,500 stretches."""
    edges = np.linspace(0, len(whole), min(len(whole), 1500) + 1).astype(int)[:-1]
    time = edges / rate
    axes.fill_between(
        time,
        np.minimum.reduceat(whole, edges),
        np.maximum.reduceat(whole, edges),
        color=plots.COLOURS[0],
        linewidth=0.4,
    )
    axes.axvspan(start / rate, (start + length) / rate, facecolor="none", edgecolor=_FRAME, linewidth=1.6)
    axes.set(xlim=(0, len(whole) / rate), yticks=[])
    shown = name if len(name) <= 90 else f"...{name[-87:]}"
    axes.set_title(f"{shown} ({len(whole) / rate:.1f} s, framed: the window)", fontsize=9, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _texts(source: DataSource, config: Config, batch: Batch, path: Path, name: str) -> None:
    """The tokens of some blocks, those on grey to be predicted."""
    texts = cast(TextBlocks, source)
    blocks, lines = [], []
    for ids in batch.inputs[:, :_TOKENS].tolist():
        blocks.append([texts.tokenizer.decode([token], skip_special_tokens=False) for token in ids])
        lines.append(1 + sum(map(len, blocks[-1])) // (_COLUMNS - 8))
    figure = plots.figure(11, sum(0.36 + 0.19 * count for count in lines))
    ratios = [0.36 + 0.19 * count for count in lines]
    axes = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for i, (one, tokens) in enumerate(zip(axes, blocks, strict=True)):
        row = i * batch.views
        mask = batch.mask[row]
        plots.masked_tokens(one, tokens, mask[: len(tokens)].tolist(), columns=_COLUMNS, title="")
        one.set_title(
            f"{name}, {source.name(int(batch.sample_ids[i]))}: {_become(texts, batch, i)}", fontsize=8, loc="left"
        )
    figure.savefig(path, dpi=_DPI, format="png")


def _become(source: TextBlocks, batch: Batch, i: int) -> str:
    """What the masked tokens of a block have become."""
    assert batch.masked_inputs is not None
    row = i * batch.views
    mask = batch.mask[row]
    before, after = batch.inputs[i][mask], batch.masked_inputs[row][mask]
    hidden, same = int((after == source.mask_id).sum()), int((after == before).sum())
    return (
        f"{mask.float().mean():.0%} of {len(mask)} tokens to be predicted (grey): {hidden} are <mask>, {same} as they "
        f"were, {len(after) - hidden - same} another token"
    )
