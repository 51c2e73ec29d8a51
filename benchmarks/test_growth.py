"""What a step costs against batch, length, depth, width and views: a plot of each with the exponent that fits.

The step is the trainer's, from a batch in memory to the moved teacher, float32. Time is the CPU time of one thread, the
median of rounds in which all sizes of one axis take turns. The exponent is the slope of the line through log(cost) over
log(size); beside it that of the FLOPs of the matrix products, and the time's at the last step of the axis, where fixed
costs count least. Where FLOPs grow faster than time, small sizes pay for overhead; where time grows faster, something
other than products does.

    OMP_NUM_THREADS=1 pytest benchmarks/test_growth.py --benchmark-only --plots FOLDER   # --quick: tiny sizes
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from whole_steps import flops, in_turn, make_batch

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.report import plots
from d2v_fast.run.metrics import Clock
from d2v_fast.training.loop import Loop
from d2v_fast.training.pretraining_task import PretrainingTask

ROUNDS = 3

CASES = {"speech": (presets.speech_base, presets.speech2_base), "text": (presets.text_base, presets.text2_base)}

SIZES = {
    "batch": (1, 2, 4, 8),
    "length": (0.5, 1, 2, 4),
    "depth": (2, 4, 8, 16),
    "width": (128, 256, 512, 1024),
    "views": (1, 2, 4, 8, 16),
}
"""Length in units of 2.5 s of sound or 128 tokens. Off its axis each is: 2 samples, 1 unit, 4 blocks, 256 channels."""

QUICK = {"batch": (1, 4), "length": (0.5, 2), "depth": (2, 4), "width": (32, 64), "views": (1, 3)}

UNITS = {"speech": ("clips", "s of sound", 2.5), "text": ("texts", "tokens", 128)}


def step_of(case: str, quick: bool, axis: str, size: float) -> Callable[[], object]:
    """A step of 1.0, or with several views of 2.0, at one point of an axis."""
    at = {"batch": 2, "length": 1, "depth": 4, "width": 256, "views": 0} | ({"depth": 2, "width": 32} if quick else {})
    at[axis] = size
    batch, depth, width, views = (int(at[name]) for name in ("batch", "depth", "width", "views"))
    config: Config = CASES[case][views > 0]()
    model = config.model
    prenet = min(model.transformer.prenet, depth - 1)
    heads = max(1, width // 64)
    transformer = replace(
        model.transformer, depth=depth, dim=width, heads=heads, ffn_dim=4 * width, layer_drop=0.0, prenet=prenet
    )
    embedding: Any = model.embedding
    if case == "text":
        samples = round(at["length"] * (32 if quick else 128))
        embedding = replace(embedding, vocab_size=100 if quick else 8000, max_length=512)
    else:
        samples = round(at["length"] * (4000 if quick else 40_000))
        if quick:
            embedding = replace(embedding, conv_layers=((16, 10, 5), (16, 3, 2), (16, 3, 2)), position_groups=4)
    target = replace(model.target, top_k=min(model.target.top_k, depth - prenet))
    head: Any = model.head
    if quick and views:
        head = replace(head, dim=32, groups=4)
    model = replace(model, transformer=transformer, embedding=embedding, target=target, head=head)
    config = replace(config, model=model, precision=replace(config.precision, autocast="float32"))
    task = PretrainingTask(config)
    task.to(torch.device("cpu"))
    loop, batches = Loop(config, task, torch.device("cpu")), [make_batch(config, (batch, samples), max(1, views))]
    return lambda: loop.step(0, batches, Clock())


def exponent(sizes: tuple[float, ...], costs: list[float]) -> float:
    """The slope of log(cost) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def draw(case: str, axis: str, sizes: tuple[float, ...], seconds: list[float], counted: list[float]) -> Any:
    """Time and FLOPs over the size, both axes logarithmic."""
    samples, unit, each = UNITS[case]
    scale = each if axis == "length" else 1
    x = [size * scale for size in sizes]
    figure = plots.figure(4.5, 3.4)
    axes = figure.add_subplot()
    for values, label, colour in (
        (seconds, f"CPU time: {exponent(sizes, seconds):.2f}", plots.COLOURS[0]),
        (
            [seconds[-1] * one / counted[-1] for one in counted],
            f"FLOPs: {exponent(sizes, counted):.2f}",
            plots.COLOURS[1],
        ),
    ):
        axes.loglog(x, values, "o-", label=label, color=colour)
    axes.set(
        title=f"{case}: a step against {axis}",
        xlabel={"batch": samples, "length": unit}.get(axis, axis),
        ylabel="seconds (FLOPs at the last point's rate)",
    )
    axes.set_xticks(x, [f"{one:g}" for one in x])
    axes.set_xticks([], minor=True)
    axes.legend(title="exponent")
    return figure


@pytest.mark.benchmark(group="growth")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axis", SIZES)
def test_growth(case, axis, quick, benchmark, note, plots_folder):
    if torch.get_num_threads() != 1 and not quick:
        pytest.skip("CPU time is counted on one thread: set OMP_NUM_THREADS=1")
    torch.manual_seed(0)
    sizes = (QUICK if quick else SIZES)[axis]
    arms = {str(size): step_of(case, quick, axis, size) for size in sizes}
    counted = [flops(step) for step in arms.values()]
    taken = benchmark.pedantic(in_turn, args=(arms, 1 if quick else ROUNDS), rounds=1, iterations=1)
    seconds = [statistics.median(values) for values in taken.values()]
    figure = draw(case, axis, sizes, seconds, counted)
    figure.savefig(plots_folder / f"growth_{case}_{axis}.png", dpi=120)
    of_flops = exponent(sizes, counted)
    note(
        f"{case} against {axis} ({sizes[0]} to {sizes[-1]}): exponent {exponent(sizes, seconds):.2f}, at the end "
        f"{exponent(sizes[-2:], seconds[-2:]):.2f}; FLOPs {of_flops:.2f}, at the end "
        f"{exponent(sizes[-2:], counted[-2:]):.2f}",
        seconds[-1],
    )
    # What the method says, of FLOPs alone: samples are independent; attention makes length more than linear; width is
    # less than quadratic, and views less than linear, by what does not depend on them. Each further block is a whole
    # one, while of the last block masked rows alone pass the feed-forward network.
    least, most = {
        "batch": (0.95, 1.05),
        "length": (0.95, 1.6),
        "depth": (0.0, 1.3),
        "width": (0.0, 2.0),
        "views": (0.0, 1.0),
    }[axis]
    assert least < of_flops < most
