"""What a run has learned: features of samples, and a probe of teacher, student and random start.

    python examples/features.py runs/a labelled/ features.npy

`labelled/` holds a folder for each class, or is a manifest with a column `label`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import d2v_fast
from d2v_fast import evaluation


def main() -> None:
    """Probe, then embed with the network that the probe found better."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a pretraining run")
    parser.add_argument("data", type=Path, help="samples with labels")
    parser.add_argument("out", type=Path, help="where the features go: .npy, .safetensors or .parquet")
    args = parser.parse_args()

    probing = d2v_fast.probe(
        args.run, args.data
    )  # a quarter is held out for the test, a part of the rest chooses layers
    for found in probing.comparisons:
        low, high = found.interval
        print(
            f"{found.what}: {found.first} {found.values[0]:.3f} (layer {found.layers[0]}), {found.second} "
            f"{found.values[1]:.3f} (layer {found.layers[1]}); difference [{low:+.3f}, {high:+.3f}]"
        )
    pair = next(c for c in probing.comparisons if c.what == "linear" and {c.first, c.second} == {"teacher", "student"})
    network = pair.better or "student"  # the papers' choice, where no difference is shown

    d2v_fast.embed(args.run, args.data, out=args.out, network=network)  # streamed: as many samples as there are
    embedded = evaluation.read_embedded(args.out)
    print(f"{args.out}: {network}, {len(embedded.names)} samples, {embedded.features.shape[1]} numbers each")


if __name__ == "__main__":
    main()
