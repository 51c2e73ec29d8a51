"""Masked views of data2vec 2.0: what one more costs beside a step of 1.0, beside its FLOPs and fairseq's arrangement.

A step is the forward and backward pass with the teacher and its moving average, without the optimizer, on one thread;
figures are medians of the process's CPU time over rounds in which all steps run in turn. The 1.0 step is that of the
same encoder on the same samples, and its linear maps are `ops.linear`, as those of 2.0 are. fairseq's arrangement has
torch's linear maps and convolutions, as it was released. FLOPs are counted by torch's counter, with formulas for our
operators and for grouped convolutions; those that are not matrix products are not counted. Peak memory is that of a
process of its own, above what it had before the first step.

    OMP_NUM_THREADS=1 pytest benchmarks/test_views.py --benchmark-only        # --quick: tiny shapes, one round
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
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from fairseq_views import fairseq_loss
from whole_steps import flops, in_turn, make_batch, peak_bytes

from d2v_fast import presets
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.models import Data2Vec
from d2v_fast.ops.linear import torch_products
from d2v_fast.training.heap import keep_freed_memory

VIEWS = (1, 2, 4, 8, 16)
CASES = ("ViT-S/16", "speech small", "text small")


def configs(case: str, quick: bool) -> tuple[Config, Config, Any]:
    """1.0, 2.0, and the shape of the inputs."""
    old, new = {
        "ViT-S/16": (presets.vision_base, presets.vision2_base),
        "speech small": (presets.speech_base, presets.speech2_base),
        "text small": (presets.text_base, presets.text2_base),
    }[case]
    one, two = old(), new()
    dim, depth, heads = (384, 12, 6) if "ViT" in case else (256, 4, 4)
    if quick:
        dim, depth, heads = 32, 2, 2
    shape: Any = {"ViT-S/16": (2, 3, 224, 224), "speech small": (2, 80_000), "text small": (4, 256)}[case]
    if quick:
        shape = {"ViT-S/16": (1, 3, 224, 224), "speech small": (1, 16_000), "text small": (2, 32)}[case]

    def smaller(config: Config) -> Config:
        model = config.model
        prenet = min(model.transformer.prenet, depth - 1)
        transformer = replace(
            model.transformer,
            dim=dim, depth=depth, heads=heads, ffn_dim=4 * dim, layer_drop=0.0, drop_path=0.0, prenet=prenet,
        )  # fmt: skip
        embedding = model.embedding
        if "text" in case:
            embedding = replace(embedding, vocab_size=8000, max_length=512)
        target = replace(model.target, top_k=min(model.target.top_k, depth - prenet))
        model = replace(
            model, transformer=transformer, embedding=embedding, target=target, loss=replace(model.loss, **_loss(model))
        )
        if config is two:
            width = {"ViT-S/16": dim, "speech small": 384 if not quick else 32, "text small": dim}[case]
            model = replace(model, head=replace(model.head, dim=width))
        return replace(config, model=model)

    return smaller(one), smaller(two), shape


def _loss(model: Any) -> dict[str, float]:
    """No loss of the class token, which 1.0 has not."""
    return {"class_token": 0.0} if hasattr(model.loss, "class_token") else {}


class Steps:
    """The steps of one case, each a function without arguments."""

    def __init__(self, case: str, quick: bool) -> None:
        one, two, shape = configs(case, quick)
        torch.manual_seed(0)
        self.case, self.one, self.two, self.shape = case, one, two, shape
        self.old, self.new = Data2Vec(one.model).train(), Data2Vec(two.model).train()
        self.batches: dict[Any, Batch] = {0: make_batch(one, shape)}

    def batch(self, views: int) -> Batch:
        if views not in self.batches:
            self.batches[views] = make_batch(self.two, self.shape, views)
        return self.batches[views]

    def _step(self, model: Data2Vec, loss: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()
        model.update_teacher(0.999)

    def first(self) -> None:
        """A step of 1.0."""
        self._step(self.old, lambda: self.old(self.batches[0]).loss)

    def ours(self, views: int) -> None:
        self._step(self.new, lambda: self.new(self.batch(views)).loss)

    def fairseq(self, views: int) -> None:
        count = self.batch(views).rows.numel()
        with torch_products():
            self._step(self.new, lambda: fairseq_loss(self.new, self.batch(views)) / count)


def check_equal(steps: Steps) -> None:
    """The two arrangements compute the same loss."""
    model, batch = steps.new.eval(), steps.batch(2)
    noise, model.student.decoder.noise = model.student.decoder.noise, 0.0
    with torch.no_grad():
        ours = model(batch).losses["regression"].sum
        theirs = fairseq_loss(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    model.student.decoder.noise = noise
    model.train()


def peak(case: str, which: str, views: int, quick: bool) -> float:
    """Bytes of the first two steps above those before them, in a process of its own."""
    command = [sys.executable, __file__, case, which, str(views), str(int(quick))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.benchmark(group="views")
@pytest.mark.parametrize("case", CASES)
def test_views(case, quick, benchmark, note):
    if torch.get_num_threads() != 1 and not quick:
        pytest.skip("shares are counted on one thread: set OMP_NUM_THREADS=1")
    steps = Steps(case, quick)
    check_equal(steps)
    views = (1, 2) if quick else VIEWS
    arms: dict[str, Callable[[], None]] = {"1.0": steps.first}
    for m in views:
        arms[f"2.0, {m}"] = lambda m=m: steps.ours(m)
    for m in views:
        arms[f"fairseq, {m}"] = lambda m=m: steps.fairseq(m)
    counted = {name: flops(step) for name, step in arms.items()}
    rounds = benchmark.pedantic(in_turn, args=(arms, 1 if quick else 3), rounds=1, iterations=1)
    seconds = {name: statistics.median(values) for name, values in rounds.items()}
    one, needed = seconds["1.0"], counted["1.0"]
    note(f"{case}: 1.0, {needed / 1e9:.1f} GFLOP, {needed / one / 1e9:.0f} a second", one)
    for name in arms:
        if name == "1.0":
            continue
        cost, said = seconds[name] / one, counted[name] / needed
        text = f"{case}: {name} view(s), {cost:.2f} of a 1.0 step; FLOPs say {said:.2f} ({cost / said:.2f})"
        note(text, seconds[name])
    most, least = views[-1], views[0]
    more = (seconds[f"2.0, {most}"] - seconds[f"2.0, {least}"]) / (most - least)
    said = (counted[f"2.0, {most}"] - counted[f"2.0, {least}"]) / (most - least) / needed
    note(f"{case}: one more view, {more / one:.3f} of a 1.0 step; FLOPs say {said:.3f}", more)
    for m in views[-1:] if quick else views:
        ratio = seconds[f"fairseq, {m}"] / seconds[f"2.0, {m}"]
        ours, theirs = peak(case, "ours", m, quick), peak(case, "fairseq", m, quick)
        memory = f"peak memory {ours / 2**20:.0f} of {theirs / 2**20:.0f} MiB ({ours / max(theirs, 1):.2f})"
        note(f"{case}: {m} view(s), {ratio:.2f}x fairseq's arrangement, {memory}", seconds[f"2.0, {m}"])


def _measure_peak(case: str, which: str, views: int, quick: bool) -> int:
    keep_freed_memory()
    steps = Steps(case, quick)
    steps.batch(views)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of building the models
    before = peak_bytes()
    step = steps.ours if which == "ours" else steps.fairseq
    for _ in range(2):
        step(views)
    return peak_bytes() - before


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], sys.argv[2], int(sys.argv[3]), bool(int(sys.argv[4]))))
