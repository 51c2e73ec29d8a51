"""The update over the tensors of data2vec Base (93.8 M parameters), float32: AdamW and the teacher's step."""

from __future__ import annotations

import pytest
import torch
from test_ema import DECAY, base_shapes

from d2v_fast import ops

OPTIONS = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}


class Lists:
    """Parameters and what belongs to them."""

    def __init__(self, quick: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = base_shapes(quick)
        made = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(5)]
        self.parameters, self.gradients, self.exp_avg, self.exp_avg_sq, self.teacher = made
        torch._foreach_abs_(self.exp_avg_sq)
        self.steps = [torch.ones(()) for _ in shapes]
        self.scale, self.found = torch.ones(()), torch.zeros(())

    def ours(self, shadow: list[torch.Tensor] | None = None, teacher_shadow: list[torch.Tensor] | None = None) -> None:
        ops.adamw_ema_(
            self.parameters, self.gradients, self.exp_avg, self.exp_avg_sq, self.steps, teacher=self.teacher,
            decay=DECAY, gradient_scale=self.scale, found_inf=self.found, shadow=shadow,
            teacher_shadow=teacher_shadow, **OPTIONS,
        )  # fmt: skip

    def torchs(self) -> None:
        """torch's fused kernel with clipping, which writes the gradients back, then our moving average."""
        torch._foreach_add_(self.steps, 1)
        torch._fused_adamw_(
            self.parameters, self.gradients, self.exp_avg, self.exp_avg_sq, [], self.steps, lr=OPTIONS["lr"],
            beta1=OPTIONS["betas"][0], beta2=OPTIONS["betas"][1], weight_decay=OPTIONS["weight_decay"],
            eps=OPTIONS["eps"], amsgrad=False, maximize=False, grad_scale=self.scale, found_inf=self.found,
        )  # fmt: skip
        ops.ema_update_(self.teacher, self.parameters, DECAY)


@pytest.mark.benchmark(group="adamw_ema")
def test_adamw_ema(compare, quick, size_of):
    lists = Lists(quick)
    compare(
        f"AdamW and EMA, {sum(x.numel() for x in lists.parameters) / 1e6:.1f} M parameters, {len(lists.steps)} tensors",
        lists.ours,
        {"torch's fused AdamW, then ops.ema_update_": lists.torchs},
        moved=9 * size_of(*lists.parameters),
    )


@pytest.mark.benchmark(group="adamw_ema")
def test_adamw_ema_with_shadows(compare, quick, size_of):
    lists = Lists(quick)
    shadow, teacher_shadow = ([x.bfloat16() for x in lists.parameters] for _ in range(2))

    def torchs():
        lists.torchs()
        torch._foreach_copy_(shadow, lists.parameters)
        torch._foreach_copy_(teacher_shadow, lists.teacher)

    compare(
        "AdamW and EMA with bfloat16 shadows of both",
        lambda: lists.ours(shadow, teacher_shadow),
        {"the same and torch._foreach_copy_": torchs},
        moved=9 * size_of(*lists.parameters) + size_of(*shadow, *teacher_shadow),
    )
