"""Writes a selection of a golden file that is small enough to commit: python slim.py FULL.npz SLIM.npz

Kept: options, batch, starting weights, predictions and targets in float64, the teacher's layer features and some of the
variants made of them, and of gradients and weights after the steps the small tensors.
"""

from __future__ import annotations

import json
import sys

import numpy as np

KEEP_GROUPS = ("meta_json", "batch", "student0", "teacher0")
KEEP = ("fwd/mask_indices", "fwd/layer_results", "fp64/x", "fp64/y", "fp64/loss_sum", "fp64/loss")
KEEP_SECOND = ("ids_keep", "ids_restore", "mask_noise", "pred_var", "target_var")
"""Of data2vec 2.0, in "fwd/"."""
KEEP_STEPS = ("loss", "loss_sum", "gnorm", "ema_decay", "mask_noise")
VARIANTS = ("in", "ln", "bn", "inT", "gn", "ln+lnT")
LARGEST = 100
"""Elements of a gradient or a stepped weight, at most."""


def main(source: str, target: str) -> None:
    """Select and write."""
    full = np.load(source)
    kept = {}
    main_variant = json.loads(str(full["meta_json"]))["main_variant"]
    for key in full.files:
        group, _, rest = key.partition("/")
        # idxkept/*: the published vision code's steps without the damage to its teacher's index table.
        name = rest if group == "idxkept" else key
        weights = name.partition("/")[0] in ("fp64_grad", "student3", "teacher3") and full[key].size <= LARGEST
        step = (group == "steps" and rest in KEEP_STEPS) or name == "steps_loss"
        variant = group == "variant" and rest.partition("/")[0] in VARIANTS
        variant = variant and rest.endswith(("/y", "/loss_sum", "/loss"))
        second = (group == "fwd" and rest in KEEP_SECOND) or key.startswith(f"variant/{main_variant}/loss/")
        if group in KEEP_GROUPS or key in KEEP or weights or step or variant or second:
            kept[key] = full[key]
    np.savez_compressed(target, **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
