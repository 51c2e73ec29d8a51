"""The tables of docs/worth.md and its picture, from the files that worth.py has written; and the standard errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 2000
"""Of the bootstrap."""

JUDGED = ("features", "random", "floor", "best floor")
"""What is held against each other."""


def bootstrap(difference: np.ndarray, groups: Sequence[str] | None = None, *, draws: int = DRAWS) -> float:
    """Standard error of a mean by bootstrap over samples, or over whole groups.

    Args:
        difference: [N], of each test sample: right by one (1 or 0) minus right by the other.
        groups: [N], what each sample belongs to; None: each is a group of its own.
        draws: Samples that are drawn.
    """
    _, which = np.unique(groups if groups is not None else np.arange(len(difference)), return_inverse=True)
    sums, counts = np.bincount(which, weights=difference), np.bincount(which)
    random = np.random.default_rng(0)
    times = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    return float(((times @ sums) / (times @ counts)).std(ddof=1))


def compared(judged: Sequence[dict[str, Any]], question: str, other: str) -> dict[str, float]:
    """The features against another kind, over the seeds.

    Returns:
        "difference" of the accuracies; "within", its standard error by bootstrap in a seed, the mean over the seeds;
        "seeds", its standard error over the seeds (0 for one seed), which says what another run would give.
    """
    differences, errors = [], []
    for found in judged:
        those = found["right"][question]
        a, b = (np.array([c == "1" for c in those[what]], dtype=float) for what in ("features", other))
        differences.append(float((a - b).mean()))
        errors.append(bootstrap(a - b, those.get("groups")))
    count = len(differences)
    seeds = float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return {"difference": float(np.mean(differences)), "within": float(np.mean(errors)), "seeds": seeds}


def verdict(found: dict[str, float]) -> str:
    """Whether a difference is more than two standard errors, of either kind."""
    error = max(found["within"], found["seeds"])
    return "better" if found["difference"] > 2 * error else "worse" if found["difference"] < -2 * error else "not shown"


def write_tables(out: Path) -> None:
    """OUT/worth.md, and OUT/worth.png where matplotlib is installed; of what there is."""
    files = {
        what: {file.stem: json.loads(file.read_text()) for file in sorted((out / what).glob("*.json"))}
        for what in ("try", "pretrain", "choose", "judge", "curve", "finetune")
    }
    parts = [_held(files), _chosen(files), _finetuned(files), _tried(files)]
    (out / "worth.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
    elif files["curve"]:
        _draw(files, out / "worth.png")
    print((out / "worth.md").read_text())


def _of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for name, one in found.items() if name.rpartition("-")[0] == kind]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _held(files: dict[str, dict[str, Any]]) -> str:
    lines = []
    for kind in files["choose"]:
        judged, spent = _of(files["judge"], kind), _of(files["pretrain"], kind)
        minutes = np.mean([one["last"]["cpu_seconds"] / 60 for one in spent]) if spent else float("nan")
        steps = " / ".join(sorted({f"{one['last']['step']:,}" for one in spent}))
        for question in judged[0]["right"] if judged else ():
            mean = {what: np.mean([one["accuracy"][question][what] for one in judged]) for what in JUDGED}
            cells = []
            for other in JUDGED[1:]:
                found = compared(judged, question, other)
                cells += [
                    f"{100 * found['difference']:+.1f} ± {_percent(found['within'])} ± {_percent(found['seeds'])}",
                    verdict(found),
                ]
            means = [_percent(mean[what]) for what in JUDGED]
            lines.append([kind, question, str(len(judged)), steps, f"{minutes:.1f}", *means, *cells])
    head = ["", "question", "seeds", "steps", "CPU minutes", "features, %", *JUDGED[1:]]
    differences = [cell for other in JUDGED[1:] for cell in (f"- {other}", "")]
    return _rows([*head, *differences], lines) if lines else ""


def _chosen(files: dict[str, dict[str, Any]]) -> str:
    lines, probes = [], list[str]()
    for found in files["choose"].values():
        for question, best in found["best"].items():
            for what, (taken, probe) in best.items():
                for variant, row in found["dev"][question][what].items():
                    probes = list(row)
                    cells = [*map(_percent, row.values()), probe if taken == variant else ""]
                    lines.append([question, what, variant, *cells])
    return _rows(["for choices", "", "", *probes, "taken, by"], lines) if lines else ""


def _finetuned(files: dict[str, dict[str, Any]]) -> str:
    names = sorted({name.rpartition("-")[0].rpartition("-")[0] for name in files["finetune"]})
    lines = []
    for name in names:
        of = {
            start: [one["accuracy"] for key, one in files["finetune"].items() if key.startswith(f"{name}-{start}-")]
            for start in ("student", "random", "floor")
        }
        samples = next(one["samples"] for key, one in files["finetune"].items() if key.startswith(f"{name}-"))
        cells = [
            f"{_percent(np.mean(values))} ± {_percent(np.std(values, ddof=1) if len(values) > 1 else 0)}"
            for values in of.values()
            if values
        ]
        lines.append([name, f"{samples:,}", *cells])
    return _rows(["fine-tuned", "labels", "pretrained", "from scratch", "floor"], lines) if lines else ""


def _tried(files: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, found in files["try"].items():
        last, dev = found["last"], []
        for question, table in found["dev"].items():
            best = max((value, network, probe) for network, row in table.items() for probe, value in row.items())
            dev.append(f"{question} {_percent(best[0])} ({best[1]}; {best[2]})")
        cells = [f"{last['step']:,}", f"{last['cpu_seconds']:.0f}", ", ".join(dev)]
        given = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(found["given"].items())) or "the preset"
        lines.append([f"{name.partition('-')[0]}: {given}", *cells, found["stopped"] or ""])
    return _rows(["tried", "steps", "CPU s", "for choices, %", "stopped"], lines) if lines else ""


def _draw(files: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy against CPU minutes for each held-out question, with random start and floor as lines."""
    from d2v_fast.report import plots

    kinds = list(files["curve"])
    questions = {kind: list(files["curve"][kind]["points"][0]["accuracy"]) for kind in kinds}
    columns = max(map(len, questions.values()))
    figure = plots.figure(4.6 * columns, 3.2 * len(kinds))
    places = np.atleast_2d(figure.subplots(len(kinds), columns, squeeze=False))
    for row, kind in zip(places, kinds, strict=True):
        points, judged = files["curve"][kind]["points"], _of(files["judge"], kind)
        for axes, question in zip(row, questions[kind], strict=False):
            minutes = [point["cpu_seconds"] / 60 for point in points]
            values = [100 * point["accuracy"][question] for point in points]
            axes.plot(minutes, values, "o-", color=plots.COLOURS[0], label="features")
            for what, style in (("random", ":"), ("floor", "--")):
                level = 100 * np.mean([one["accuracy"][question][what] for one in judged])
                axes.axhline(level, color="grey", linestyle=style, label={"random": "random start"}.get(what, what))
            axes.set(xlabel="CPU minutes", ylabel="%", title=f"{kind}: {question}")
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
