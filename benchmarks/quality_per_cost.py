"""Accuracy against CPU seconds of data2vec 1.0 and 2.0, trained on the data of a demo or on a larger set.

    python benchmarks/quality_per_cost.py vision --out /tmp/quality        # or speech, text
    python benchmarks/quality_per_cost.py vision --data fashion --out /tmp/quality

The two tiny presets of a modality have encoders of the same width and depth. Each is trained at several lengths, every
one with the whole schedule (a checkpoint in the middle of a longer run would be worse), so that both methods show their
best curve. For each method and length the learning rate is the best of a grid, as large for both, on a development
split: a quarter of the labelled training part. Then three seeds are trained with it and judged on the test part, which
nothing was chosen on. "Reaches" means: the mean over the seeds.

CPU seconds are those of the process, all threads, from the making of the trainer to the last checkpoint; loading,
masks, the log and checkpoints are included, imports, the making of the data and the probes are not. Features
are the student's, as in the demo, and so are the probes.

Every run leaves a file in the folder; the same command again goes on with what is missing. `--minutes` begins no run
later than that many CPU minutes. At the end a table and a picture are written, of what there is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullLocator
from quality_data import SETS

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import to_dict, with_overrides
from d2v_fast.demo.task import Labelled, Task, held_out
from d2v_fast.evaluation import extract, knn_correct, logistic_correct
from d2v_fast.presets.scaling import follow
from d2v_fast.report import plots
from d2v_fast.run.weights import load
from d2v_fast.training.trainer import Data2VecTrainer

METHODS = {"1.0": "{}-tiny", "2.0": "{}2-tiny"}
LENGTHS = (1 / 8, 1 / 4, 1 / 2, 1)
"""Of the preset's steps."""

RATES = (1 / 2, 1, 2)
"""Times the preset's learning rate."""

SEEDS = (0, 1, 2)
DEVELOPMENT_SEED = 1000
DEVELOPMENT_SHARE = 0.25
PROBES: dict[str, Callable[..., np.ndarray]] = {"knn": knn_correct, "logistic": logistic_correct}


@dataclass(frozen=True)
class Job:
    """One run."""

    method: str
    steps: int
    rate: float
    seed: int
    split: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.method}-{self.steps:06d}-x{self.rate:g}-{self.split}-{self.seed}.json"


class Study:
    """The runs of a modality, in a folder.

    Args:
        modality: "vision", "speech" or "text".
        data: Name of the set, a key of `SETS[modality]`.
        folder: For the results.
        quick: A few steps of a few samples: that everything runs.
        minutes: CPU minutes after which no run is begun.
        threads: Threads to compute with.
    """

    def __init__(self, modality: str, data: str, folder: Path, *, quick: bool, minutes: float, threads: int) -> None:
        made = SETS[modality][data](modality)
        self.task: Task = made.task
        self.folder, self.name = folder, modality if data == "demo" else f"{modality}, {data}"
        self.recipes = {
            method: follow(presets.preset(name.format(modality)), {**made.changes, **made.own.get(method, {})})[0]
            for method, name in METHODS.items()
        }
        self.lengths, self.rates, self.seeds = (LENGTHS, RATES, SEEDS)
        if quick:
            self.recipes = {method: replace(config, steps=2) for method, config in self.recipes.items()}
            self.lengths, self.rates, self.seeds = (1 / 2, 1), (1, 2), (0, 1)
            few = {part: some(getattr(self.task, part), np.arange(0, 200, 2)) for part in ("train", "test")}
            self.task = replace(self.task, **few)
        self.ends = time.process_time() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(min(threads, self.task.threads or threads))

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """Method to its points, shortest first: steps, rate, and for each seed seconds and each accuracy.

        The longest runs come first, so that a study that ends early has the ends of both curves.
        """
        points: dict[str, list[dict[str, Any]]] = {method: [] for method in self.recipes}
        for share in sorted(self.lengths, reverse=True):
            for method, recipe in self.recipes.items():
                steps = max(1, round(recipe.steps * share))
                grid = [self.done(Job(method, steps, rate, DEVELOPMENT_SEED, "development")) for rate in self.rates]
                if None in grid:
                    continue
                best = max(
                    zip(grid, self.rates, strict=True), key=lambda pair: np.mean(list(pair[0]["accuracy"].values()))
                )[1]
                found = [self.done(Job(method, steps, best, seed, "test")) for seed in self.seeds]
                if None in found:
                    continue
                accuracy = {probe: [one["accuracy"][probe] for one in found] for probe in PROBES}
                seconds = [one["seconds"] for one in found]
                points[method].insert(0, {"steps": steps, "rate": best, "seconds": seconds, "accuracy": accuracy})
        return points

    def config(self, job: Job) -> Config:
        """What a run trains: the preset, what follows from its length, and its learning rate."""
        given = {"steps": job.steps, "seed": job.seed}
        config = with_overrides(follow(self.recipes[job.method], given)[0], given)
        silent = {"checkpoint.every": job.steps, "log.every": job.steps}
        return with_overrides(config, {"optim.lr": job.rate * config.optim.lr, **silent})

    def done(self, job: Job) -> dict[str, Any] | None:
        """The result of a run, from its file or newly trained; None if there is no time left for it."""
        path, config = self.folder / job.name, self.config(job)
        if path.exists():
            result: dict[str, Any] = json.loads(path.read_text())
            if result["config"] != json.loads(json.dumps(to_dict(config))):
                raise SystemExit(f"{path} is of another configuration: choose another --out, or delete it")
            return result
        if time.process_time() > self.ends:
            return None
        with tempfile.TemporaryDirectory() as run:
            began = time.process_time()
            Data2VecTrainer(config, data=self.task.source, out=run, device="cpu").fit()
            seconds = time.process_time() - began
            accuracy = judge(load(run, "student"), config, *self.parts(job.split))
        result = {"job": asdict(job), "seconds": seconds, "accuracy": accuracy, "config": to_dict(config)}
        path.write_text(json.dumps(result))
        shares = ", ".join(f"{probe} {value:.3f}" for probe, value in accuracy.items())
        print(f"{self.name} {job.name.removesuffix('.json')}: {seconds:.1f} CPU s, {shares}", flush=True)
        return result

    def parts(self, split: str) -> tuple[Labelled, Labelled]:
        """What probes are fitted on, and what they are judged by."""
        whole = self.task.train
        if split == "test":
            return whole, self.task.test
        # All of a voice, or a sample by its content.
        names = [str(group).encode() for group in whole.groups] if whole.groups is not None else (
            [sample.tobytes() for sample in whole.inputs]
        )  # fmt: skip
        held = np.array([held_out(b"development" + name, DEVELOPMENT_SHARE) for name in names])
        return some(whole, np.flatnonzero(~held)), some(whole, np.flatnonzero(held))


