"""Fit a recipe to another batch or another length: what the recipe says per sample stays true."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from d2v_fast.config import Config
from d2v_fast.config_json import field_of, with_overrides
from d2v_fast.data.config import LoaderConfig

BATCH_FIELDS = ("loader.batch_size", "loader.batch_seconds", "loader.batch_tokens", "loader.accumulation")
"""The fields that decide how much an optimizer step sees."""


def global_batch(config: Config) -> float:
    """What one optimizer step sees at most.

    Args:
        config: A configuration.

    Returns:
        Micro-batch times accumulation: seconds of sound where the loader counts seconds, tokens where it counts tokens,
        else samples.
    """
    return _amount(config, _unit(config))


def scale_to_batch(
    config: Config, batch: float, *, micro_batch: float | None = None, views: int | None = None
) -> Config:
    """The same recipe for a global batch of another size; k is the new batch over the old one.

    * Learning rate: times sqrt(k), the rule for Adam-type optimizers (Malladi et al. 2022, arXiv 2205.10287). Betas,
      eps and weight decay stay as they are.
    * Teacher decays: to the power k, so the half-life is the same number of samples.
    * Steps, `ema.anneal_steps` and `monitor.warmup_steps`: divided by k, so they come after the same number of samples.
      Warm-up and hold are shares of the steps and follow by themselves.

    A batch counts its samples, however many masked views there are of each: other views of a sample are no new samples,
    so nothing of the recipe follows their number but the micro-batch that fits. The weight of the class token's loss is
    that of a mean and follows neither.

    Args:
        config: The recipe.
        batch: The new global batch, in the unit of `global_batch`: seconds of sound if `loader.batch_seconds` is set,
            tokens if `loader.batch_tokens` is, else samples.
        micro_batch: The most that the device holds at once, same unit; None keeps the recipe's micro-batch.
            Accumulation is the smallest number of equal micro-batches that are not larger.
        views: Masked views of each sample; None keeps the recipe's. Where `micro_batch` is None, a micro-batch holds at
            most as many views as the recipe's.

    Returns:
        The scaled configuration.

    Raises:
        ValueError: If `batch` or `micro_batch` is not positive, or `batch` samples cannot be split evenly into
            micro-batches at least half as large as allowed.
        ConfigError: `views` is out of range.
    """
    if not (math.isfinite(batch) and batch > 0):
        raise ValueError(f"batch must be positive, got {batch}")
    if micro_batch is not None and not (math.isfinite(micro_batch) and micro_batch > 0):
        raise ValueError(f"micro_batch must be positive, got {micro_batch}")
    if views is not None:
        before, config = config.mask.views, with_overrides(config, {"mask.views": views})
        if micro_batch is None and before != views:
            micro_batch = _fitting(config, before / views)
    scaled = _scaled(config, batch / global_batch(config))
    return with_overrides(replace(config, loader=_split(config, batch, micro_batch)), scaled)


def follow(recipe: Config, given: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """A recipe with some fields changed, and with it the fields that hang on them, as in `scale_to_batch`.

    Another global batch takes learning rate, teacher decays and steps along. Other steps take `ema.anneal_steps` and
    `monitor.warmup_steps` along, in proportion (but for 0 steps). A field that is given stays as it is given.

    Args:
        recipe: A preset's configuration.
        given: Dotted name of a field, or of a section as a whole, to its value.

    Returns:
        The configuration, and the fields that followed: dotted name to new value, where it differs from the recipe's.

    Raises:
        ConfigError: A field is unknown, or a value cannot be used.
    """
    changed = with_overrides(recipe, given)
    ratio = _ratio(changed, recipe) if any(is_given(name, given) for name in BATCH_FIELDS) else 1.0
    values = _scaled(recipe, ratio)
    if is_given("steps", given) and changed.steps > 0:  # a run of no steps may grow later
        values |= _in_proportion(recipe, changed.steps / recipe.steps)
    before = {name: field_of(recipe, name) for name in values}
    followed = {name: value for name, value in values.items() if not is_given(name, given) and value != before[name]}
    return with_overrides(changed, followed), followed


def is_given(name: str, given: Collection[str]) -> bool:
    """Whether the field `name`, or a section that it is in, is among the dotted names `given`."""
    return any(name == one or name.startswith(f"{one}.") for one in given)


def _scaled(config: Config, ratio: float) -> dict[str, Any]:
    """Dotted names of the fields that follow the batch, and their values for a batch `ratio` times as large."""
    steps = max(1, round(config.steps / ratio))
    values: dict[str, Any] = {
        "optim.lr": config.optim.lr * math.sqrt(ratio),
        "ema.start": config.ema.start**ratio,
        "ema.end": config.ema.end**ratio,
        "steps": steps,
    }
    return values | _in_proportion(config, 1 / ratio)


def _in_proportion(config: Config, factor: float) -> dict[str, Any]:
    return {
        "ema.anneal_steps": round(config.ema.anneal_steps * factor),
        "monitor.warmup_steps": round(config.monitor.warmup_steps * factor),
    }


def _ratio(new: Config, old: Config) -> float:
    """The global batch of `new` over that of `old`, which may count in another unit."""
    counted = {_unit(new), _unit(old)} - {"samples"}
    unit = counted.pop() if counted else "samples"
    return _amount(new, unit) / _amount(old, unit)


def _unit(config: Config) -> str:
    """What the loader bounds a batch by: "seconds", "tokens", or "samples"."""
    if config.loader.batch_seconds is not None:
        return "seconds"
    return "samples" if config.loader.batch_tokens is None else "tokens"


def _amount(config: Config, unit: str) -> float:
    """The most that a step sees, in `unit`: by the bound on the content and by the bound on the number of samples."""
    loader, inputs = config.loader, cast(Any, config.inputs)
    amount: float = loader.batch_size
    if unit == "seconds":
        amount = min(amount * inputs.max_seconds, loader.batch_seconds or math.inf)
    elif unit == "tokens":
        amount = min(amount * inputs.block_size, loader.batch_tokens or math.inf)
    return amount * loader.accumulation


def _fitting(config: Config, factor: float) -> float:
    """The recipe's micro-batch times `factor`, in its unit."""
    unit = _unit(config)
    held = factor * _amount(config, unit) / config.loader.accumulation
    return held if unit == "seconds" else max(1, int(held))


def _split(config: Config, batch: float, micro_batch: float | None) -> LoaderConfig:
    """The loader whose micro-batches make up `batch`."""
    loader, unit = config.loader, _unit(config)
    if unit != "samples":
        before = _amount(config, unit) / loader.accumulation
        accumulation = math.ceil(batch / (micro_batch or before))
        amount = batch / accumulation
        # The bound on the number of samples keeps its proportion to the content.
        samples = max(1, math.ceil(loader.batch_size * amount / before))
        if unit == "seconds":
            return replace(loader, batch_size=samples, batch_seconds=amount, accumulation=accumulation)
        return replace(loader, batch_size=samples, batch_tokens=max(1, round(amount)), accumulation=accumulation)
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
