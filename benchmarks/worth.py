"""What an hour on two cores is worth: features of the small presets beside a random start and beside no network.

    python benchmarks/worth.py try vision --set optim.lr=1e-3 --steps 1000 --out runs/worth   # on the development split
    python benchmarks/worth.py pretrain choose judge finetune vision speech text --out runs/worth
    python benchmarks/worth.py pretrain choose judge finetune vision --steps 2000 --out runs/short
    python benchmarks/worth.py table --out runs/worth                                          # for docs/worth.md
    python benchmarks/worth.py pretrain choose judge finetune table vision --out /tmp/quick --quick

docs/worth.md says what is asked, and was written before the first run. Every run and every figure is a file of its own
in the folder; the same command goes on with what is missing, an interrupted training with its last checkpoint.

* `try`: trains the preset with other settings and judges it on the questions for choices alone. All of them are listed.
* `pretrain`: the preset as it is, for each seed; or a shorter run of it with `--steps`, which the other tasks are then
  given too. The teacher's decay follows the steps, as `d2v_fast.presets.small.fitted_decay` says, as do warm-ups.
* `choose`: network, pooling, probe and floor for each question, on its counterpart for choices, with the first seed.
* `judge`: the held-out questions, with what was chosen; and along the first run, for the curve.
* `finetune`: on 1 % and 10 % of the labels of the held-out questions, from the run and from random weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worth_features import NETWORKS, POOLS, PROBES, QUICK, Pair, answers, every_layer, features, labelled, pooled
from worth_parts import MOST_TUNED, SEEDS, Question, Worth, few
from worth_table import write_tables
from worth_tuning import Tuning

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

POINTS = 8
"""Of the curve: checkpoints of a run."""

LONGEST = 200
"""Characters of the name of a trial; beyond them stands a hash, as file systems take 255 bytes."""

MOST_CHOSEN = 3000
"""Samples of each part of a question for choices that are used, so that the probes of a trial cost less than it."""


Table = dict[str, dict[str, float]]
"""Accuracy of a variant ("network: pooling", or a floor) and a probe."""


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
        """Other settings, on the questions for choices alone."""
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
    ) -> dict[str, Table]:
        """For each question for choices the accuracy of each network, pooling and probe."""
        found: dict[str, Table] = {}
        for one in (few(one, MOST_CHOSEN) for one in self.data(kind).dev):
            table = found[one.name] = {}
            for name in names:
                layers = every_layer(run, name, one)
                for pool in pools:
                    table[f"{name}: {pool}"] = probed(one, pooled(pool, layers), probes)
        return found

    def choose(self, kind: str) -> dict[str, Any]:
        """Of features, random start and floors the best variant and probe on each question for choices."""

        def make() -> dict[str, Any]:
            made, run = self.data(kind), self.run(kind, SEEDS[0])
            features_of, random_of = self.networks(kind, run, NETWORKS), self.networks(kind, run, ["initial"])
            tables = {
                one.name: {
                    "features": features_of[one.name],
                    "random": random_of[one.name],
                    "floor": {name: probed(one, floor(one.fit, one.judge)) for name, floor in made.floors.items()},
                }
                for one in (few(one, MOST_CHOSEN) for one in made.dev)
            }
            best = {
                question: {what: max(_flat(table), key=lambda one: one[2])[:2] for what, table in those.items()}
                for question, those in tables.items()
            }
            return {"dev": tables, "best": best}

        return self.once(f"choose/{kind}", make)

    def chosen(self, kind: str, question: Question) -> dict[str, tuple[str, str]]:
        """Variant and probe of features, random start and floor for a held-out question."""
        best: dict[str, tuple[str, str]] = self.choose(kind)["best"][question.chosen_on]
        return best

    def floors(self, kind: str) -> dict[str, dict[str, str]]:
        """For each held-out question which samples every floor names correctly by every probe ("floor: probe")."""

        def make() -> dict[str, Any]:
            made, found = self.data(kind), dict[str, dict[str, str]]()
            for one in made.held:
                pairs = {name: floor(one.fit, one.judge) for name, floor in made.floors.items()}
                found[one.name] = {
                    f"{name}: {probe}": answers(probe, one, pair) for name, pair in pairs.items() for probe in PROBES
                }
            return {"right": found}

        right: dict[str, dict[str, str]] = self.once(f"floors/{kind}", make)["right"]
        return right

    def judge(self, kind: str, seed: int) -> dict[str, Any]:
        """Which held-out samples are named correctly by each of the three, with what was chosen."""

        def make() -> dict[str, Any]:
            made, run = self.data(kind), self.run(kind, seed)
            found: dict[str, Any] = {}
            for one in made.held:
                best = self.chosen(kind, one)
                found[one.name] = {
                    what: answers(best[what][1], one, features(run, best[what][0], one))
                    for what in ("features", "random")
                }
                floors = self.floors(kind)[one.name]
                found[one.name]["floor"] = floors[": ".join(best["floor"])]
                found[one.name]["best floor"] = max(floors.values(), key=lambda right: right.count("1"))
                if one.judge.groups is not None:
                    found[one.name]["groups"] = one.judge.groups.tolist()
            return {"right": found, "accuracy": {name: _accuracies(those) for name, those in found.items()}}

        return self.once(f"judge/{kind}-{seed}", make)

    def curve(self, kind: str) -> dict[str, Any]:
        """Accuracy of the features at each checkpoint of the first run, and the CPU seconds until then."""

        def make() -> dict[str, Any]:
            run, held = self.run(kind, SEEDS[0]), [few(one, MOST_TUNED, "judge") for one in self.data(kind).held]
            spent = {line["step"]: line["cpu_seconds"] for line in d2v_fast.Run(run).metrics()}
            points = []
            for step in d2v_fast.Run(run).checkpoints():
                folder = run / "checkpoints" / f"step_{step:08d}"
                seconds = next(value for at, value in sorted(spent.items()) if at >= step)
                accuracy = {}
                for one in held:
                    variant, probe = self.chosen(kind, one)["features"]
                    right = answers(probe, one, features(folder, variant, one))
                    accuracy[one.name] = float(np.mean([c == "1" for c in right]))
                points.append({"step": step, "cpu_seconds": seconds, "accuracy": accuracy})
            return {"points": points}

        return self.once(f"curve/{kind}", make)


def probed(question: Question, x: Pair, probes: Sequence[str] = tuple(PROBES)) -> dict[str, float]:
    """Accuracy of each probe."""
    return {name: float(PROBES[name](*labelled(x, question.fit, question.judge)).mean()) for name in probes}


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
            Tuning(study).finetune(kind, seed)
    if "table" in args.what:
        write_tables(args.out)


if __name__ == "__main__":
    main()
