"""Whole steps of data2vec 1.0 beside the released arrangement (reference_step.py): time, share of the limit, memory.

Ours is the trainer's step, from a batch in memory to the moved teacher; in bfloat16 the teacher is in it too, also that
of images, which the preset has in float32. Dropout is off in both. Times are CPU time of
one thread, medians of rounds in which both run in turn; the ratio is the median of the rounds'. The heap keeps freed
memory for both. FLOPs of the matrix products are counted by torch's counter, ours and the reference's, each by what it
does; the share is their rate over that of bare products [2048, 2048] x [2048, 2048] in the same rounds: of float32 by
torch's own route (MKL on x86) and by oneDNN, or of bfloat16. Peak memory is that of a process of its own with three
steps, above what the imports need; "without state" is what is left of it without weights, teacher, gradients,
moments and the copies of weights in bfloat16.

    OMP_NUM_THREADS=1 pytest benchmarks/test_step.py --benchmark-only -k speech      # --quick: tiny shapes, one round
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from reference_step import ReferenceStep, Rule
from whole_steps import flops, in_turn, make_batch, peak_bytes

from d2v_fast import presets
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.interop import fairseq
from d2v_fast.ops.shadows import shadows_of
from d2v_fast.run.metrics import Clock
from d2v_fast.training.heap import keep_freed_memory
from d2v_fast.training.loop import Loop
from d2v_fast.training.pretraining_task import PretrainingTask

CASES: dict[str, tuple[Callable[[], Config], tuple[int, int, int], tuple[int, ...]]] = {
    "speech small": (presets.speech_base, (4, 256, 4), (2, 80_000)),
    "speech Base": (presets.speech_base, (12, 768, 12), (1, 80_000)),
    "text Base": (presets.text_base, (12, 768, 12), (4, 128)),
    "ViT-S/16": (presets.vision_base, (12, 384, 6), (8, 3, 224, 224)),
    "ViT-B/16": (presets.vision_base, (12, 768, 12), (8, 3, 224, 224)),
}
"""Preset; depth, width and heads; shape of the inputs."""

ROUNDS = 3

FORMATS = ("float32", "bfloat16")


def configured(case: str, quick: bool) -> tuple[Config, Batch]:
    """The preset with the case's sizes, in float32 and without dropout, and a batch."""
    preset, (depth, dim, heads), shape = CASES[case]
    config = preset()
    if quick:
        depth, dim, heads = 2, 32, 2
        shape = {2: (2, 32) if "text" in case else (2, 8000), 4: (2, 3, 64, 64)}[len(shape)]
    model = config.model
    transformer = replace(
        model.transformer,
        depth=depth, dim=dim, heads=heads, ffn_dim=4 * dim, dropout=0.0, attention_dropout=0.0, layer_drop=0.0,
        drop_path=0.0,
    )  # fmt: skip
    embedding: Any = model.embedding
    if quick and "text" in case:
        embedding = replace(embedding, vocab_size=100)
    elif quick and "speech" in case:
        embedding = replace(embedding, conv_layers=((16, 10, 5), (16, 3, 2)), position_groups=4)
    if len(shape) == 4:
        embedding = replace(embedding, image_size=shape[2])
    target = replace(model.target, top_k=min(model.target.top_k, depth))
    loss = replace(model.loss, scale=1 / dim) if len(shape) == 4 else model.loss  # BEiT's mean over the channels
    model = replace(model, transformer=transformer, embedding=embedding, target=target, loss=loss)
    mask: Any = config.mask
    if quick and len(shape) == 4:
        mask = replace(mask, count=6, min_area=2)
    config = replace(
        config, model=model, mask=mask, precision=replace(config.precision, autocast="float32", teacher_float32=False)
    )
    return config, make_batch(config, shape)


class Ours:
    """The trainer's step."""

    def __init__(self, config: Config, batch: Batch, autocast: Any = "float32") -> None:
        config = replace(config, precision=replace(config.precision, autocast=autocast))
        task = PretrainingTask(config)
        task.to(torch.device("cpu"))
        self.loop, self.batch, self.clock, self.count = Loop(config, task, torch.device("cpu")), batch, Clock(), 0

    def __call__(self) -> None:
        self.loop.step(self.count, [self.batch], self.clock)
        self.count += 1


def reference_of(config: Config) -> ReferenceStep:
    optim = config.optim
    return ReferenceStep(config.model, Rule(optim.lr, optim.betas, optim.eps, optim.weight_decay, optim.clip_norm))


