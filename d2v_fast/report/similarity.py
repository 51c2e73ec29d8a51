"""How alike the features of the parts of one sample are: of patches on a picture, of frames, of tokens."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from d2v_fast import registry
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataSource
from d2v_fast.log import escaped
from d2v_fast.modalities.drawing import Drawing, Panel, Picture, Spectrogram, Words
from d2v_fast.models import Encoder
from d2v_fast.report.markup import text
from d2v_fast.report.samples import batch_of

SAMPLES = 3
"""Samples that are shown."""

_PLACES = (0.5, 0.25, 0.75)
"""Of the patches or tokens that others are compared with: shares of the height and the width, or of the length."""

_SIDE = 168
"""Pixels of a map."""

_MOST = 256
"""Frames or tokens of a matrix; of more, the first ones are shown."""

_VIRIDIS = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
     [170, 220, 50], [253, 231, 37]], dtype=np.float64,
)  # fmt: skip


def similarities(encoder: Encoder, config: Config, source: DataSource, name: str) -> str:
    """Maps of the first samples of a run's first epoch, as HTML. Every text is escaped.

    A feature is what the encoder makes of a whole input at one place, less the mean over the sample's places, since all
    of them share much; its likeness to another one is their cosine.

    Args:
        encoder: In eval mode.
        config: Of the run; its inputs decide what is seen of the samples.
        source: The samples.
        name: Of the run and its network.

    Raises:
        DataError: None of the samples can be read, or the modality gives no picture of them.
    """
    batch = batch_of(source, config, SAMPLES)
    modality: Any = registry.get(config.model.modality)
    drawing: Drawing = modality.draw(source, config, batch)
    panels = [panel for row in drawing.rows for panel in row.panels if getattr(panel, "mask", None) is not None]
    tokens = _tokens(encoder, batch)
    parts = []
    for i, (panel, features) in enumerate(zip(panels[:SAMPLES], tokens, strict=False)):
        assert batch.mask is not None
        mask = batch.mask[i * batch.views, : len(features)].numpy()
        parts.append(_sample(panel, _cosines(features), mask, f"{name}, sample {i + 1}"))
    return "".join(parts)


def _tokens(encoder: Encoder, batch: Batch) -> list[np.ndarray]:
    """float32 [T, C] of each sample, without padding."""
    with torch.no_grad():
        found = encoder(batch.inputs, batch.lengths).float().numpy()
    counts = encoder.token_lengths(batch.lengths)
    lengths = [found.shape[1]] * len(found) if counts is None else counts.tolist()
    return [row[:count] for row, count in zip(found, lengths, strict=True)]


def _cosines(features: np.ndarray) -> np.ndarray:
    """[T, T], of features less their mean."""
    x = features - features.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.nan_to_num(x @ x.T)


def _sample(panel: Panel, cosines: np.ndarray, mask: np.ndarray, name: str) -> str:
    if isinstance(panel, Words):
        return _words(panel, cosines, name)
    grid = _grid(mask, panel.mask)
    if grid is None:
        return _matrix(panel, cosines, name)
    return _patches(panel, cosines, grid, name)


def _grid(mask: np.ndarray, shown: np.ndarray | None) -> np.ndarray | None:
    """The number of the token at each place of a panel's mask, int [h, w]; None where there is one axis, or no such."""
    if shown is None or shown.ndim != 2 or shown.size != len(mask):
        return None
    numbers = np.arange(len(mask))
    rows, columns = numbers.reshape(shown.shape), numbers.reshape(shown.shape[::-1]).T
    return next((grid for grid in (rows, columns) if np.array_equal(mask[grid], shown)), None)


def _patches(panel: Any, cosines: np.ndarray, grid: np.ndarray, name: str) -> str:
    """A picture, and beside it how alike its patches are to one of them."""
    if isinstance(panel, Picture):
        pixels = panel.pixels if panel.pixels.dtype == np.uint8 else (panel.pixels * 255).round().astype(np.uint8)
    elif isinstance(panel, Spectrogram):
        pixels, grid = _heat(panel.energies[::-1]), grid[::-1]
    else:
        return _matrix(panel, cosines, name)
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    shape = _fitted(pixels.shape[0], pixels.shape[1])
    large = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(shape[::-1], _filter(pixels)))
    figures = [_figure(large, "the picture", f"{name}: the picture")]
    height, width = grid.shape
    for share in _PLACES:
        row, column = min(int(share * height), height - 1), min(int(share * width), width - 1)
        values = cosines[grid[row, column]][grid]
        heat = np.asarray(Image.fromarray(_heat(values, -1, 1)).resize(shape[::-1], Image.Resampling.NEAREST))
        mixed = (0.35 * large.mean(2, keepdims=True) + 0.65 * heat).astype(np.uint8)
        edges = [round(k * shape[0] / height) for k in (row, row + 1)]
        edges += [round(k * shape[1] / width) for k in (column, column + 1)]
        _frame(mixed, edges)
        about = f"to the patch in row {row + 1}, column {column + 1}"
        figures.append(
            _figure(mixed, about, f"{name}: {about}. {_range(np.delete(values.ravel(), row * width + column))}")
        )
    return f'<div class="card maps">{"".join(figures)}</div>'


