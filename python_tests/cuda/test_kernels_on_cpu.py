"""The CUDA kernels, built by g++ for the simulator: against float64, under the sanitizers, with planted faults."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from cuda_cpu_build import ROOT, run

HERE = Path(__file__).parent
KERNELS = ["ema", "layer_targets"]
SCHEDULES = 100 if os.environ.get("D2V_FAST_SIMULATE") == "all" else 10


def program(builder, form, kernel, include=ROOT / "csrc"):
    if why := builder.missing(form):
        pytest.skip(why)
    return builder.build(form, [include / f"cuda/{kernel}.cu", HERE / f"{kernel}_cases.cpp"], include)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("form", "schedules", "cases"),
    [
        ("plain", SCHEDULES, "all"),
        pytest.param("address", 1, "all", marks=pytest.mark.long),
        pytest.param("thread", 1, "few", marks=pytest.mark.long),
    ],
)
def test_kernels(form, schedules, cases, kernel, builder):
    done = run(program(builder, form, kernel), str(schedules), cases)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


# A piece of the source, which of its occurrences, what stands there instead, the form that finds it, and what it says.
RACE, OVERRUN, WRONG = ("thread", "data race"), ("address", "heap-buffer-overflow"), ("plain", "wrong: ")
FAULTS = {
    "ema: bound of the tail": ("ema.cu", "i < x.size", 0, "i <= x.size", OVERRUN),
    "ema: bound of the quads": (
        "ema.cu",
        "if (i < quads) {\n        mean",
        0,
        "if (i <= quads) {\n        mean",
        OVERRUN,
    ),
    "ema: quads twice": ("ema.cu", "first += kUnroll * kThreads", 0, "first += kThreads", WRONG),
    "ema: chunks that overlap": ("ema.cu", ": kChunk)", 0, ": kChunk + 4)", RACE),
    "ema: no tail": ("ema.cu", "return x.size / 4 * 4;", 0, "return x.size;", WRONG),
    "ema: swapped numbers": ("numbers.h", "encode_pair<T>(x.z, x.w)", 0, "encode_pair<T>(x.w, x.z)", WRONG),
    "layer_targets: barrier after the parts": ("layer_targets.cu", "__syncthreads();", 0, "", RACE),
    "layer_targets: barrier after the statistics": ("layer_targets.cu", "__syncthreads();", 1, "", RACE),
    "layer_targets: barrier before the next layer": ("layer_targets.cu", "__syncthreads();", 2, "", RACE),
    "layer_targets: bound of the rows": ("layer_targets.cu", "r < wanted && left", 0, "r <= wanted && left", OVERRUN),
    "layer_targets: a frame too little room": ("layer_targets.cu", "frames * 16", 0, "(frames - 1) * 16", OVERRUN),
    "layer_targets: swapped lanes": (
        "layer_targets_moments.h",
        "upper ? moments[i + half]",
        0,
        "!upper ? moments[i + half]",
        WRONG,
    ),
    "layer_targets: wrong partner": (
        "layer_targets_moments.h",
        "sent.mean, distance",
        0,
        "sent.mean, distance ^ 6",
        WRONG,
    ),
}


# One that each sanitizer finds, and one that the results show.
SHORT = ("ema: bound of the tail", "ema: chunks that overlap", "layer_targets: swapped lanes")


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in SHORT else pytest.mark.long) for fault in FAULTS]
)
def test_planted_faults_are_found(fault, builder, tmp_path):
    file, piece, occurrence, instead, (form, report) = FAULTS[fault]
    include = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", include, ignore=shutil.ignore_patterns("kernels", "*.cpp"))
    parts = (include / "cuda" / file).read_text().split(piece)
    assert len(parts) > occurrence + 1, f"{piece!r} is no longer in {file}: plant the fault elsewhere"
    changed = piece.join(parts[: occurrence + 1]) + instead + piece.join(parts[occurrence + 1 :])
    (include / "cuda" / file).write_text(changed)
    done = run(program(builder, form, fault.partition(":")[0], include), "3" if form == "plain" else "1", "few")
    assert done.returncode != 0
    assert report in done.stderr
    if form != "plain":
        assert re.search(rf"{re.escape(file)}:\d+|kernel", done.stderr)
