"""Which numbers of metrics.jsonl are drawn together, and what is normal for each, in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2v_fast.report.svg import COLOURS, Line


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One chart of the page."""

    title: str

    fields: Mapping[str, str]
    """Field of a log line to its name in the legend."""

    unit: str
    """At the vertical axis."""

    normal: str
    """What to look for."""

    zero: bool = True
    """Whether 0 is always on the vertical axis."""

    floor: float | None = None
    """Lower values are drawn here."""


KNOWN = (
    Curve(
        title="Loss",
        fields={"loss": "loss", "validation_loss": "validation"},
        unit="mean of the step",
        normal="In pretraining it says little by itself: the targets move with the teacher. It first falls, and then "
        "often rises two to seven times while the targets gain variance; that is no divergence. In fine-tuning it "
        "falls.",
    ),
    Curve(
        title="Explained variance",
        fields={"explained_smoothed": "mean of the last lines", "explained": "each line"},
        unit="share of the targets' variance",
        normal="Whether anything is learned. It rises and stays high: about 0.9 in runs whose features were good, and "
        "0.22 in one whose features were worse than those of its own random start. 0 is what the mean of the targets "
        "would reach; what is below -1 is drawn there.",
        floor=-1.0,
    ),
    Curve(
        title="Standard deviation",
        fields={"target_std": "targets", "pred_std": "predictions", "local_std": "local features"},
        unit="mean over the channels",
        normal="Steady or rising. Values that fall towards 0 are a collapse: every input looks the same.",
    ),
    Curve(
        title="Effective rank",
        fields={"target_rank": "targets", "pred_rank": "predictions"},
        unit="directions in use",
        normal="Well above 1. Values near 1 are a collapse of another kind: everything lies on one line. The model's "
        "width is the most that there can be.",
    ),
    Curve(
        title="Gradient",
        fields={"grad_norm": "norm"},
        unit="norm before clipping",
        normal="Single peaks are harmless. A norm that keeps growing comes before steps that are not finite: lower "
        "optim.lr, or set optim.clip_norm.",
    ),
    Curve(
        title="Probe",
        fields={
            "probe_linear": "linear",
            "probe_knn": "kNN",
            "probe_linear_initial": "linear, random start",
            "probe_knn_initial": "kNN, random start",
        },
        unit="accuracy",
        normal="What the features are worth on labelled samples (--probe.data). It should leave the random start "
        "behind and go on rising; the explained variance need not rise with it.",
    ),
    Curve(
        title="Directions of the features",
        fields={"probe_rankme": "RankMe", "probe_lidar": "LiDAR"},
        unit="directions",
        normal="Without labels. Between runs of one method, those with more directions tend to be better; a fall to a "
        "few is a collapse. A random network may have many: it is no accuracy.",
    ),
    Curve(
        title="Learning rate",
        fields={"lr": "learning rate"},
        unit="optim.lr after its schedule",
        normal="It rises during optim.warmup and then falls, as its schedule says.",
    ),
    Curve(
        title="Teacher's decay",
        fields={"ema_decay": "decay"},
        unit="share that is kept at a step",
        normal="It rises from ema.start to ema.end during ema.anneal_steps: the teacher follows ever more slowly.",
        zero=False,
    ),
    Curve(
        title="Throughput",
        fields={"samples_per_second": "samples/s"},
        unit="samples per second",
        normal="Steady, but for the first line, which holds the start. A fall that stays is worth a look at the "
        "machine, or at waiting for data.",
    ),
    Curve(
        title="Matrix products",
        fields={"flops_share": "share of the peak"},
        unit="share of what bare products reach",
        normal="Steady. The rest is what is no product: norms, softmax, dropout, the update, waiting. Small models on "
        "small batches stay far below 1.",
    ),
    Curve(
        title="Memory",
        fields={"peak_memory": "bytes"},
        unit="bytes, the most so far",
        normal="Flat after the first lines, or after the first of the longest batches. If it goes on rising, something "
        "is kept that should not be.",
    ),
    Curve(
        title="Waiting for data",
        fields={"data_wait": "share of the time"},
        unit="share of the time",
        normal="Below 0.05. Above, reading holds the steps up: raise loader.threads, or make files that decode faster.",
    ),
    Curve(
        title="Left out",
        fields={"skipped_samples": "samples", "skipped_steps": "steps"},
        unit="number since the start",
        normal="Flat. Samples are left out if they cannot be read, steps if their loss or gradient is not finite.",
    ),
)
"""In the order of the page; a chart without any value is left out, and the last one if all its values are 0."""

_NEVER = {"step", "epoch"}


def present(metrics: Iterable[Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """The charts for which one of the runs has values; a number that is not among `KNOWN` has a chart of its own.

    Args:
        metrics: The log lines of each run.
    """
    named: dict[str, bool] = {}
    for lines in metrics:
        for line in lines:
            for name, value in line.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    named[name] = named.get(name, False) or value != 0
    charts = [curve for curve in KNOWN if any(name in named for name in curve.fields)]
    charts = [curve for curve in charts if "skipped_steps" not in curve.fields or any(map(named.get, curve.fields))]
    known = _NEVER.union(*(curve.fields for curve in KNOWN))
    own = [name for name in named if name not in known]
    return charts + [_own(name) for name in own]


def lines_of(curve: Curve, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Line]:
    """A curve of each run and field that has a value. Colours tell runs apart, or the fields if there is one run.

    Args:
        curve: The chart.
        runs: Name to log lines.
    """
    every = [line for lines in runs.values() for line in lines]
    present = {name for name in curve.fields if any(_value(line.get(name)) is not None for line in every)}
    result = []
    for i, (run, lines) in enumerate(runs.items()):
        for k, (name, label) in enumerate(curve.fields.items()):
            held = [line for line in lines if name in line]
            values = [_value(line[name]) for line in held]
            if curve.floor is not None:
                values = [None if value is None else max(value, curve.floor) for value in values]
            if all(value is None for value in values):
                continue
            words = [run] if len(runs) > 1 else []
            words += [label] if len(present) > 1 or len(runs) == 1 else []
            colour = (i if len(runs) > 1 else k) % COLOURS
            result.append(
                Line(name=", ".join(words), x=[line["step"] for line in held], y=values, colour=colour, dash=k)
            )
    return result


def _own(name: str) -> Curve:
    parts = name.startswith("loss_")
    words = name.replace("_", " ")
    normal = "A part of the loss." if parts else f"`{name}` of metrics.jsonl: a number of this task, as it was logged."
    return Curve(title=words[:1].upper() + words[1:], fields={name: words}, unit=words, normal=normal, zero=False)


def _value(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
