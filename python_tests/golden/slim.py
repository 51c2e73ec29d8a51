"""Writes a selection of a golden file that is small enough to commit: python slim.py FULL.npz SLIM.npz

Kept: options, batch, starting weights, predictions and targets in float64, the teacher's layer features and some of the
variants made of them, and of gradients and weights after the steps the small tensors.
"""

from __future__ import annotations

import sys

import numpy as np

KEEP = ("meta_json", "batch/", "student0/", "teacher0/", "steps/", "fwd/mask_indices", "fwd/layer_results")
KEEP_DOUBLE = ("fp64/x", "fp64/y", "fp64/loss_sum")
VARIANTS = ("in", "ln", "bn", "inT", "gn")
LARGEST = 100
"""Elements of a gradient or a stepped weight, at most."""


def main(source: str, target: str) -> None:
    """Select and write."""
    full = np.load(source)
    kept = {}
    for key in full.files:
        group, _, rest = key.partition("/")
        stepped = group in ("fp64_grad", "student3", "teacher3") and full[key].size <= LARGEST
        variant = group == "variant" and rest.partition("/")[0] in VARIANTS and rest.endswith(("/y", "/loss_sum"))
        if key.startswith(KEEP) or key in KEEP_DOUBLE or stepped or variant:
            kept[key] = full[key]
    np.savez_compressed(target, **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
