"""The check of AdamW with the moving average: see simulated_checks.py."""

from __future__ import annotations

import math

import numpy as np
import torch
from rounding import check_moved_from_the_nearer_end
from simulated import TORCH, Device, Run, noise
from simulated_inputs import Moved, NoWorse

from d2v_fast import reference

# Sizes, decay, betas, steps done. Each remainder of a thread's four elements, and an end in each quarter of a block;
# beta^steps as a normal number, as one that only a denormal could hold, and 0; and both ends of each average.
# The cheapest first, which sees most faults.
STEPS = [
    ([70], 0.9, (0.0, 0.0), 2.0),
    ([301, 602], 0.001, (0.3, 0.999), 1.0),
    ([64, 1030], 0.5, (0.5, 0.5), 1_040.0),
    ([5000, 3, 1024, 1021, 1022], 0.999, (0.9, 0.98), 4.0),
    ([16384], 0.25, (0.9, 0.98), 100.0),
]
LR, WEIGHT_DECAY, EPS, SCALE = 1e-2, 0.1, 1e-6, 3.0
LISTS = ("parameters", "gradients", "exp_avg", "exp_avg_sq", "teacher")


def adamw(run: Run, no_worse_than: NoWorse) -> Moved:
    constants = run.case.constants
    shadow = None if constants["SHADOW"] is None else TORCH[constants["SHADOW"].name]
    aligned = constants["ALIGNED"]
    for number, (sizes, decay, betas, done) in enumerate(STEPS):
        for found in (1.0, 0.0) if number == 0 else (0.0,):
            device = Device()
            lists = {name: [noise(n, seed=7 * i + number) for n in sizes] for i, name in enumerate(LISTS)}
            lists["exp_avg_sq"] = [x.square() for x in lists["exp_avg_sq"]]
            offset = 0 if aligned else 4
            buffers = {
                name: [device.put(x, f"{name}{i}", offset=offset) for i, x in enumerate(of)]
                for name, of in lists.items()
            }
            copies: dict[str, list] = {}
            for name in ("shadow", "teacher_shadow") if shadow is not None else ():
                copies[name] = [
                    device.empty((n,), shadow, f"{name}{i}", offset=0 if aligned else shadow.itemsize)
                    for i, n in enumerate(sizes)
                ]
            step = device.put(torch.tensor([done]), "step")
            logs = [math.log(beta) if beta else -math.inf for beta in betas]
            rates = np.array([LR, WEIGHT_DECAY, *logs]).view(np.int64).tolist()
            rows = [
                [
                    *(buffers[name][i].address for name in LISTS[:4]),
                    step.address,
                    buffers["teacher"][i].address,
                    *(copies[name][i].address if copies else 0 for name in ("shadow", "teacher_shadow")),
                    *rates,
                ]
                for i in range(len(sizes))
            ]
            # The first tensor comes in two chunks where it is long enough.
            chunks = [[i, 0, n] for i, n in enumerate(sizes)]
            if sizes[0] > 4096 and len(sizes) > 1:
                chunks[:1] = [[0, 0, 2048], [0, 2048, sizes[0] - 2048]]
            report = run(
                device,
                (len(chunks),),
                rows=device.put(torch.tensor(rows), "rows"),
                chunks=device.put(torch.tensor(chunks), "chunks"),
                gradient_scale=device.put(torch.tensor([SCALE]), "scale"),
                found_inf=device.put(torch.tensor([found]), "found"),
                decay=device.put(torch.tensor([decay], dtype=torch.float64), "decay"),
                first=betas[0], first_weight=1 - betas[0], second=betas[1], second_weight=1 - betas[1], eps=EPS,
            )  # fmt: skip
            if found:
                assert all(
                    torch.equal(device.get(buffers[k][i]), x) for k, of in lists.items() for i, x in enumerate(of)
                )
                continue
            single, exact = (_expected(lists, dtype, decay, betas, done) for dtype in (torch.float32, torch.float64))
            for name in ("parameters", "exp_avg", "exp_avg_sq", "teacher"):
                for buffer, plain, truth in zip(buffers[name], single[name], exact[name], strict=True):
                    no_worse_than(device.get(buffer), plain, truth)
            for i in range(len(sizes)):
                moved = device.get(buffers["teacher"][i])
                own = device.get(buffers["parameters"][i])
                check_moved_from_the_nearer_end(moved, lists["teacher"][i], own, decay)
                for name, source in (("shadow", own), ("teacher_shadow", moved)) if copies else ():
                    assert torch.equal(device.get(copies[name][i]), source.to(shadow))
    each = 36 + (0 if shadow is None else 2 * shadow.itemsize)
    return Moved(report, 16384 * each)


def _expected(
    lists: dict[str, list[torch.Tensor]], dtype: torch.dtype, decay: float, betas: tuple[float, float], done: float
) -> dict[str, list[torch.Tensor]]:
    own = {name: [x.to(dtype, copy=True) for x in of] for name, of in lists.items()}
    count = len(own["parameters"])
    reference.adamw_ema_(
        **own, steps=[torch.tensor(done - 1) for _ in range(count)], lr=[LR] * count,
        weight_decay=[WEIGHT_DECAY] * count, betas=betas, eps=EPS, gradient_scale=torch.tensor(SCALE),
        found_inf=torch.tensor(0.0), decay=decay, shadow=[None] * count, teacher_shadow=[None] * count,
    )  # fmt: skip
    return own


CHECKS = {"adamw_ema": adamw}
