"""What pretraining is worth: pretrained against random weights at one budget, over the number of labels.

    python benchmarks/outcomes.py choose vision speech text recognition --out runs/outcomes  # settings, on the part dev
    python benchmarks/outcomes.py cells vision speech text recognition --out runs/outcomes   # all that is reported
    python benchmarks/outcomes.py longer vision recognition --out runs/outcomes              # more steps
    python benchmarks/outcomes.py table --out runs/outcomes                                  # for docs/outcomes.md
    python benchmarks/outcomes.py choose cells table text --out /tmp/quick --quick           # seconds: that it runs

Each cell is a JSON file; the same command continues after an interruption. There is one pretraining of each modality.
A seed decides which labels there are, the weights of the head (from scratch: of all) and the order of samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from outcomes_data import KINDS, Data, Part, share_of
from outcomes_ngram import write_arpa
from outcomes_table import write_tables

import d2v_fast
from d2v_fast import evaluation, finetuning

SHARES = (0.01, 0.1, 1.0)
SEEDS = (0, 1, 2)
RATES = {"random": (3e-4, 1e-3, 3e-3), "student": (1e-3, 3e-3, 1e-2)}
"""Learning rates that are tried for each kind of start; the teacher has the student's."""

PRETRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "vision": (
        "vision-tiny",
        {
            "model": {"embedding": {"image_size": 28, "patch_size": 4}},
            "inputs": {"mean": (0.286,), "std": (0.353,)},
            "mask": {"block": 3},
            "steps": 2000,
        },
    ),
    "speech": ("speech-tiny", {}),
    "text": (
        "text-tiny",
        {
            "model": {"embedding": {"max_length": 128}},
            "inputs": {"block_size": 128},
            "loader": {"batch_size": 16},
            "scale": False,
        },
    ),
}
"""Preset and what differs from it (text: half as many blocks, twice as long). Recognition starts from speech."""

FINETUNING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vision": ("classify", "classify-tiny", {"steps": 150}),
    "speech": (
        "classify",
        "classify-tiny",
        {"steps": 250, "loader": {"batch_size": 16}},
    ),
    "text": ("classify", "classify-tiny", {"steps": 150, "loader": {"batch_size": 16}}),
    "recognition": (
        "ctc",
        "ctc-tiny",
        {
            "steps": 1000,
            "loader": {"batch_size": 8},
            "encoder": {"frozen_embedding": False},
            "optim": {"warmup": 0.1},
        },
    ),
}
"""Task, recipe and what differs from it; the learning rate and its decay over the layers are chosen."""

LONGER = {"vision": 4, "speech": 4, "text": 4, "recognition": 3}
"""How many times the steps `longer` takes."""

NETWORKS: dict[str, dict[str, Any]] = {
    "random": {"from_scratch": True, "layer_decay": 1.0},
    "student": {"network": "student"},
    "teacher": {"network": "teacher"},
}
"""Where the weights come from. An encoder from scratch learns at one rate in all layers, others as the recipe says."""


