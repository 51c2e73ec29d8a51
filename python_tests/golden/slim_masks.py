"""Writes a selection of a file of masks that is small enough to commit: python slim_masks.py FULL.npz SLIM.npz

Of each setting: its options, its first rows, and histograms and frequencies over all rows, as numbers of rows.
"""

from __future__ import annotations

import json
import sys

import numpy as np

ROWS = 32
OPTIONS = (
    "dims",
    "L",
    "mask_prob",
    "mask_prob_adjust",
    "mask_length",
    "inverse_mask",
    "rows",
    "rows_seed",
    "stat_rows",
)
OPTIONS += ("n_masked",)


def main(source: str, target: str) -> None:
    """Select and write."""
    full = np.load(source)
    meta = json.loads(str(full["meta_json"]))
    kept: dict[str, np.ndarray] = {}
    settings = {name: {key: options[key] for key in OPTIONS} for name, options in meta.items() if "L" in options}
    kept["meta_json"] = np.array(json.dumps(settings))
    for key in full.files:
        name, _, part = key.partition("/")
        if part == "rows_packed":
            kept[key] = full[key][:ROWS]
        elif part.startswith("position_frequency"):
            kept[f"{name}/{part.replace('frequency', 'count')}"] = np.rint(
                full[key] * settings[name]["stat_rows"]
            ).astype(np.uint16)
        elif part.endswith("_hist"):
            kept[key] = full[key].astype(np.uint32)
    np.savez_compressed(target, **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
