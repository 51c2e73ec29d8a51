"""FLOPs, bytes and launches of a step of the Base presets on a GPU, counted without one, and a model of their time.

    python benchmarks/gpu_count.py [PRESET ...] [--batch B]      # a minute for all

The forward pass of a micro-batch of the preset goes through the real code, on tensors that have a shape, a format and
the device "cuda", but no numbers (torch's fake tensors). Every operator that reaches the device is seen:

* FLOPs are those of matrix products (d2v_fast/training/flops.py); float32 ones are counted apart.
* A launch is an operator that computes something; views and allocations are none. Some are more than one kernel (our
  own targets have two), so the true number is a little higher.
* Bytes are those of its tensors, each input and each output once. Products and attention are left out: their time is
  that of their FLOPs. What a cache keeps between two operators counts all the same: this is what unfused code moves.

The backward pass needs a device, so it is not run. Its launches are the nodes of autograd's graph that are no views,
and products have two for one; its FLOPs twice those of the student's products, 2.5 times those of attention; its bytes
twice the student's. The update is `UPDATE` bytes for each parameter. The model adds up times: FLOPs by a share of an
H100's tensor cores, bytes by what a copy reaches there; then the same with half of the bytes, as if the others were
fused. **Nothing of it was measured on a GPU.**
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

sys.path.append(str(Path(__file__).parent))

from whole_steps import make_batch

from d2v_fast import presets
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.models.data2vec import Data2Vec
from d2v_fast.ops import packing
from d2v_fast.ops.device import routes
from d2v_fast.training.flops import counter
from d2v_fast.training.precision import DTYPES, choose_format

PRESETS = ("speech-base", "vision-base", "text-base", "speech2-base", "vision2-base", "text2-base")

PEAK, PEAK_TF32 = 989e12, 495e12
"""FLOPs per second of an H100 SXM by its data sheet, dense: bfloat16, and float32 in TensorFloat-32."""

REACHED = 0.6
"""The share of it that large products reach: an assumption."""

COPY = 3.0e12
"""Bytes per second of a copy there: an assumption, 90 % of the data sheet."""

UPDATE = 60
"""Bytes for each parameter and step: 44 of torch's fused AdamW and our EMA (docs/kernels.md), the norm, and zeroing."""

PLAN = packing._plan

VIEWS = ("View", "Transpose", "Permute", "TBackward", "Expand", "Squeeze", "Unsqueeze", "Reshape", "Alias", "Split")
"""Nodes of autograd's graph that launch nothing, by the beginnings of their names."""


@dataclass
class Counts:
    """Of one micro-batch, forward and backward."""

    flops: float = 0.0
    float32: float = 0.0
    """Of the FLOPs those of float32 operands."""

    moved: float = 0.0
    forward: int = 0
    """Launches."""

    backward: int = 0
    parameters: int = 0

    def seconds(self, *, fused: float = 0.0) -> float:
        """By the model; `fused`: the share of the bytes that fused operators would not move."""
        products = (self.flops - self.float32) / PEAK + self.float32 / PEAK_TF32
        return products / REACHED + ((1 - fused) * self.moved + UPDATE * self.parameters) / COPY


class Watch(TorchDispatchMode):
    """Counts every operator on tensors of `device`; what runs with gradients has a backward pass, too."""

    def __init__(self, counts: Counts, device: str = "cuda") -> None:
        super().__init__()
        self.counts, self.device = counts, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with counter() as seen:
            result = func(*args, **(kwargs or {}))
        inputs, outputs = (
            [x for x in tree_leaves(some) if isinstance(x, torch.Tensor) and x.device.type == self.device]
            for some in ((args, kwargs), result)
        )
        if not _computes(func, outputs):
            return result
        self.counts.forward += 1
        flops = seen.get_total_flops()
        if flops:
            backward = 2.5 if "attention" in func._schema.name else 2.0
            flops *= 1 + (backward if torch.is_grad_enabled() else 0)
            self.counts.flops += flops
            if max(inputs, key=torch.Tensor.numel).dtype == torch.float32:
                self.counts.float32 += flops
        else:
            self.counts.moved += (3 if torch.is_grad_enabled() else 1) * sum(x.nbytes for x in (*inputs, *outputs))
        return result


def _computes(func: Any, outputs: Sequence[torch.Tensor]) -> bool:
    """Whether an operator runs a kernel: it is no view, and more than an allocation."""
    name, returns = func._schema.name, func._schema.returns
    view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
    return bool(outputs) and not view and "empty" not in name and name not in ("aten::_unsafe_view", "aten::detach")


def nodes(root: Any) -> Counter[str]:
    """Names of the nodes of autograd's graph."""
    found: Counter[str] = Counter()
    seen, left = {root}, [root]
    while left:
        node = left.pop()
        found[type(node).__name__] += 1
        for other, _ in node.next_functions:
            if other is not None and other not in seen:
                seen.add(other)
                left.append(other)
    return found