def judge(encoder: Any, config: Config, fit: Labelled, by: Labelled) -> dict[str, float]:
    """The accuracy of each probe."""
    features = [extract(encoder, part.inputs, config.inputs, positions=part.positions) for part in (fit, by)]
    return {
        name: float(probe(features[0], fit.labels, features[1], by.labels).mean()) for name, probe in PROBES.items()
    }


def some(part: Labelled, chosen: np.ndarray) -> Labelled:
    """A part of the samples."""
    positions, groups = (None if each is None else each[chosen] for each in (part.positions, part.groups))
    return Labelled([part.inputs[i] for i in chosen], part.labels[chosen], part.raw[chosen], positions, groups)


def reached(points: Sequence[dict[str, Any]], probe: str, wanted: float) -> float | None:
    """CPU seconds of the shortest run whose mean over the seeds is as good; None if none is."""
    good = [np.mean(point["seconds"]) for point in points if np.mean(point["accuracy"][probe]) >= wanted]
    return float(min(good)) if good else None


def table(points: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown: each point, and when 2.0 reaches the end of 1.0."""
    lines = [
        "| method | steps | learning rate | CPU s | kNN, % (spread) | logistic, % (spread) |",
        "|---|---|---|---|---|---|",
    ]
    for method, found in points.items():
        for point in found:
            cells = [
                f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"
                for values in point["accuracy"].values()
            ]
            seconds = f"{np.mean(point['seconds']):.1f}"
            lines.append(
                f"| {method} | {point['steps']:,} | x {point['rate']:g} | {seconds} | {cells[0]} | {cells[1]} |"
            )
    if points["1.0"]:
        last = points["1.0"][-1]
        for probe in PROBES:
            wanted, cost = float(np.mean(last["accuracy"][probe])), float(np.mean(last["seconds"]))
            when = reached(points["2.0"], probe, wanted)
            said = "does not reach it" if when is None else f"reaches it in {when:.1f}, {when / cost:.2f} of that"
            lines.append(f"\n{probe}: 1.0 ends at {100 * wanted:.1f} % after {cost:.1f} CPU s; 2.0 {said}.")
    return "\n".join(lines) + "\n"


def draw(points: dict[str, list[dict[str, Any]]], task: Task, path: Path) -> None:
    """Accuracy over CPU seconds: the mean of the seeds, and from the worst to the best of them."""
    figure = plots.figure(9, 3.6)
    figure.suptitle(
        f"{task.label}, {len(task.test)} test samples: accuracy over CPU seconds of the whole run", fontsize=11
    )
    for axes, (probe, function) in zip(figure.subplots(1, 2), PROBES.items(), strict=True):
        for colour, (method, found) in zip(plots.COLOURS, points.items(), strict=False):
            if found:
                seconds = [np.mean(point["seconds"]) for point in found]
                values = 100 * np.array([point["accuracy"][probe] for point in found])
                axes.plot(seconds, values.mean(1), "o-", color=colour, label=f"data2vec {method}")
                axes.fill_between(seconds, values.min(1), values.max(1), color=colour, alpha=0.2, linewidth=0)
        floor = function(task.train.raw, task.train.labels, task.test.raw, task.test.labels).mean()
        axes.axhline(100 * float(floor), color="grey", linewidth=1, linestyle=":", label=task.floor)
        axes.set(xscale="log", xlabel="CPU seconds", ylabel="%")
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
        axes.set_title({"knn": "kNN", "logistic": "logistic regression"}[probe], fontsize=10)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("modality", choices=("vision", "speech", "text"))
    known = sorted({name for sets in SETS.values() for name in sets})
    parser.add_argument("--data", default="demo", choices=known, help="the set (default: what the demo takes)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="CPU minutes after which no run is begun")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    parser.add_argument("--quick", action="store_true", help="a few steps of a few samples: that everything runs")
    given = parser.parse_args(arguments)
    if given.data not in SETS[given.modality]:
        parser.error(f"there is no set {given.data!r} of {given.modality}; choose {', '.join(SETS[given.modality])}")
    folder = given.out / (given.modality if given.data == "demo" else f"{given.modality}-{given.data}")
    study = Study(given.modality, given.data, folder, quick=given.quick, minutes=given.minutes, threads=given.threads)
    points = study.run()
    (folder / "points.json").write_text(json.dumps(points, indent=1))
    (folder / "table.md").write_text(table(points))
    draw(points, study.task, folder / "quality.png")
    print(table(points) + f"{folder / 'quality.png'}, {folder / 'table.md'}")


if __name__ == "__main__":
    main()
