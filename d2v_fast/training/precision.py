"""Number formats: the autocast context, the kernel for attention, and the loss scale that float16 needs."""

from __future__ import annotations

import torch
from torch import Tensor

from d2v_fast.config import Config, PrecisionConfig
from d2v_fast.errors import ConfigError
from d2v_fast.ops.packed_attention import choose

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(config: PrecisionConfig, device: torch.device) -> torch.autocast:
    """The context of the forward pass.

    Raises:
        ConfigError: float16 was asked for without CUDA.
    """
    if config.autocast == "float16" and device.type != "cuda":
        raise ConfigError(
            f"precision.autocast is 'float16', which needs CUDA, but this run is on {device.type}; "
            "use bfloat16 or float32"
        )
    dtype = DTYPES[config.autocast]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def check_attention(config: Config, device: torch.device) -> None:
    """Refuse a kernel for attention that does not work on `device`, before anything is built.

    Raises:
        ConfigError: `precision.attention` names one that does not serve the run's student.
    """
    network, precision = config.model.transformer, config.precision
    try:
        choose(
            precision.attention,
            device,
            DTYPES[precision.autocast],
            network.dim // network.heads,
            dropout=network.attention_dropout > 0,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


class LossScale:
    """A factor on the loss that keeps float16 gradients from underflow; it lives on the device and is never read there.

    It halves after a step whose gradients overflowed and doubles after `GROW` steps without one. Other formats have 1.
    """

    GROW = 2000
    FIRST = 2.0**16

    def __init__(self, config: PrecisionConfig, device: torch.device) -> None:
        self.active = config.autocast == "float16"
        self.value = torch.tensor(self.FIRST if self.active else 1.0, device=device)  # float32 []
        self.good_steps = torch.zeros((), device=device)

    def update(self, found_inf: Tensor) -> None:
        """Adapt to the step just done; `found_inf` is 1.0 if it was skipped, else 0.0."""
        if not self.active:
            return
        found = found_inf > 0
        self.good_steps = torch.where(found, 0.0, self.good_steps + 1)
        grow = self.good_steps >= self.GROW
        self.value = torch.where(found, self.value * 0.5, torch.where(grow, self.value * 2, self.value))
        self.good_steps = torch.where(grow, 0.0, self.good_steps)

    def state(self) -> list[float]:
        """For the checkpoint."""
        return [float(self.value), float(self.good_steps)]

    def load_state(self, state: list[float]) -> None:
        """From the checkpoint."""
        self.value.fill_(state[0])
        self.good_steps.fill_(state[1])
