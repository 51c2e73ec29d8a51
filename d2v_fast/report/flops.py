"""FLOPs of matrix products, counted while they run: torch's counter, with formulas for our operators.

Sums, norms and activations are not counted. Attention over packed sequences is counted as if all were the longest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counter() -> FlopCounterMode:
    """A context that counts; `get_total_flops()` says how many so far. What it counts runs more slowly."""
    ours, aten = torch.ops.d2v_fast, torch.ops.aten
    formulas = {
        ours.decoder_layer: _convolved,
        ours.decoder_layer_backward: _convolved_back,
        ours.linear: _linear,
        ours.gelu_linear: _linear,
        ours.strided_convolution: _strided,
        ours.strided_convolution_backward: _convolved_back,
        ours.distance_attention: _attended,
        ours.distance_attention_backward: _attended_back,
        aten.convolution_backward: _torch_convolved_back,
        aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_back,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _convolved(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    places = torch.Size(out_shape[0][:-1]).numel() if isinstance(out_shape[0], torch.Size) else 0
    return 2 * places * torch.Size(weight).numel()


def _convolved_back(grad: Any, x: Any, weight: Any, *rest: Any, **options: Any) -> int:
    return 4 * torch.Size(grad[:-1]).numel() * torch.Size(weight).numel()


def _strided(x: Any, weight: Any, stride: Any, out_shape: Any = None, **options: Any) -> int:
    return 2 * torch.Size(out_shape[:-1]).numel() * torch.Size(weight).numel()


def _attended(query: Any, key: Any, value: Any, starts: Any, positions: Any, visible: Any, factors: Any, longest: int,
              *rest: Any, **options: Any) -> int:  # fmt: skip
    return 4 * torch.Size(query).numel() * longest  # sequences of one length


def _attended_back(grad: Any, *rest: Any, **options: Any) -> int:
    return 10 * torch.Size(grad).numel() * rest[9]


def _linear(x: Any, weight: Any, bias: Any, out_shape: Any = None, **options: Any) -> int:
    return 2 * torch.Size(x).numel() * int(weight[0])


def _torch_convolved_back(grad: Any, x: Any, weight: Any, *rest: Any, **options: Any) -> int:
    places = torch.Size(grad).numel() // grad[1]  # torch's own formula forgets the groups
    return 2 * places * torch.Size(weight).numel() * sum(bool(wanted) for wanted in rest[7][:2])


def _sdpa(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return 4 * torch.Size(query).numel() * key[2]


def _sdpa_back(grad: Any, query: Any, key: Any, *rest: Any, **options: Any) -> int:
    return 10 * torch.Size(query).numel() * key[2]
