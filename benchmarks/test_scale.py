"""What the data side costs against the size of the corpus, with the exponent that fits and a plot.

Four costs, each in a process of its own (with --quick in this one), CPU seconds and memory beyond what the same
process needs before:

* index: the file of columns is written, names, sizes and places of all samples (their headers are not read).
* first start: the index is opened, and it is decided which samples take part and how they are cut into batches.
* start: both are there, as for a run that continues; the first batch is read.
* plan: 200 batches of the second epoch are planned.

The corpus is as large as it says: the columns are generated, with a name, a length and a place for each sample. All
places are those of 200 clips in one archive, so that whatever is read is really read.

    OMP_NUM_THREADS=1 pytest benchmarks/test_scale.py --benchmark-only --plots FOLDER   # --quick: two small sizes
    D2V_SCALE=1000,10000000 pytest ...                                                  # these sizes
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from d2v_fast import presets, registry
from d2v_fast.config import Config
from d2v_fast.data import LoaderConfig
from d2v_fast.data.computed import ComputedPlan
from d2v_fast.data.index import FILE, Index
from d2v_fast.data.layout import lay_out
from d2v_fast.data.names import Names
from d2v_fast.data.plan import Plan
from d2v_fast.data.protocol import Sampling
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.report import plots

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUICK = (1_000, 20_000)
CLIPS, RATE = 200, 16_000
PARTS = ("index", "first start", "start", "plan")


def config_of() -> Config:
    """Clips in batches by length, as for the Base recipe."""
    config = presets.speech_base()
    return replace(config, loader=replace(config.loader, batch_seconds=95.0, batch_size=47, threads=1, prefetch=1))


def write_archive(folder: Path) -> np.ndarray:
    """Clips of 2 to 4 s in one archive; int64 [CLIPS, 3], first byte, bytes, frames."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for i in range(CLIPS):
            content = BytesIO()
            frames = int(draw.integers(2 * RATE, 4 * RATE))
            soundfile.write(content, draw.integers(-999, 999, frames).astype(np.int16), RATE, format="WAV")
            member = tarfile.TarInfo(f"{i}.wav")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
    with tarfile.open(folder / "clips.tar") as tar:
        found = [(member.offset_data, member.size) for member in tar]
    return np.array([(at, size, (size - 44) // 2) for at, size in found], dtype=np.int64)


def names_of(count: int) -> Names:
    """ "clips.tar/" and a number of nine digits, for each."""
    width = len("clips.tar/000000000.wav") + 1
    text = np.empty((count, width), dtype=np.uint8)
    text[:] = np.frombuffer(b"clips.tar/000000000.wav\0", np.uint8)
    left = np.arange(count)
    for digit in range(9):
        text[:, 18 - digit] = 48 + left % 10
        left //= 10
    return Names(text.reshape(-1)[:-1], np.arange(1, count + 1) * width - 1)


def make_index(folder: Path, count: int) -> None:
    """The index of `count` clips."""
    clips = write_archive(folder / "data")
    chosen = clips[np.random.default_rng(1).integers(0, CLIPS, count)]
    size = (folder / "data" / "clips.tar").stat().st_size
    places = np.stack([np.zeros(count, dtype=np.int64), chosen[:, 0]], axis=1)
    sizes = np.stack([chosen[:, 2], np.full(count, RATE)], axis=1)
    extra = {"files": {"clips.tar": size}, "containers": ["clips.tar"]}
    (folder / "run").mkdir(exist_ok=True)
    notes = {"endings": []}
    Index("speech", names_of(count), chosen[:, 1], sizes, {}, extra, places, notes).save(folder / "run" / FILE)


def part(what: str, folder: Path, count: int) -> None:
    """Does one of `PARTS`."""
    if what == "index":
        make_index(folder, count)
        return
    config = config_of()
    source = open_data(folder / "data", config, folder / "run")
    with open_loader(config, source, first_step=0) as loader:
        if what == "start":
            assert len(loader.step(0)[0].sample_ids) > 10
        if what == "plan":
            for number in range(loader.batches_per_epoch, loader.batches_per_epoch + 200):
                loader._plan.batch(number)


def measured(what: str, folder: Path, count: int, quick: bool) -> dict[str, float]:
    """CPU seconds and peak memory of a part, and its seconds on the clock."""
    if quick:  # a process of its own takes seconds to start
        return measure(what, folder, count)
    done = subprocess.run(
        [sys.executable, __file__, what, str(folder), str(count)], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """The slope of log(cost) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-6)), 1)[0])


@pytest.mark.benchmark(group="scale")
def test_scale(quick, benchmark, note, plots_folder, tmp_path):
    given = os.environ.get("D2V_SCALE")
    sizes = tuple(map(int, given.split(","))) if given else QUICK if quick else SIZES

    def run() -> dict[str, list[dict[str, float]]]:
        return {
            what: [measured(what, tmp_path / str(size), size, quick) for size in sizes]
            for what in (("index", "start") if quick else PARTS)
        }

    taken = benchmark.pedantic(run, rounds=1, iterations=1)
    figure = plots.figure(9, 3.6)
    for place, (field, label) in enumerate((("seconds", "CPU seconds"), ("memory", "bytes beyond the imports"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for i, (what, found) in enumerate(taken.items()):
            values = [one[field] for one in found]
            axes.loglog(sizes, values, "o-", label=f"{what}: {exponent(sizes, values):.2f}", color=plots.COLOURS[i])
        axes.set(title=label, xlabel="samples")
        axes.legend(title="exponent")
    figure.savefig(plots_folder / "scale.png", dpi=120)
    for what, found in taken.items():
        shown = ", ".join(
            f"{size:,}: {one['seconds']:.3f} s ({one['clock']:.2f} s by the clock), {one['memory'] / 1e6:,.0f} MB"
            for size, one in zip(sizes, found, strict=True)
        )
        seconds = [one["seconds"] for one in found]
        note(f"{what}: exponent {exponent(sizes, seconds):.2f}; {shown}", seconds[-1])


def log_normal(count: int) -> np.ndarray:
    """Samples of clips of 2 to 30 s, 9 s in the middle."""
    return (np.clip(np.random.default_rng(0).lognormal(np.log(9), 0.5, count), 2, 30) * RATE).astype(np.int64)


def padding_and_mixing(batches: list[list[np.ndarray]], lengths: np.ndarray) -> tuple[float, float]:
    """The share of two epochs that is padding; the share of pairs of a batch that share one in the second, too."""
    whole = sum(len(ids) * int(lengths[ids].max()) for epoch in batches for ids in epoch)
    valid = sum(int(lengths[ids].sum()) for epoch in batches for ids in epoch)
    place = np.full(len(lengths), -1)
    for number, ids in enumerate(batches[1]):
        place[ids] = number
    pairs = again = 0
    for ids in batches[0]:
        there = place[ids]
        found = np.unique(there[there >= 0], return_counts=True)[1]
        again += int((found * (found - 1)).sum())
        pairs += len(ids) * (len(ids) - 1)
    return 1 - valid / whole, again / pairs


@pytest.mark.benchmark(group="scale")
@pytest.mark.parametrize(("count", "budget"), [(2_000, 120.0), (20_000, 120.0), (200_000, 475.0)])
def test_windows(count, budget, quick, benchmark, note):
    """Batches by length out of windows, which are computed place by place, against an epoch that is sorted anew."""
    count, lengths = (count // 20 if quick else count), log_normal(count // 20 if quick else count)
    inputs, config = SpeechInputs(min_seconds=0), LoaderConfig(batch_seconds=budget, batch_size=count)
    sampling, ids = base_sampling(inputs, config), np.arange(count)

    def epochs(plan: Plan | ComputedPlan) -> list[list[np.ndarray]]:
        each = plan.batches_per_epoch
        return [[plan.batch(epoch * each + k).ids for k in range(each)] for epoch in (0, 1)]

    def run() -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        layout = lay_out(lengths, ids, sampling, config)
        return epochs(ComputedPlan(lengths, layout, sampling, 1, 0)), epochs(Plan(lengths, ids, sampling, config, 0))

    computed, sorted_anew = benchmark.pedantic(run, rounds=1, iterations=1)
    used = np.minimum(lengths, lay_out(lengths, ids, sampling, config).longest)  # of longer clips, windows are taken
    found = [padding_and_mixing(batches, used) for batches in (computed, sorted_anew)]
    (padding, again), (padding_sorted, again_sorted) = found
    note(
        f"{count:,} clips, {budget:g} s, {len(computed[0]):,} batches: padding {padding:.2%} / sorted "
        f"{padding_sorted:.2%}; pairs that meet again {again:.3f} / sorted {again_sorted:.3f}",
        padding,
    )
    assert padding < 0.03 or quick


def base_sampling(inputs: SpeechInputs, config: LoaderConfig) -> Sampling:
    """How the Base recipe samples clips."""
    return registry.get("speech").sampling(inputs, presets.speech_base().model.embedding, config)


def measure(what: str, folder: Path, count: int) -> dict[str, float]:
    """Does a part; what is imported is paid before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, clock = time.process_time(), time.perf_counter()
    part(what, folder, count)
    return {
        "seconds": time.process_time() - cpu,
        "clock": time.perf_counter() - clock,
        "memory": 1024 * max(1, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