def launches(graph: Counter[str]) -> int:
    """Of the backward pass: none for views and leaves, two for a product, whose operands both have gradients."""
    kinds = {name: count for name, count in graph.items() if not name.startswith((*VIEWS, "AccumulateGrad"))}
    products = ("Mm", "Addmm", "Bmm", "Linear", "Convolution")
    return sum(count * (2 if name.startswith(products) else 1) for name, count in kinds.items())


def planned_on_the_host(*arguments: Any) -> Any:
    """`packing._plan`, whose tensors of the host have numbers; only its result is on the device."""
    kept, samples, width, device, *rest = arguments
    with _disable_current_modes():
        plan = PLAN(kept, samples, width, torch.device("cpu"), *rest)
    tensors = {name: value for name, value in vars(plan).items() if isinstance(value, torch.Tensor)}
    return replace(plan, **{name: value.to(device) for name, value in tensors.items()})


def flash(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0) -> Tensor:
    """Attention by the kernel that a GPU takes; torch chooses by the GPU, which is not there.

    A bias is left out: its kernel is another one, with the same products.
    """
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p)[0]
    return out


@contextmanager
def as_with_a_gpu() -> Iterator[None]:
    """torch.autocast("cuda") switches itself off without a GPU; plans of packed rows are the host's; Triton works."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(routes, "obstacles", return_value=routes.Obstacles("", None)))
        stack.enter_context(mock.patch("torch.nn.functional.scaled_dot_product_attention", flash))
        stack.enter_context(mock.patch.object(packing, "_plan", planned_on_the_host))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        yield


def shape_of(config: Config, batch: int | None) -> tuple[int, ...]:
    """Of the inputs of a micro-batch: as many of the longest samples as the preset's loader takes."""
    embedding: Any = config.model.embedding
    inputs: Any = config.inputs
    if config.loader.batch_seconds is not None:
        seconds = inputs.max_seconds
        return batch or int(config.loader.batch_seconds // seconds), round(seconds * inputs.sample_rate)
    samples = batch or config.loader.batch_size
    if hasattr(embedding, "vocab_size"):
        return samples, inputs.block_size
    return samples, 3, embedding.image_size, embedding.image_size


def count(config: Config, batch: Batch) -> Counts:
    """Of a micro-batch."""
    with torch.device("meta"):
        model = Data2Vec(config.model)
    counts = Counts(parameters=sum(p.numel() for p in model.student.parameters()))
    with as_with_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True):
        dtype = DTYPES[choose_format(torch.device("cuda"), config.model.transformer.dim)[0]]
        model = model.to_empty(device="cuda").train()
        for encoder in (model.student.encoder, model.teacher):
            encoder.attention = "sdpa"
        on_device = batch.to(torch.device("cuda"))
        with Watch(counts), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            skipped = (False,) * config.model.transformer.depth
            teacher_autocast = not config.precision.teacher_float32
            loss = model(on_device, skipped=skipped, teacher_autocast=teacher_autocast).loss
    counts.backward = launches(nodes(loss.grad_fn))
    return counts


def sizes(config: Config, shape: Sequence[int]) -> dict[str, float]:
    """What goes in: samples, and seconds of sound where it is sound."""
    rate = getattr(config.inputs, "sample_rate", None)
    return {"samples": shape[0]} | ({"seconds of sound": shape[0] * shape[1] / rate} if rate else {})


def main(arguments: Sequence[str]) -> None:
    """Print a row of docs/kernels.md for each preset."""
    parser = argparse.ArgumentParser(description="FLOPs, bytes and launches of the presets on a GPU, counted")
    parser.add_argument("preset", nargs="*", default=PRESETS)
    parser.add_argument("--batch", type=int, help="samples of the micro-batch; by default the preset's")
    options = parser.parse_args(arguments)
    for name in options.preset:
        config = presets.preset(name)
        shape = shape_of(config, options.batch)
        views = getattr(config.mask, "views", 1)
        one = count(config, make_batch(config, shape, views))
        now, goal = one.seconds(), one.seconds(fused=0.5)
        rates = ", ".join(f"{size / goal:,.0f} {what}" for what, size in sizes(config, shape).items())
        print(
            f"| {name} | {', '.join(map(str, shape))} x {views} | {one.flops / 1e12:.1f} ({one.float32 / 1e12:.1f}) | "
            f"{one.moved / 1e9:.0f} | {one.forward} + {one.backward} | {now * 1e3:.0f} / {goal * 1e3:.0f} | "
            f"{one.flops / now / PEAK:.0%} / {one.flops / goal / PEAK:.0%} | {rates} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
