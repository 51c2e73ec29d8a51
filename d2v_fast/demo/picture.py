"""The picture of a demo: loss, monitors, accuracies, masks on samples, and a map of the features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d2v_fast.data.own import SOFTWARE
from d2v_fast.demo.outcome import Outcome
from d2v_fast.demo.report import PROBE_NAMES, names, summary
from d2v_fast.demo.task import require
from d2v_fast.modalities.drawing import Picture
from d2v_fast.report import panels, plots
from d2v_fast.report.samples import drawing
from d2v_fast.run.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, DPI = 11.0, 6.2, 100
"""Inches, and dots in an inch: 1100 x 620 pixels."""

_SAMPLES = 12
"""In the batch whose masks are shown."""


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the picture, a PNG of WIDTH * DPI by HEIGHT * DPI pixels."""
    lines = Run(outcome.folder).metrics()
    figure = plots.figure(WIDTH, HEIGHT)
    grid = figure.add_gridspec(2, 12)

    def panel(row: int, first: int, last: int) -> Axes:
        return figure.add_subplot(grid[row, first:last])

    plots.curves(panel(0, 0, 3), lines, {"loss": "loss"}, title="Loss", unit="per masked position")
    plots.curves(
        panel(0, 3, 6),
        lines,
        {"target_std": "targets", "pred_std": "predictions", "local_std": "local features"},
        title="Standard deviation",
        unit="mean over channels",
    )
    plots.curves(
        panel(0, 6, 9),
        lines,
        {"target_rank": "targets", "pred_rank": "predictions"},
        title=f"Effective rank (of {outcome.config.model.transformer.dim})",
        unit="rank",
    )
    plots.accuracy_bars(panel(0, 9, 12), _bars(outcome), title=f"{outcome.task.label.capitalize()}, {_size(outcome)}")
    _masks(panel(1, 0, 4), outcome)
    count = min(10, len(outcome.task.classes))
    for axes, name in ((panel(1, 4, 8), "random"), (panel(1, 8, 12), "student")):
        points, labels = _map(outcome, name)
        title = f"Features, {names(outcome)[name]} (t-SNE)"
        plots.feature_map(axes, points, labels, outcome.task.classes, title=title)
    handles, legend = axes.get_legend_handles_labels()
    style = {"frameon": False, "fontsize": "small", "markerscale": 2}
    figure.legend(handles, legend, loc="outside lower right", ncols=count, **style)
    figure.savefig(path, dpi=DPI, metadata={"Software": SOFTWARE})


def _size(outcome: Outcome) -> str:
    return f"{len(outcome.task.test)} test samples"


def _bars(outcome: Outcome) -> dict[str, dict[str, tuple[float, float]]]:
    accuracy: dict[str, Any] = summary(outcome)["accuracy"]
    short = {**names(outcome), "random": "random init."}
    return {
        short[key]: {PROBE_NAMES[probe]: (e["mean"], e["standard_error"]) for probe, e in accuracy[key].items()}
        for key in accuracy
    }


def _masks(axes: Axes, outcome: Outcome) -> None:
    """The masks of a first step: pictures whole and masked side by side, or one sample of other kinds."""
    seen = drawing(outcome.task.source, outcome.config, _SAMPLES)
    number = next(i for i, row in enumerate(seen.rows) if row.panels[0].mask is not None)
    masked, first = seen.rows[number].panels, seen.rows[number].panels[0]
    if not isinstance(first, Picture):
        panels.render(axes, replace(first, title=""), columns=48)
        axes.set_title("What the student sees (grey: masked)")
        return
    both = zip(seen.rows[number - 1].panels, masked, strict=True)
    pairs = [panel for pair in both for panel in pair if isinstance(panel, Picture)]
    masks = np.stack([np.zeros_like(first.mask) if p.mask is None else p.mask for p in pairs])
    title = "What teacher, student see (grey: masked)"
    plots.masked_pictures(axes, np.stack([p.pixels for p in pairs]), masks, columns=6, title=title)


def _map(outcome: Outcome, name: str) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE of the standardised test features of the first ten classes: float [N, 2] and labels [N]."""
    labels = outcome.task.test.labels
    chosen = labels < len(plots.COLOURS)
    features = outcome.features[name][chosen].astype(np.float64)
    features = (features - features.mean(0)) / (features.std(0) + 1e-12)
    perplexity = min(30.0, (len(features) - 1) / 3)
    tsne = require("sklearn.manifold").TSNE(perplexity=perplexity, init="pca", random_state=0, metric="cosine")
    return tsne.fit_transform(features), labels[chosen]
