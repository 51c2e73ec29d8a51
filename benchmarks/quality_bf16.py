"""Accuracy after training in float32 and in bfloat16: the tiny presets of data2vec 2.0 as they are, or wider.

    python benchmarks/quality_bf16.py vision speech text --out /tmp/bf16
    python benchmarks/quality_bf16.py vision --out /tmp/bf16 --share 0.25 --set model.transformer.dim=384 ...

Each seed is trained in both formats on the data of the demo (of quality_per_cost.py, with its probes and its text) and
judged on the test part; nothing is chosen. The difference of a seed is paired: the same weights at the start, the same
order and the same masks. Every run leaves a file in the folder; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quality_data import SETS, Data
from quality_per_cost import PROBES, SEEDS, judge, some

from d2v_fast import presets
from d2v_fast.config_json import to_dict, with_overrides
from d2v_fast.presets.scaling import follow
from d2v_fast.run.weights import load
from d2v_fast.training.trainer import Data2VecTrainer

FORMATS = ("float32", "bfloat16")


def trained(
    data: Data, modality: str, format: str, seed: int, share: float, given: Mapping[str, Any]
) -> dict[str, Any]:
    """A run and its accuracy: CPU seconds, the last loss, each probe's share of the test part."""
    recipe = follow(presets.preset(f"{modality}2-tiny"), {**data.changes, **data.own.get("2.0", {})})[0]
    steps = max(1, round(share * recipe.steps))
    changes = {"steps": steps, "seed": seed, **given}
    silent = {"checkpoint.every": steps, "log.every": steps, "precision.autocast": format}
    config = with_overrides(follow(recipe, changes)[0], {**changes, **silent})
    with tempfile.TemporaryDirectory() as run:
        began = time.process_time()
        Data2VecTrainer(config, data=data.task.source, out=run, device="cpu").fit()
        seconds = time.process_time() - began
        accuracy = judge(load(run, "student"), config, data.task.train, data.task.test)
    return {"seconds": seconds, "accuracy": accuracy, "config": to_dict(config)}


def table(found: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]) -> str:
    """As Markdown: each seed, the mean, the mean of the paired differences and its standard error."""
    lines = ["| | probe | float32, % | bfloat16, % | difference | CPU s |", "|---|---|---|---|---|---|"]
    for name, formats in found.items():
        seconds = " / ".join(f"{np.mean([one['seconds'] for one in formats[format]]):.1f}" for format in FORMATS)
        for probe in PROBES:
            values = {f: 100 * np.array([one["accuracy"][probe] for one in formats[f]]) for f in FORMATS}
            cells = [
                f"{values[f].mean():.1f} (" + ", ".join(f"{value:.1f}" for value in values[f]) + ")" for f in FORMATS
            ]
            differences = values["bfloat16"] - values["float32"]
            said = f"{differences.mean():+.1f}"
            if len(differences) > 1:
                said += f" ± {differences.std(ddof=1) / len(differences) ** 0.5:.1f}"
            lines.append(f"| {name} | {probe} | {cells[0]} | {cells[1]} | {said} | {seconds} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modalities", nargs="+", choices=list(SETS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--share", type=float, default=1.0, help="of the preset's steps")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="values are JSON")
    parser.add_argument("--quick", action="store_true", help="two steps, few samples: that it runs")
    args = parser.parse_args(arguments)
    given = {key: json.loads(value) for key, _, value in (one.partition("=") for one in args.set)}
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for modality in args.modalities:
        data = SETS[modality]["demo"](modality)
        if args.quick:
            few = {part: some(getattr(data.task, part), np.arange(0, 200, 2)) for part in ("train", "test")}
            data, args.share = Data(data.task.__class__(**{**vars(data.task), **few}), data.changes, data.own), 1e-9
        name = "-".join([modality, f"{args.share:g}", *sorted(args.set)])
        runs = found.setdefault(" ".join([modality, *args.set]), {format: [] for format in FORMATS})
        for seed in args.seeds:
            for format in FORMATS:
                file = args.out / f"{name}-{format}-{seed}.json".replace("/", "_")
                if not file.is_file():
                    one = trained(data, modality, format, seed, args.share, given)
                    file.write_text(json.dumps(one))
                    print(file.stem, f"{one['seconds']:.1f} s", one["accuracy"], flush=True)
                runs[format].append(json.loads(file.read_text()))
    print(table(found))


if __name__ == "__main__":
    main()
