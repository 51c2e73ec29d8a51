"""A picture of samples as they are stored, as the teacher sees them, and as the student does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from d2v_fast import registry
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource
from d2v_fast.data.own import SOFTWARE
from d2v_fast.modalities import open_loader
from d2v_fast.modalities.drawing import Drawing, Picture
from d2v_fast.report import panels, plots

SAMPLES = 8
"""In the batch that is drawn; a modality may show fewer."""

_DPI = 110


def draw(source: DataSource, config: Config, path: Path, name: str) -> None:
    """Writes the picture, a PNG.

    Args:
        source: The data.
        config: Its inputs, masks and seed are shown.
        path: Of the PNG.
        name: Of the configuration, for the title.

    Raises:
        ImportError: matplotlib is not installed; the message is the line that installs it.
        DataError: None of the samples that would be shown can be read, or the modality has no picture.
    """
    render(drawing(source, config, SAMPLES), path, name)


def drawing(source: DataSource, config: Config, samples: int) -> Drawing:
    """What there is to see of the first batch of a run, made of `samples` samples.

    Raises:
        DataError: None of them can be read, or the modality has no picture.
    """
    batch = batch_of(source, config, samples)
    modality: Any = registry.get(config.model.modality)
    seen: Drawing = modality.draw(source, config, batch)
    return seen


def batch_of(source: DataSource, config: Config, samples: int) -> Batch:
    """The first batch of a run, on the CPU, if it were made of `samples` samples.

    Raises:
        DataError: None of them can be read.
    """
    config = replace(
        config,
        loader=replace(
            config.loader, batch_size=samples, batch_seconds=None, batch_tokens=None, prefetch=1, accumulation=1
        ),
    )
    with open_loader(config, source) as loader:
        batch: Batch = loader.step(0)[0]
    if len(batch.sample_ids) == 0:
        raise DataError("none of the samples that were drawn can be read: draw others by --seed")
    return batch


def render(seen: Drawing, path: Path | BinaryIO, name: str) -> None:
    """Writes a drawing as a PNG, to a file; `name` stands in front of its title.

    Raises:
        ImportError: matplotlib is not installed; the message is the line that installs it.
    """
    heights = [max(panels.height(panel) for panel in row.panels) for row in seen.rows]
    first = seen.rows[0].panels
    width = 1.55 * max(4, len(first)) if isinstance(first[0], Picture) else 11
    figure = plots.figure(width, sum(heights) + 0.4)
    figure.suptitle(f"{name}: {seen.title}", fontsize=11)
    columns = math.lcm(*(len(row.panels) for row in seen.rows))
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for number, row in enumerate(seen.rows):
        span = columns // len(row.panels)
        for i, panel in enumerate(row.panels):
            axes = figure.add_subplot(grid[number, i * span : (i + 1) * span])
            panels.render(axes, panel)
            if i == 0 and row.label:
                axes.set_ylabel(row.label, fontsize=9)
    figure.savefig(path, dpi=_DPI, format="png", metadata={"Software": SOFTWARE})
