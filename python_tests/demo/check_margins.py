"""Whether a demo's gain over its random initialisation is as large as promised: check_margins.py RUN ...

Exit status 0 if all are, 1 with a line for each one that is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

POINTS = {
    "vision": {"student": 25.0, "teacher": 25.0},
    "spectrogram": {"student": 8.0},  # of speech; its teacher hardly moves from the random start
    "text": {"student": 5.0, "teacher": 5.0},
}
"""Least gain of the kNN accuracy, in points; it must also be three standard errors of it."""


def check(path: Path) -> list[str]:
    """What is missing, one line each."""
    results = json.loads((path / "demo.json" if path.is_dir() else path).read_text())
    missed = []
    for network, least in POINTS[results["modality"]].items():
        gain = results["gain_over_random"][network]["knn"]
        points, error = 100 * gain["mean"], 100 * gain["standard_error"]
        line = f"{results['modality']}: kNN accuracy of the {network} {points:+.1f} points over random, ± {error:.1f}"
        print(line)
        if points < max(least, 3 * error):
            missed.append(f"{line}; at least {least:g} points and 3 standard errors are promised")
    return missed


def main(paths: Sequence[str]) -> int:
    if not paths:
        print("usage: check_margins.py RUN ... (folders of demos, or their demo.json)", file=sys.stderr)
        return 2
    missed = [line for path in paths for line in check(Path(path))]
    for line in missed:
        print(f"MISSED {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
