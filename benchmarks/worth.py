"""What an hour on two cores is worth: features of the small presets beside a random start and beside no network.

    python benchmarks/worth.py try vision --set optim.lr=1e-3 --steps 1000 --out runs/worth   # on the development split
    python benchmarks/worth.py pretrain choose judge finetune vision speech text --out runs/worth
    python benchmarks/worth.py pretrain choose judge finetune vision --steps 2000 --out runs/short
    python benchmarks/worth.py table --out runs/worth                                          # for docs/worth.md
    python benchmarks/worth.py pretrain choose judge finetune table vision --out /tmp/quick --quick

docs/worth.md says what is asked, and was written before the first run. Every run and every figure is a file of its own
in the folder; the same command goes on with what is missing, an interrupted training with its last checkpoint.

* `try`: trains the preset with other settings and judges it on the development questions alone. All of them are listed.
* `pretrain`: the preset as it is, for each seed; or a shorter run of it with `--steps`, which the other tasks are then
  given too. The teacher's decay follows the steps, as `d2v_fast.presets.small.fitted_decay` says, as do warm-ups.
* `choose`: network, probe and floor, on the development questions, with the first seed.
* `judge`: the held-out questions, with what was chosen; and along the first run, for the curve.
* `finetune`: on 1 % and 10 % of the labels of the held-out questions, from the run and from random weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worth_features import NETWORKS, POOLS, PROBES, QUICK, Pair, answers, every_layer, features, labelled, pooled
from worth_parts import Floor, Part, Question, Worth, few, of_labels
from worth_table import write_tables

import d2v_fast
from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import to_dict, with_overrides
from d2v_fast.demo.task import content_hash
from d2v_fast.errors import RunStopped
from d2v_fast.models import Data2Vec
from d2v_fast.presets.scaling import follow, is_given
from d2v_fast.presets.small import fitted_decay
from d2v_fast.run.settings import Notes
from d2v_fast.run.weights import Network
from d2v_fast.training.task import Metrics
from d2v_fast.training.trainer import Data2VecTrainer

SEEDS = (0, 1, 2)
POINTS = 8
"""Of the curve: checkpoints of a run."""

LONGEST = 200
"""Characters of the name of a trial; beyond them stands a hash, as file systems take 255 bytes."""

SHARES = (0.01, 0.1)
RATES = {"random": (3e-4, 1e-3, 3e-3), "student": (3e-4, 1e-3, 3e-3)}
"""Learning rates of a fine-tuning; the best on the development question with 10 % of its labels is taken."""

TUNED = {"random": {"from_scratch": True, "layer_decay": 1.0}, "student": {"network": "student"}}
FINETUNING = 150
"""Steps of a fine-tuning."""

MOST_CHOSEN = 3000
"""Samples of each part of a question for choices that are used, so that the probes of a trial cost less than it."""

MOST_TUNED = 2000
"""Samples that a fine-tuning, the floor beside it and a point of the curve are judged by."""


class CpuSeconds:
    """Adds the CPU seconds of the process to log lines: those of earlier starts, up to their last line, included."""

    every = 1

    def begin(self, config: Config, run: Path, device: torch.device) -> None:
        """See `Observer.begin`."""
        lines = d2v_fast.Run(run).metrics() if (run / "metrics.jsonl").is_file() else []
        self._before = lines[-1].get("cpu_seconds", 0.0) - time.process_time() if lines else -time.process_time()

    def __call__(self, model: Data2Vec) -> Metrics:
        """See `Observer`."""
        return {"cpu_seconds": self._before + time.process_time()}


class Study:
    """A folder with runs and figures."""

    def __init__(self, out: Path, *, quick: bool, steps: int | None = None) -> None:
        self.out, self.quick, self.steps = out, quick, steps
        self._made: dict[str, Worth] = {}

    def data(self, kind: str) -> Worth:
        """Made once; the sound is kept in the folder."""
        if kind not in self._made:
            folder = self.out / "data" / kind
            if kind == "vision":
                from worth_pictures import pictures

                self._made[kind] = pictures(self.quick)
            elif kind == "speech":
                from worth_speech import sound

                self._made[kind] = sound(folder, self.quick)
            else:
                from worth_text import texts

                self._made[kind] = texts(folder, self.quick)
        return self._made[kind]

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is in the file of that name; made if there is none, with the CPU seconds that it took."""
        file = self.out / f"{name}.json"
        if not file.is_file():
            began = time.process_time()
            found = make() | {"seconds": round(time.process_time() - began, 1)}
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(found))
            part.replace(file)
            print(name, json.dumps({key: value for key, value in found.items() if key != "right"})[:300], flush=True)
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    def config(self, kind: str, given: Mapping[str, Any]) -> Config:
        """The preset, what the data asks of it, and what is given."""
        made = self.data(kind)
        steps = 2 * POINTS if self.quick else self.steps
        given = {**made.changes, **({} if steps is None else {"steps": steps}), **given}
        config = follow(presets.preset(made.preset), given)[0]
        ema = fitted_decay(presets.preset(made.preset), config.steps)
        decays = {"ema.start": ema.start, "ema.end": ema.end, "ema.anneal_steps": ema.anneal_steps}
        config = with_overrides(config, {name: value for name, value in decays.items() if not is_given(name, given)})
        every = max(1, config.steps // POINTS)
        often = {"log.every": math.gcd(every, 100)}  # a line at each checkpoint, which says what was spent until then
        return with_overrides(config, {"checkpoint.every": every, "checkpoint.keep": POINTS + 1, **often})

    def trained(self, kind: str, folder: Path, config: Config) -> dict[str, Any]:
        """The run in a folder, trained to its end or until it collapses; its last log line."""
        made = self.data(kind)
        trainer = Data2VecTrainer(
            config, data=made.corpus, out=folder, device="cpu", notes=Notes(preset=made.preset), probe=CpuSeconds()
        )
        stopped = None
        try:
            trainer.fit()
        except RunStopped as stop:
            stopped = str(stop)
        return {"last": d2v_fast.Run(folder).metrics()[-1], "stopped": stopped, "config": to_dict(config)}

    def run(self, kind: str, seed: int) -> Path:
        """The run of a seed, trained."""
        folder, config = self.out / "runs" / f"{kind}-{seed}", self.config(kind, {"seed": seed})
        found = self.once(f"pretrain/{kind}-{seed}", lambda: self.trained(kind, folder, config))
        if found["config"]["steps"] != config.steps:
            raise SystemExit(
                f"{folder} was trained for {found['config']['steps']:,} steps, not {config.steps:,}: give the same "
                "--steps to every task, or another --out"
            )
        return folder

    def tried(self, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Other settings, on the development questions alone."""
        given = {**given, **({} if self.steps is None else {"steps": self.steps})}
        name = ",".join(f"{key}={value}" for key, value in sorted(given.items())) or "preset"
        name = f"{kind}-{name}".replace("/", "_")
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 18]}, {content_hash(name.encode()):016x}"

        def make() -> dict[str, Any]:
            folder = self.out / "tried" / name
            found = self.trained(kind, folder, self.config(kind, given))
            return found | {"given": dict(given), "dev": self.networks(kind, folder, *QUICK)}

        return self.once(f"try/{name}", make)

    def networks(
        self,
        kind: str,
        run: Path,
        names: Sequence[Network],
        pools: Sequence[str] = tuple(POOLS),
        probes: Sequence[str] = tuple(PROBES),
    ) -> dict[str, dict[str, float]]:
        """Accuracy of each network, pooling and probe, the mean over the development questions."""
        dev, found = [few(one, MOST_CHOSEN) for one in self.data(kind).dev], {}
        for name in names:
            layers = [every_layer(run, name, one) for one in dev]
            for pool in pools:
                found[f"{name}: {pool}"] = self.probed(dev, [pooled(pool, pair) for pair in layers], probes)
        return found

    def probed(
        self, questions: Sequence[Question], x: Sequence[Pair], probes: Sequence[str] = tuple(PROBES)
    ) -> dict[str, float]:
        """Accuracy of each probe, the mean over the questions."""
        found = {}
        for name in probes:
            right = [PROBES[name](*labelled(pair, one.fit, one.judge)) for one, pair in zip(questions, x, strict=True)]
            found[name] = float(np.mean([one.mean() for one in right]))
        return found

    def choose(self, kind: str) -> dict[str, Any]:
        """Of features, random start and floors the best variant and probe on the development questions."""

        def make() -> dict[str, Any]:
            made, run = self.data(kind), self.run(kind, SEEDS[0])
            dev = [few(one, MOST_CHOSEN) for one in made.dev]
            tables = {
                "features": self.networks(kind, run, NETWORKS),
                "random": self.networks(kind, run, ["initial"]),
                "floor": {
                    name: self.probed(dev, [floor(one.fit, one.judge) for one in dev])
                    for name, floor in made.floors.items()
                },
            }
            best = {what: max(_flat(table), key=lambda one: one[2])[:2] for what, table in tables.items()}
            return {"dev": tables, "best": best}

        return self.once(f"choose/{kind}", make)

    def judge(self, kind: str, seed: int) -> dict[str, Any]:
        """Which held-out samples are named correctly by each of the three, with what was chosen."""

        def make() -> dict[str, Any]:
            made, best, run = self.data(kind), self.choose(kind)["best"], self.run(kind, seed)
            found: dict[str, Any] = {}
            for one in made.held:
                x = {
                    "features": features(run, best["features"][0], one),
                    "random": features(run, best["random"][0], one),
                    "floor": made.floors[best["floor"][0]](one.fit, one.judge),
                }
                found[one.name] = {what: answers(best[what][1], one, pair) for what, pair in x.items()}
                if one.judge.groups is not None:
                    found[one.name]["groups"] = one.judge.groups.tolist()
            return {"right": found, "accuracy": {name: _accuracies(those) for name, those in found.items()}}

        return self.once(f"judge/{kind}-{seed}", make)

    def curve(self, kind: str) -> dict[str, Any]:
        """Accuracy of the features at each checkpoint of the first run, and the CPU seconds until then."""

        def make() -> dict[str, Any]:
            made, (variant, probe) = self.data(kind), self.choose(kind)["best"]["features"]
            run, held = self.run(kind, SEEDS[0]), [few(one, MOST_TUNED, "judge") for one in made.held]
            spent = {line["step"]: line["cpu_seconds"] for line in d2v_fast.Run(run).metrics()}
            points = []
            for step in d2v_fast.Run(run).checkpoints():
                folder = run / "checkpoints" / f"step_{step:08d}"
                seconds = next(value for at, value in sorted(spent.items()) if at >= step)
                right = {one.name: answers(probe, one, features(folder, variant, one)) for one in held}
                accuracy = {name: float(np.mean([c == "1" for c in those])) for name, those in right.items()}
                points.append({"step": step, "cpu_seconds": seconds, "accuracy": accuracy})
            return {"points": points}

        return self.once(f"curve/{kind}", make)

    def finetune(self, kind: str, seed: int) -> None:
        """Fine-tuned on shares of the labels from the run and from random weights, and the floor with the same ones."""
        made = self.data(kind)
        rates = {start: self.rate(kind, start) for start in TUNED}
        floor, probe = self.choose(kind)["best"]["floor"]
        for one in (few(one, MOST_TUNED, "judge") for one in made.held):
            for share in SHARES:
                fit = of_labels(one.fit, share, seed)
                name = f"finetune/{kind}-{one.name}-{share:g}"
                for start, lr in rates.items():
                    self.once(f"{name}-{start}-{seed}", partial(self.tuned_once, kind, seed, start, lr, one, fit))
                self.once(f"{name}-floor-{seed}", partial(floor_once, PROBES[probe], made.floors[floor], one, fit))

    def rate(self, kind: str, start: str) -> float:
        """The best learning rate of a start, on the first development question with a tenth of its labels."""

        def make() -> dict[str, Any]:
            one = few(self.data(kind).dev[0], MOST_TUNED, "judge")
            fit = of_labels(one.fit, 0.1, SEEDS[0])
            rates = RATES[start][:1] if self.quick else RATES[start]
            return {"dev": {str(lr): self.tuned(kind, SEEDS[0], start, lr, one, fit) for lr in rates}}

        found: dict[str, float] = self.once(f"finetune-dev/{kind}-{start}", make)["dev"]
        return float(max(found, key=lambda lr: found[lr]))

    def tuned_once(self, kind: str, seed: int, start: str, lr: float, one: Question, fit: Part) -> dict[str, Any]:
        """What `tuned` reaches, and with what."""
        return {"accuracy": self.tuned(kind, seed, start, lr, one, fit), "lr": lr, "samples": len(fit)}

    def tuned(self, kind: str, seed: int, start: str, lr: float, question: Question, fit: Part) -> float:
        """Accuracy after a fine-tuning to its last step; nothing is held out to choose a checkpoint."""
        name, judge = f"{kind}-{seed}-{question.name}-{len(fit)}-{start}-{lr:g}", question.judge
        run = d2v_fast.finetune(
            self.run(kind, seed),
            "classify",
            data=fit.inputs,
            labels=fit.labels.tolist(),
            out=self.out / "tuned" / name,
            recipe="classify-tiny",
            steps=4 if self.quick else FINETUNING,
            loader={"batch_size": 16, "holdout": 0.0},
            optim={"lr": lr},
            encoder=TUNED[start],
            seed=seed,
            checkpoint={"every": FINETUNING},
        )
        found = d2v_fast.finetuning.load(run).evaluate(judge.inputs, labels=judge.labels.tolist(), draws=2)
        accuracy = found.metrics["accuracy"]
        assert accuracy is not None, "every sample has a label"
        return accuracy


def floor_once(probe: Callable[..., np.ndarray], floor: Floor, one: Question, fit: Part) -> dict[str, Any]:
    """What a probe of the raw features reaches with the labels of `fit`."""
    right = probe(*labelled(floor(fit, one.judge), fit, one.judge))
    return {"accuracy": float(right.mean()), "samples": len(fit)}


def _accuracies(those: Mapping[str, Any]) -> dict[str, float]:
    return {what: float(np.mean([c == "1" for c in right])) for what, right in those.items() if what != "groups"}


def _flat(table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, float]]:
    return [(variant, probe, value) for variant, row in table.items() for probe, value in row.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds, tasks = ("vision", "speech", "text"), ("try", "pretrain", "choose", "judge", "finetune", "table")
    parser.add_argument("what", nargs="+", choices=[*tasks, *kinds])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of `try`; values are JSON")
    parser.add_argument("--steps", type=int, help="of a pretraining; the preset's if not given")
    parser.add_argument("--quick", action="store_true", help="few samples and steps: that it runs")
    args = parser.parse_args(arguments)
    study = Study(args.out, quick=args.quick, steps=args.steps)
    given = {key: json.loads(value) for key, _, value in (one.partition("=") for one in args.set)}
    for kind in (kind for kind in kinds if kind in args.what):
        if "try" in args.what:
            study.tried(kind, given)
        for seed in args.seeds if "pretrain" in args.what else ():
            study.run(kind, seed)
        if "choose" in args.what:
            study.choose(kind)
        for seed in args.seeds if "judge" in args.what else ():
            study.judge(kind, seed)
        if "judge" in args.what:
            study.curve(kind)
        for seed in args.seeds if "finetune" in args.what else ():
            study.finetune(kind, seed)
    if "table" in args.what:
        write_tables(args.out)


if __name__ == "__main__":
    main()