def check_equal(ours: Ours, reference: ReferenceStep, batch: Batch) -> None:
    """With the same weights both have the same loss and gradients."""
    model = ours.loop.task.model
    reference.student.load_state_dict(fairseq.from_ours(model.student.state_dict(), model.config), strict=False)
    reference.teacher.load_state_dict(reference.averaged().state_dict())
    loss, prediction, _ = reference.loss(batch)
    loss.backward()
    out = model(batch)
    out.loss.backward()
    rows = 1 if reference.vision else len(prediction)
    torch.testing.assert_close(out.loss, loss / rows, rtol=1e-4, atol=1e-6)
    gradients = {name: p.grad / rows for name, p in reference.student.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in gradients.values())
    zeros = {name: torch.zeros_like(p) for name, p in reference.student.named_parameters()}
    theirs = fairseq.to_ours(zeros | gradients, model.config)
    for name, parameter in model.student.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=0, atol=1e-5 * largest, msg=name)
    model.zero_grad()
    reference.student.zero_grad()


def bare(size: int) -> dict[str, Callable[[], object]]:
    """Products by torch's own route, by oneDNN, and in bfloat16."""
    x, y = torch.randn(2, size, size)
    p, q = x.bfloat16(), y.bfloat16()
    products: dict[str, Callable[[], object]] = {"torch": lambda: x @ y, "bfloat16": lambda: p @ q}
    if torch.backends.mkldnn.is_available():
        products["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return products


def peak(case: str, which: str, quick: bool) -> tuple[float, float]:
    """Peak bytes above the imports, and those of the state, of a process of its own."""
    command = [sys.executable, __file__, case, which, str(int(quick))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole, state = done.stdout.split()[-2:]
    return float(whole), float(state)


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("case", CASES)
def test_step(case, quick, benchmark, note):
    if torch.get_num_threads() != 1 and not quick:
        pytest.skip("shares are counted on one thread: set OMP_NUM_THREADS=1")
    torch.manual_seed(0)
    config, batch = configured(case, quick)
    ours, reference = Ours(config, batch), reference_of(config)
    check_equal(ours, reference, batch)
    halves = Ours(config, batch, "bfloat16")
    counts = {"reference": flops(lambda: reference.step(batch)), "float32": flops(ours), "bfloat16": flops(halves)}
    size = 64 if quick else 2048
    products = bare(size)
    arms = {"reference": lambda: reference.step(batch), "float32": ours, "bfloat16": halves}
    every = arms | {f"bare {name}": product for name, product in products.items()}
    seconds = benchmark.pedantic(in_turn, args=(every, 1 if quick else ROUNDS), rounds=1, iterations=1)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for arm in arms:
        ratio = statistics.median(a / b for a, b in zip(seconds["reference"], seconds[arm], strict=True))
        text = f"{case}, {arm}: {counts[arm] / 1e9:.0f} GFLOP, {ratio:.2f}x"
        for name in ("bfloat16",) if arm == "bfloat16" else [name for name in products if name != "bfloat16"]:
            rate = 2 * size**3 / median[f"bare {name}"]
            text += f", {counts[arm] / median[arm] / rate:.2f} of bare {name} ({rate / 1e9:.0f} GFLOP/s)"
        note(text, median[arm])
    if quick and case != "text Base":  # processes take seconds to start
        return
    other, other_state = peak(case, "reference", quick)
    note(f"{case}, reference: peak {other / 2**20:.0f} MiB, {(other - other_state) / 2**20:.0f} without state", 0.0)
    for arm in FORMATS:
        own, state = peak(case, arm, quick)
        less = (own - state) / max(other - other_state, 1)
        text = (
            f"{case}, {arm}: peak {own / 2**20:.0f} MiB, {own / other:.2f} of the reference's; without state {less:.2f}"
        )
        note(text, 0.0)


def _measure_peak(case: str, which: str, quick: bool) -> tuple[int, int]:
    before = peak_bytes()
    config, batch = configured(case, quick)
    if which in FORMATS:
        ours = Ours(config, batch, which)
        model = ours.loop.task.model
        keep_freed_memory(model.student.parameters())
        step, student, everything = ours, model.student, model
    else:
        reference = reference_of(config)
        step, student = (lambda: reference.step(batch)), reference.student
        everything = torch.nn.ModuleList([reference.student, reference.teacher])
    state = sum(p.nbytes for p in everything.parameters()) + 3 * sum(p.nbytes for p in student.parameters())
    for _ in range(3):
        step()
    state += sum(copy.nbytes for copy in shadows_of(list(student.parameters())) if copy is not None)
    return peak_bytes() - before, state


if __name__ == "__main__":
    print(*_measure_peak(sys.argv[1], sys.argv[2], bool(int(sys.argv[3]))))
