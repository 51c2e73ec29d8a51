"""The tables of docs/outcomes.md and its picture, from the cells of outcomes.py."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

KINDS = {"vision": "pictures", "speech": "spoken words", "text": "texts"}
STARTS = {"raw": "classical baseline", "random": "random weights", "student": "pretrained"}


def write_tables(out: Path) -> None:
    """OUT/outcomes.md, and OUT/outcomes.png where matplotlib is installed. Cells that are missing are shown as such."""
    cells = {file.stem: json.loads(file.read_text()) for file in sorted((out / "cells").glob("*.json"))}
    dev = [json.loads(file.read_text()) for file in sorted((out / "dev").glob("*.json"))]
    hours = sum(cell["cpu_seconds"] for cell in [*cells.values(), *dev]) / 3600
    parts = [
        _labels(cells),
        _labels(cells, "longer-"),
        _recognition(cells),
        _recognition(cells, "longer-"),
        _probes(cells),
        _teacher(cells),
        f"Processor time: {hours:.2f} hours.",
    ]
    (out / "outcomes.md").write_text("\n\n".join(parts) + "\n")
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
    else:
        _draw(cells, out / "outcomes.png")
    print((out / "outcomes.md").read_text())


def _over_seeds(cells: dict[str, Any], name: str, measure: str, part: str = "test") -> list[float]:
    """In percent, of every seed that is done; `name` without it."""
    return [100 * cells[key][part][measure] for key in cells if key.rpartition("-")[0] == name and part in cells[key]]


def _show(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _shares(cells: dict[str, Any], kind: str) -> list[str]:
    found = {key.split("-")[1] for key in cells if key.startswith(f"{kind}-") and key.count("-") == 3}
    return sorted(found, key=float)


def _labels(cells: dict[str, Any], budget: str = "") -> str:
    """Accuracies over labels; `budget` is "longer-" for more steps."""
    lines = []
    for kind, name in KINDS.items():
        for share in _shares(cells, kind):
            count = next(cells[key]["samples"] for key in cells if key.startswith(f"{kind}-{share}-"))
            random, student = (
                _over_seeds(cells, f"{budget}{kind}-{share}-{start}", "accuracy") for start in ("random", "student")
            )
            if random or student:
                raw = _over_seeds(cells, f"{kind}-{share}-raw", "accuracy")
                gain = f"{mean(student) - mean(random):+.1f}" if random and student else "-"
                lines.append([name, f"{float(share):.0%}: {count:,}", *map(_show, (raw, random, student)), gain])
    return _table(["", "labels", *STARTS.values(), "pretrained - random"], lines)


def _recognition(cells: dict[str, Any], budget: str = "") -> str:
    """A line for each seed: a recogniser leaves the blanks or does not, and a mean would be of neither."""
    lines = []
    for key, cell in cells.items():
        if key.startswith(f"{budget}recognition-"):
            start, seed = key.split("-")[-2:]
            values = [f"{100 * cell[part][m]:.1f}" for part in ("test", "lm") for m in ("wer", "cer")]
            lines.append([STARTS[start], seed, *values])
    return _table(["", "seed", "WER, greedy", "CER", "WER, beam and language model", "CER"], lines)


def _probes(cells: dict[str, Any]) -> str:
    lines = []
    for kind, name in KINDS.items():
        for what in ("knn", "linear"):
            found = cells.get(f"{kind}-probe", {}).get(what)
            if found:
                shares = [f"{100 * found[network]:.1f}" for network in ("initial", "student", "teacher")]
                difference = f"{100 * found['teacher - student']:+.1f} ± {100 * found['standard error']:.1f}"
                lines.append([name, what, *shares, difference])
    return _table(["", "probe", "random start", "student", "teacher", "teacher - student"], lines)


def _teacher(cells: dict[str, Any]) -> str:
    lines = []
    for kind, name in KINDS.items():
        values = [_over_seeds(cells, f"{kind}-0.1-{network}", "accuracy") for network in ("student", "teacher")]
        if all(values):
            lines.append([name, *map(_show, values), f"{mean(values[1]) - mean(values[0]):+.1f}"])
    return _table(["", "student", "teacher", "teacher - student"], lines)


def _draw(cells: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = {kind: shares for kind in KINDS if (shares := _shares(cells, kind))}
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(10, 3.2), constrained_layout=True, squeeze=False)
    for axis, (kind, shares) in zip(axes[0], drawn.items(), strict=True):
        for start, label in STARTS.items():
            found = [(float(share), _over_seeds(cells, f"{kind}-{share}-{start}", "accuracy")) for share in shares]
            points = [(100 * share, values) for share, values in found if values]
            if points:
                x, middle = [share for share, _ in points], [mean(values) for _, values in points]
                axis.plot(x, middle, marker="o", label=label, linestyle="--" if start == "raw" else "-")
                low, high = [min(values) for _, values in points], [max(values) for _, values in points]
                axis.fill_between(x, low, high, alpha=0.2)
        axis.set(xscale="log", title=KINDS[kind], xlabel="labels, %")
    axes[0, 0].set_ylabel("accuracy on the test part, %")
    axes[0, 0].legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
