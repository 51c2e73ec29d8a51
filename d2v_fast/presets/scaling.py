"""Fit a recipe to another batch size: what the recipe says per sample stays true."""

from __future__ import annotations

import math
from dataclasses import replace

from d2v_fast.config import Config
from d2v_fast.data.config import LoaderConfig


def global_batch(config: Config) -> float:
    """What one optimizer step sees: seconds of sound when the loader counts seconds, else samples.

    Args:
        config: A configuration.

    Returns:
        Micro-batch times accumulation.
    """
    loader = config.loader
    return (loader.batch_size if loader.batch_seconds is None else loader.batch_seconds) * loader.accumulation


def scale_to_batch(config: Config, batch: float, *, micro_batch: float | None = None) -> Config:
    """The same recipe for a global batch of another size; k is the new batch over the old one.

    * Learning rate: times sqrt(k), the rule for Adam-type optimizers (Malladi et al. 2022, arXiv 2205.10287). Betas,
      eps and weight decay stay as they are.
    * Teacher decays: to the power k, so the half-life is the same number of samples.
    * Steps, `ema.anneal_steps` and `monitor.warmup_steps`: divided by k, so they come after the same number of samples.
      Warm-up and hold are shares of the steps and follow by themselves.

    Args:
        config: The recipe.
        batch: The new global batch, in the unit of `global_batch`: seconds of sound if `loader.batch_seconds` is set,
            else samples.
        micro_batch: The most that the device holds at once, same unit; None keeps the recipe's micro-batch.
            Accumulation is the smallest number of equal micro-batches that are not larger.

    Returns:
        The scaled configuration.

    Raises:
        ValueError: If `batch` or `micro_batch` is not positive, or `batch` samples cannot be split evenly into
            micro-batches at least half as large as allowed.
    """
    if not (math.isfinite(batch) and batch > 0):
        raise ValueError(f"batch must be positive, got {batch}")
    if micro_batch is not None and not (math.isfinite(micro_batch) and micro_batch > 0):
        raise ValueError(f"micro_batch must be positive, got {micro_batch}")
    ratio = batch / global_batch(config)
    ema = config.ema
    return replace(
        config,
        loader=_split(config.loader, batch, micro_batch),
        optim=replace(config.optim, lr=config.optim.lr * math.sqrt(ratio)),
        ema=replace(ema, start=ema.start**ratio, end=ema.end**ratio, anneal_steps=_steps(ema.anneal_steps, ratio)),
        monitor=replace(config.monitor, warmup_steps=_steps(config.monitor.warmup_steps, ratio)),
        steps=max(1, _steps(config.steps, ratio)),
    )


def _steps(steps: int, ratio: float) -> int:
    """As many steps as see the same number of samples."""
    return round(steps / ratio)


def _split(loader: LoaderConfig, batch: float, micro_batch: float | None) -> LoaderConfig:
    """The loader whose micro-batches make up `batch`."""
    if loader.batch_seconds is not None:
        largest = micro_batch or loader.batch_seconds
        accumulation = math.ceil(batch / largest)
        seconds = batch / accumulation
        # The bound on the number of clips keeps its proportion to the seconds.
        clips = max(1, math.ceil(loader.batch_size * seconds / loader.batch_seconds))
        return replace(loader, batch_size=clips, batch_seconds=seconds, accumulation=accumulation)
    if batch != int(batch):
        raise ValueError(f"batch counts samples and must be a whole number, got {batch}")
    if micro_batch is not None and micro_batch != int(micro_batch):
        raise ValueError(f"micro_batch must be a whole number of samples, got {micro_batch}")
    total, largest = int(batch), int(micro_batch or loader.batch_size)
    size = next((n for n in range(min(largest, total), 0, -1) if total % n == 0), 1)
    if 2 * size < min(largest, total):
        below = max(largest, total // largest * largest)
        raise ValueError(
            f"a batch of {total} samples cannot be split evenly into micro-batches of {largest} or a little less "
            f"(the next that fits is {size}): choose {below} or {below + largest} samples, or another micro_batch"
        )
    return replace(loader, batch_size=size, accumulation=total // size)
