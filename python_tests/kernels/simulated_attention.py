"""The checks of attention with distances: packed sequences of every kind of length, beside float64.

Bytes are not compared with a floor: what a program reads again comes from the L2, and work decides, not bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from d2v_fast.kernels import launch
from ptx import Report
from simulated import TORCH, Device, Run, noise
from simulated_inputs import Moved, NoWorse
from torch import Tensor

HEADS = 2
DROPOUT = 0.25
SEED = 1234567890123456789
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of the largest number of a result."""


class Sequences:
    """Packed sequences on the device, and what the kernels should make of them, in float64."""

    def __init__(self, run: Run) -> None:
        arguments = run.case.arguments
        queries, keys = run.case.constants["QUERIES"], run.case.constants["KEYS"]
        # Ends in and at a tile of each side, and of the channels; a sequence of one token, and one of none.
        lengths = [1, 0, max(queries, keys) + 5, min(queries, keys)]
        dim = run.case.constants["BLOCK"] - 16
        self.run, self.dim, self.dtype = run, dim, TORCH[arguments["query"].removeprefix("*")]
        self.device, tokens = Device(), sum(lengths)
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        generator = torch.Generator().manual_seed(tokens)
        positions = torch.cat([torch.randperm(300, generator=generator)[:n].sort().values for n in lengths])
        positions[starts[:-1][starts.diff() > 0].long()] = -1
        self.qkv = noise(tokens, 3, HEADS, dim, dtype=self.dtype)
        self.gradient = noise(tokens, HEADS, dim, seed=1, dtype=self.dtype)
        self.factors = torch.rand(HEADS, generator=generator) * 0.1
        dropped = "seed" in arguments
        visible = torch.rand(tokens, generator=generator) < 0.7 if dropped else None
        self._compute(lengths, positions, visible, DROPOUT if dropped else 0.0)
        whole = self.device.put(self.qkv, "qkv")
        row = self.qkv.stride(0)
        self.values = {
            name: whole.address + i * HEADS * dim * self.dtype.itemsize
            for i, name in enumerate(("query", "key", "value"))
        }
        for name in ("query", "key", "value"):
            self.values |= {f"{name}_stride": row, f"{name}_head": dim}
        self.values |= {
            "starts": self.device.put(starts, "starts"),
            "positions": self.device.put(positions, "positions"),
        }
        self.values |= {"factors": self.device.put(self.factors, "factors"), "tokens": tokens, "dim": dim}
        self.values |= {"scale": dim**-0.5, "limit": int(DROPOUT * 2**32), "kept": 1 / (1 - DROPOUT)}
        if visible is not None:
            self.values["visible"] = self.device.put(visible.to(torch.uint8), "visible")
            self.values["seed"] = self.device.put(torch.tensor([SEED]), "seed")
        self.grid = max(lengths), HEADS, len(lengths)

    def _compute(self, lengths: list[int], positions: Tensor, visible: Tensor | None, dropout: float) -> None:
        """The result, the logarithms of the sums, and the gradients."""
        leaves = [x.double().requires_grad_() for x in self.qkv.unbind(1)]
        factors = self.factors.double().requires_grad_()
        parts, logs, start = [], [], 0
        for sample, length in enumerate(lengths):
            own = slice(start, start + length)
            start += length
            query, key, value = (x[own].transpose(0, 1) for x in leaves)
            where = positions[own]
            placed = where >= 0
            apart = (where[:, None] - where).abs().where(placed[:, None] & placed, 0)
            scores = query @ key.transpose(1, 2) * self.dim**-0.5 - factors[:, None, None] * apart
            if visible is not None:
                scores = scores.masked_fill(~visible[own], -torch.inf)
            weights = scores.softmax(-1).where(scores.isneginf().all(-1, keepdim=True).logical_not(), 0.0)
            rows = scores.logsumexp(-1)
            logs.append(rows.where(~rows.isneginf(), torch.inf))
            if dropout:
                weights = weights * kept_weights(sample, length, dropout)
            parts.append((weights @ value).transpose(0, 1))
        out = torch.cat(parts)
        self.out, self.logs = out.detach(), torch.cat(logs, 1).detach()
        gradients = torch.autograd.grad(out, [*leaves, factors], self.gradient.double())
        self.expected = dict(zip(("of_query", "of_key", "of_value", "of_factors"), gradients, strict=True))

    def for_backward(self) -> None:
        """What the kernels of the backward pass are given."""
        means = (self.out * self.gradient.double()).sum(-1).t().float()
        self.values |= {
            "gradient": self.device.put(self.gradient, "gradient"),
            "means": self.device.put(means, "means"),
        }
        self.values["logs"] = self.device.put(self.logs.float(), "logs")

    def start(self, tile: int, **results: tuple[tuple[int, ...], torch.dtype]) -> tuple[Report, list[Tensor]]:
        """Runs the kernel, whose programs own `tile` tokens; the results in the order of their names."""
        buffers = {name: self.device.empty(shape, dtype, name) for name, (shape, dtype) in results.items()}
        grid = launch.cells(self.grid[0], tile), *self.grid[1:]
        report = self.run(self.device, grid, **self.values, **buffers)
        return report, [self.device.get(buffer) for buffer in buffers.values()]

    def check(self, ours: Tensor, exact: Tensor) -> None:
        atol = TOLERANCE[self.dtype] * exact[exact.isfinite()].abs().max().item()
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=atol)


