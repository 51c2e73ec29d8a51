"""Number formats: autocast, TensorFloat-32, products on a CPU, attention's kernel, the loss scale of float16."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v_fast.config import PrecisionConfig
from d2v_fast.errors import ConfigError
from d2v_fast.files import exists
from d2v_fast.log import tell
from d2v_fast.ops.attention import choose
from d2v_fast.ops.front_layer import earlier_front_layer
from d2v_fast.ops.fused_attention import earlier_attention
from d2v_fast.ops.linear import has_bfloat16_products, torch_products
from d2v_fast.ops.norm_gelu import earlier_norm_gelu, earlier_norm_gelu_of_gpus
from d2v_fast.run.directory import read_config
from d2v_fast.run.evidence import evidence, folder_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


LEAST_WIDTH = 384
"""Channels of the context network from which on bfloat16 is faster on a CPU (docs/measured.md)."""


def settled(config: Any, device: torch.device, out: Path) -> Any:
    """The configuration with a format in place of precision.autocast "auto"; says which, and why.

    Args:
        config: Of a run, whatever its task.
        device: Where it computes.
        out: The run's folder. A run that is there keeps its format.
    """
    if config.precision.autocast != "auto":
        return config
    run = folder_of(out)
    if evidence(run) is not None and exists(run / "config.json"):
        name, why = read_config(run).precision.autocast, "as the run began"
    else:
        name, why = choose_format(device, config.model.transformer.dim)
    tell(f"precision.autocast: {name} ({why})", logging.INFO)
    return replace(config, precision=replace(config.precision, autocast=name))


def choose_format(device: torch.device, width: int) -> tuple[str, str]:
    """The format that "auto" stands for, and why.

    Args:
        device: Where it computes.
        width: Channels of the context network.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU multiplies it"
        return "float32", "the GPU does not multiply bfloat16; float16 is faster, but needs loss scaling"
    if device.type != "cpu":
        return "float32", f"nothing else has been tried on {device.type}"
    if not has_bfloat16_products():
        return "float32", "the processor does not multiply bfloat16"
    if width < LEAST_WIDTH:
        return "float32", f"the processor multiplies bfloat16, but {width} channels are too few to gain by it"
    return "bfloat16", "the processor multiplies it"


class Autocast(torch.autocast):
    """`torch.autocast` that forgets its copies of the weights at its end, also inside of another one.

    torch keeps them until the outermost context ends, so a step would compute with the weights of the first one.
    """

    def __exit__(self, *raised: Any) -> Any:
        """End the context."""
        result = super().__exit__(*raised)
        torch.clear_autocast_cache()
        return result


def autocast(config: PrecisionConfig, device: torch.device) -> torch.autocast:
    """The context of the forward pass.

    Raises:
        ConfigError: float16 was asked for without CUDA, or "auto" was not settled.
    """
    if config.autocast == "auto":
        raise ConfigError("precision.autocast is 'auto', which a trainer settles: name a format here")
    if config.autocast == "float16" and device.type != "cuda":
        raise ConfigError(
            f"precision.autocast is 'float16', which needs CUDA, but this run is on {device.type}; "
            "use bfloat16 or float32"
        )
    dtype = DTYPES[config.autocast]
    return Autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextlib.contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Gradients and number formats as the run says, whatever modes of torch the caller is in.

    Those are `torch.inference_mode`, `torch.no_grad`, `torch.set_grad_enabled(False)` and `torch.autocast`.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def tensor_float32(config: PrecisionConfig, device: torch.device) -> Iterator[None]:
    """Float32 products of the GPU in TensorFloat-32 or not, as `precision.tf32` says; torch's settings come back.

    torch has two sets of settings for it, an old and a new one, and reading the old one raises RuntimeError where they
    differ. So both are set here, and both are put back as far as they could be read.
    """
    if device.type != "cuda":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    places = (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul)
    new = [place.fp32_precision for place in places]
    products = convolutions = None
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = config.tf32
        for place in (cudnn.conv, cudnn.rnn):
            if not config.tf32 and place.fp32_precision == "tf32":  # from torch.backends.fp32_precision
                place.fp32_precision = "ieee"
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for place, before in zip(places, new, strict=True):
            place.fp32_precision = before


@contextlib.contextmanager
def products(numerics: int) -> Iterator[None]:
    """Whose products, attention, norm and GELU a run has; torch's, as far as it began with them."""
    with contextlib.ExitStack() as earlier:
        if numerics < 3:
            earlier.enter_context(torch_products())
        elif numerics < 4:
            earlier.enter_context(torch_products(torch.bfloat16))
        if numerics < 4:
            earlier.enter_context(earlier_attention())
            earlier.enter_context(earlier_norm_gelu())
        if numerics < 5:
            earlier.enter_context(earlier_front_layer())
            earlier.enter_context(earlier_norm_gelu_of_gpus())
        yield


def check_attention(config: Any, device: torch.device) -> None:
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
            # Of data2vec 1.0 only sequences without a bias are ever packed.
            bias=config.model.encodes_kept and config.model.embedding.biases,
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
        first = self.FIRST if self.active else 1.0
        self.value = torch.full((), first, dtype=torch.float32, device=device)
        self.good_steps = torch.zeros((), dtype=torch.float32, device=device)

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
