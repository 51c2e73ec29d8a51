"""Prints bytes that a step takes above what is there before it, for test_peak_memory.py, in a process of its own.

For speech the released arrangement, ours in float32 and in bfloat16, and ours in float32 without recomputation; for
images ours without and with `checkpoint_activations`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from test_step import Ours, configured, reference_of
from whole_steps import make_batch

from d2v_fast.ops import recomputed


def status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


def taken(step: Callable[[], object]) -> int:
    """The peak of a step above what was held before it, after one that makes the moments."""
    step()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


config, _ = configured("speech small", False)
model = config.model
network = replace(model.transformer, depth=2, dim=64, heads=2, ffn_dim=256)
layers = ((128, 10, 5), (128, 3, 2), (128, 3, 2), (128, 2, 2))
embedding = replace(model.embedding, conv_layers=layers, position_groups=4)
target = replace(model.target, top_k=2)
config = replace(config, model=replace(model, transformer=network, embedding=embedding, target=target))
torch.manual_seed(0)
batch = make_batch(config, (1, 48_000))
reference = reference_of(config)
print(taken(lambda: reference.step(batch)))
for name in ("float32", "bfloat16"):
    print(taken(Ours(config, batch, name)))
images, _ = configured("ViT-S/16", False)
network = replace(images.model.transformer, depth=8, dim=64, heads=2, ffn_dim=256)
images = replace(images, model=replace(images.model, transformer=network))
pictures = make_batch(images, (8, 3, 224, 224))
again = replace(images, precision=replace(images.precision, checkpoint_activations=True))
kept, computed_again = (taken(Ours(each, pictures)) for each in (images, again))
recomputed.eager_on_cpu = import_module("d2v_fast.ops.norm_gelu").eager = lambda x: False
import_module("d2v_fast.ops.front_layer")._has_kernel = lambda *given: False
print(taken(Ours(config, batch, "float32")))
print(kept, computed_again)