def _matrix(panel: Any, cosines: np.ndarray, name: str) -> str:
    """All frames against all frames, below the spectrogram of the same time where there is one."""
    count = min(len(cosines), _MOST)
    cut = cosines[:count, :count]
    side = max(_SIDE, min(2 * _SIDE, 3 * count))
    image = Image.fromarray(_heat(cut, -1, 1)).resize((side, side), Image.Resampling.NEAREST)
    strip = ""
    if isinstance(panel, Spectrogram):
        energies = panel.energies[::-1, : max(1, round(panel.energies.shape[1] * count / len(cosines)))]
        above = Image.fromarray(_heat(energies, float(np.quantile(energies, 0.02)))).resize((side, side // 4))
        strip = _image(np.asarray(above), f"{name}: the spectrogram above the matrix")
    first = "" if count == len(cosines) else f", the first {count} of {len(cosines)}"
    about = f"frame against frame{first}; time runs to the right and down"
    spread = _range(cut[~np.eye(count, dtype=bool)])
    return (
        f'<div class="card maps"><figure>{strip}{_image(np.asarray(image), f"{name}: {about}. {spread}")}'
        f"<figcaption>{text(name)}: {text(about)}. {text(spread)}</figcaption></figure></div>"
    )


def _words(panel: Words, cosines: np.ndarray, name: str) -> str:
    """The text, on blue where a token is like the one that is framed; and all tokens against all."""
    count = min(len(panel.tokens), len(cosines), _MOST)
    lines = []
    for share in _PLACES[:2]:
        here = min(int(share * count), count - 1)
        spans = []
        for i, token in enumerate(panel.tokens[:count]):
            alike = max(0.0, float(cosines[here, i]))
            shown = escape(escaped(token)) or "·"
            frame = " here" if i == here else ""
            spans.append(f'<span class="t{frame}" style="background:rgba(0,114,178,{0.55 * alike:.2f})">{shown}</span>')
        lines.append(f'<p class="words">{"".join(spans)}</p>')
    return f'<div class="card">{"".join(lines)}</div>{_matrix(panel, cosines, name)}'


def _range(values: np.ndarray) -> str:
    if values.size == 0:
        return "There is only one."
    return f"Cosines from {values.min():.2f} to {values.max():.2f}, half of them above {np.median(values):.2f}."


def _heat(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """uint8 [h, w, 3], from dark violet (low) over green to yellow (high)."""
    low, high = float(values.min()) if low is None else low, float(values.max()) if high is None else high
    place = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(_VIRIDIS) - 1)
    below = np.minimum(place.astype(int), len(_VIRIDIS) - 2)
    part = (place - below)[..., None]
    mixed: np.ndarray = (_VIRIDIS[below] * (1 - part) + _VIRIDIS[below + 1] * part).round().astype(np.uint8)
    return mixed


def _frame(pixels: np.ndarray, edges: Sequence[int]) -> None:
    """A white frame with a black one inside around rows and columns."""
    top, bottom, left, right = edges
    for inset, value in ((0, 255), (1, 255), (2, 0)):
        rows, columns = (
            slice(top + inset, max(bottom - inset, top + inset + 1)),
            slice(left + inset, max(right - inset, left + inset + 1)),
        )
        pixels[rows.start, columns] = pixels[rows.stop - 1, columns] = value
        pixels[rows, columns.start] = pixels[rows, columns.stop - 1] = value


def _fitted(height: int, width: int) -> tuple[int, int]:
    """Height and width of the picture on the page: the longer one is `_SIDE`, or three times that for a long one."""
    longest = _SIDE if width < 2 * height else 3 * _SIDE
    scale = longest / max(height, width)
    return max(24, round(height * scale)), max(24, round(width * scale))


def _filter(pixels: np.ndarray) -> Image.Resampling:
    return Image.Resampling.NEAREST if max(pixels.shape[:2]) <= 64 else Image.Resampling.BILINEAR


def _figure(pixels: np.ndarray, caption: str, label: str) -> str:
    return f"<figure>{_image(pixels, label)}<figcaption>{text(caption)}</figcaption></figure>"


def _image(pixels: np.ndarray, label: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels" width="{width}" height="{height}" src="data:image/png;base64,{data}" alt="{text(label)}">'
    )