def kept_weights(sample: int, length: int, dropout: float) -> Tensor:
    """[HEADS, length, length]: 0 or 1 / (1 - dropout), as the CPU kernel draws them; written anew from its comments."""
    most = (1 << 64) - 1

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & most
        z = (z ^ z >> 27) * 0x94D049BB133111EB & most
        return z ^ z >> 31

    factors = torch.zeros(HEADS, length, length, dtype=torch.float64)
    for head in range(HEADS):
        of_head = mix(mix(mix(SEED) + sample & most) + head & most)
        for q in range(length):
            row = mix(of_head + q & most)
            for k in range(length):
                h = ((k * 0x9E3779B9 & 0xFFFFFFFF) + (row & 0xFFFFFFFF) & 0xFFFFFFFF) ^ row >> 32
                h = (h ^ h >> 16) * 0x7FEB352D & 0xFFFFFFFF
                h = (h ^ h >> 15) * 0x846CA68B & 0xFFFFFFFF
                factors[head, q, k] = 1 / (1 - dropout) if h ^ h >> 16 >= int(dropout * 2**32) else 0.0
    return factors


def attend(run: Run, no_worse_than: NoWorse) -> Moved:
    data = Sequences(run)
    shape = data.gradient.shape
    report, (out, logs) = data.start(
        run.case.constants["QUERIES"], out=(shape, data.dtype), logs=((HEADS, shape[0]), torch.float32)
    )
    data.check(out, data.out)
    data.check(logs, data.logs)
    return Moved(report, 0)


def queries(run: Run, no_worse_than: NoWorse) -> Moved:
    tile = run.case.constants["QUERIES"]
    data = Sequences(run)
    data.for_backward()
    longest, _, samples = data.grid
    shares = samples, HEADS, launch.cells(longest, tile)
    report, (of_query, of_factors) = data.start(
        tile, of_query=(data.gradient.shape, data.dtype), of_factors=(shares, torch.float32)
    )
    data.check(of_query, data.expected["of_query"])
    data.check(of_factors.sum((0, 2)), data.expected["of_factors"])
    return Moved(report, 0)


def keys(run: Run, no_worse_than: NoWorse) -> Moved:
    data = Sequences(run)
    data.for_backward()
    result = data.gradient.shape, data.dtype
    report, (of_key, of_value) = data.start(run.case.constants["KEYS"], of_key=result, of_value=result)
    data.check(of_key, data.expected["of_key"])
    data.check(of_value, data.expected["of_value"])
    return Moved(report, 0)


CHECKS: dict[str, Callable[[Run, NoWorse], Moved]] = {
    "attend": attend,
    "attend_backward_queries": queries,
    "attend_backward_keys": keys,
}
"""By the name of the kernel's function."""