class Bench:
    """Where everything lies, and how much of it is done."""

    def __init__(self, out: Path, quick: bool) -> None:
        self.out, self.quick = out, quick
        for name in ("data", "runs", "cells", "dev"):
            (out / name).mkdir(parents=True, exist_ok=True)
        self._data: dict[str, Data] = {}

    def data(self, kind: str) -> Data:
        if kind not in self._data:
            self._data[kind] = KINDS[kind](self.out / "data", self.quick)
        return self._data[kind]

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is in the file of that name; made, with its processor time, if there is none."""
        file = self.out / f"{name}.json"
        if not file.is_file():
            start = time.process_time()
            found = make()
            found["cpu_seconds"] = round(time.process_time() - start, 1)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1))
            part.replace(file)
            print(name, json.dumps(found)[:200], flush=True)
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    def pretrained(self, kind: str) -> Path:
        """The run, trained to its end."""
        kind = "speech" if kind == "recognition" else kind
        preset, settings = PRETRAINING[kind]
        run = self.out / "runs" / f"{kind}-0"
        few = {"steps": 4} if self.quick else {}

        def make() -> dict[str, Any]:
            d2v_fast.pretrain(preset, data=self.data(kind).corpus, out=run, **(settings | few))
            return {"last": d2v_fast.Run(run).metrics()[-1]}

        self.once(f"cells/pretrain-{kind}-0", make)
        return run

    def finetuned(self, kind: str, seed: int, share: float, network: str, lr: float, times: int = 1) -> Path:
        """Fine-tuned on a share of the labels, to the last step: nothing is held out to choose a checkpoint.

        `times` is how many times the usual steps are made.
        """
        task, recipe, settings = FINETUNING[kind]
        part = share_of(self.data(kind).train, share, seed)
        encoder = settings.get("encoder", {}) | NETWORKS[network]
        loader = settings.get("loader", {}) | {"holdout": 0.0}
        steps = {"steps": 4 if self.quick else times * settings["steps"]}
        out = self.out / "runs" / f"{kind}-{seed}-{share:g}-{network}-{lr:g}-{times}"
        chosen = {"encoder": encoder, "loader": loader, "optim": {"lr": lr}, "seed": seed, "checkpoint": {"every": 200}}
        return d2v_fast.finetune(
            self.pretrained(kind),
            task,
            data=part.inputs,
            labels=part.labels,
            out=out,
            recipe=recipe,
            **(settings | chosen | steps),
        )

    def choose(self, kind: str) -> dict[str, Any]:
        """The learning rate of each kind of start, on the part dev, with a tenth of the labels and the first seed.

        Recognition takes its recipe's.
        """
        if kind == "recognition":
            return dict.fromkeys(NETWORKS, finetuning.RECIPES["ctc-tiny"]["optim.lr"])
        found: dict[str, Any] = {}
        for network in ("random", "student"):
            values = {}
            for lr in RATES[network][:1] if self.quick else RATES[network]:

                def make(network: str = network, lr: float = lr) -> dict[str, Any]:
                    run = self.finetuned(kind, SEEDS[0], 0.1, network, lr)
                    return {"dev": judged(run, self.data(kind).dev)}

                values[lr] = self.once(f"dev/{kind}-{network}-{lr:g}", make)["dev"]["accuracy"]
            found[network] = max(values, key=lambda lr: values[lr])
        return found | {"teacher": found["student"]}

    def cells(self, kind: str, seed: int) -> None:
        """Everything that is reported of one kind and seed."""
        data, rates = self.data(kind), self.choose(kind)
        for share in SHARES[-1:] if kind == "recognition" else SHARES:
            for network in NETWORKS:
                if network == "teacher" and (share != 0.1 or kind == "recognition"):
                    continue

                def make(share: float = share, network: str = network) -> dict[str, Any]:
                    run = self.finetuned(kind, seed, share, network, rates[network])
                    found = {"samples": len(share_of(data.train, share, seed)), "lr": rates[network]}
                    return found | self.reported(kind, run)

                self.once(f"cells/{kind}-{share:g}-{network}-{seed}", make)
            if kind != "recognition":
                self.once(f"cells/{kind}-{share:g}-raw-{seed}", lambda share=share: self.raw(kind, seed, share))
        if kind != "recognition":
            self.once(f"cells/{kind}-probe", lambda: self.probed(kind))

    def longer(self, kind: str, seed: int) -> None:
        """More steps: how much of a difference is the short budget's?"""
        for share in SHARES[-1:] if kind == "recognition" else SHARES:
            for network in ("random", "student"):

                def make(share: float = share, network: str = network) -> dict[str, Any]:
                    run = self.finetuned(kind, seed, share, network, self.choose(kind)[network], times=LONGER[kind])
                    return self.reported(kind, run)

                self.once(f"cells/longer-{kind}-{share:g}-{network}-{seed}", make)

    def reported(self, kind: str, run: Path) -> dict[str, Any]:
        """The metrics on test; of recognition also with a model of letters, made of the transcripts of train."""
        data = self.data(kind)
        found = {"test": judged(run, data.test)}
        if kind == "recognition":
            model = self.out / "data" / "letters.arpa"
            write_arpa(model, [" ".join(word) for word in data.train.labels], order=5)
            found["lm"] = judged(run, data.test, beam=50, language_model=str(model), lm_weight=1.0)
        return found

    def raw(self, kind: str, seed: int, share: float) -> dict[str, Any]:
        """Logistic regression on features that need no network; its penalty is chosen on the part dev."""
        from sklearn.linear_model import LogisticRegression

        data = self.data(kind)
        part = share_of(data.train, share, seed)
        x, dev, test = data.raw(part, data.dev, data.test)
        fits = [LogisticRegression(C=c, max_iter=500).fit(x, part.labels) for c in (0.1, 1.0, 10.0)]
        best = max(fits, key=lambda fit: fit.score(dev, data.dev.labels))
        right = best.predict(test) == np.array(data.test.labels)
        return {"samples": len(part), "C": best.C, "test": {"accuracy": float(right.mean())}}

    def probed(self, kind: str) -> dict[str, Any]:
        """Features without fine-tuning, the mean of the last layer; the probes learn from all of train."""
        train, test = self.data(kind).train, self.data(kind).test
        right: dict[str, dict[str, np.ndarray]] = {"knn": {}, "linear": {}}
        for network in ("student", "teacher", "initial"):
            encoder = d2v_fast.load(self.pretrained(kind), network=network)
            x, z = (evaluation.extract(encoder, part.inputs) for part in (train, test))
            right["knn"][network] = evaluation.knn_correct(x, train.labels, z, test.labels)
            right["linear"][network] = evaluation.logistic_correct(x, train.labels, z, test.labels)
        found: dict[str, Any] = {}
        for name, some in right.items():
            found[name] = {network: float(correct.mean()) for network, correct in some.items()}
            difference = some["teacher"].astype(float) - some["student"]
            found[name]["teacher - student"] = float(difference.mean())
            found[name]["standard error"] = float(evaluation.standard_error(difference, test.groups))
        return found


def judged(run: Path, part: Part, **decoding: Any) -> dict[str, Any]:
    """The metrics of a fine-tuned network on a part, with their intervals."""
    network = finetuning.load(run, **decoding)
    found = network.evaluate(part.inputs, labels=part.labels, groups=part.groups, draws=200)
    return found.metrics | {"intervals": found.intervals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["pretrain", "choose", "cells", "longer", "table", *KINDS])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--quick", action="store_true", help="few samples and steps: that it runs")
    args = parser.parse_args()
    bench = Bench(args.out, args.quick)
    for kind in (name for name in KINDS if name in args.what):
        if "choose" in args.what:
            print(kind, "learning rates:", bench.choose(kind), flush=True)
        if "pretrain" in args.what:
            bench.pretrained(kind)
        for seed in args.seeds:
            if "cells" in args.what:
                bench.cells(kind, seed)
            if "longer" in args.what:
                bench.longer(kind, seed)
    if "table" in args.what:
        write_tables(args.out)


if __name__ == "__main__":
    main()
