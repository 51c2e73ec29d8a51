"""Fit a recipe to a time: size, batch, steps, learning rate, teacher and monitors together, from a measured rate.

A pure function of what was measured (`decide`); `d2v_fast.training.budget` measures. The rules are ours, and each
sentence that `decide` gives says which one it followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from d2v_fast.config import Config
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.models.config import DecoderConfig
from d2v_fast.presets.scaling import follow, is_given
from d2v_fast.presets.small import SLOW, fitted_decay, half_lives_of

FEWEST = 300
"""Steps below which no run is begun: the tiny presets need as many before they have learned anything to speak of."""

ENOUGH, MANY = 4_000, 30_000
"""Steps that a run should have, or a smaller network is taken; and from which on a larger one is tried."""

MOST_EPOCHS = 400
"""Times that the corpus is seen at most: vision2-base sees ImageNet 75 times; small corpora are seen more often."""

FEWEST_BATCHES = 8
"""Batches that an epoch should have, or a batch becomes smaller."""

USED = 0.9
"""Share of the time that the steps may take; the rest is for reading the data, the log and checkpoints."""

SIZES = ((96, 4, 3), (128, 6, 2), (192, 6, 3), (256, 8, 4), (384, 12, 6))
"""Width, blocks and heads of the networks to choose from; the third is that of `vision-small`, the last ViT-S. Where a
recipe has the width of one, the recipe's own network takes its place."""

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Decision:
    """What a budget comes to."""

    given: Mapping[str, Any]
    """Dotted names of fields to values: what was asked for and what was decided."""

    config: Config
    """The recipe with all of it."""

    reasons: tuple[str, ...]
    """What was chosen and why, a sentence each."""


def seconds_of(text: str) -> float:
    """The seconds in "1h", "90m", "2h30m", "45min" or "1.5h".

    Raises:
        ConfigError: It is none of these, or not above 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", text.lower())
    if not parts or not whole or any(unit not in _UNITS for _, unit in parts):
        raise ConfigError(
            f"a budget is a time such as 1h, 90m, 2h30m or 45min, got {text!r}: give a number with s, m, h or d"
        )
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < total < math.inf:
        raise ConfigError(f"a budget is a time above 0, got {text!r}")
    return total


def decide(
    recipe: Config,
    given: Mapping[str, Any],
    *,
    budget: float,
    samples: int,
    measure: Callable[[Config], tuple[float, float]],
    ladder: bool,
) -> Decision:
    """Fit a recipe to a time.

    Args:
        recipe: Of a preset.
        given: Fields that were asked for, or that the data asks for; they stay as they are.
        budget: Seconds.
        samples: Of the corpus.
        measure: Seconds of a step of a configuration, and the samples that it sees.
        ladder: Whether the network may become smaller or larger: its width, depth, heads and what hangs on them.

    Raises:
        ConfigError: The time is too short for `FEWEST` steps, whatever the network.
    """
    reasons: list[str] = []
    chosen = dict(given)
    chosen |= _batch(recipe, given, samples, reasons)
    own = recipe.model.transformer.dim
    climbs = ladder and not _touched(given)
    sizes = [{} if size[0] == own else _sized(recipe, *size) for size in SIZES] if climbs else [{}]
    at = next((i for i, size in enumerate(sizes) if not size), 0)
    rates: dict[int, tuple[float, float]] = {}

    def steps_of(i: int) -> int:
        if i not in rates:
            rates[i] = measure(follow(recipe, {**sizes[i], **chosen})[0])
        return int(USED * budget / rates[i][0])

    while at > 0 and steps_of(at) < ENOUGH:
        at -= 1
    while at + 1 < len(sizes) and steps_of(at) >= MANY and steps_of(at + 1) >= MANY // 2:
        at += 1
    affordable = steps_of(at)
    seconds, seen = rates[at]
    if affordable < FEWEST:
        raise ConfigError(
            f"the budget is too short: a step takes {seconds:.3g} s here, so {_time(budget)} are {affordable:,} steps, "
            f"and fewer than {FEWEST} teach next to nothing. Give at least {_time(FEWEST * seconds / USED)}, or a "
            "smaller preset"
        )
    chosen = {**sizes[at], **chosen}
    if climbs:
        network = with_overrides(recipe, sizes[at]).model.transformer
        said = "fewer steps than that" if affordable < ENOUGH else f"{affordable:,} steps fit"
        reasons.append(
            f"network: {network.depth} blocks of width {network.dim}; with it {said} (a run should have {ENOUGH:,} "
            "or more)"
        )
    epoch = max(1.0, samples / max(seen, 1e-9))
    steps = min(affordable, max(FEWEST, int(MOST_EPOCHS * epoch)))
    why = f"a step takes {seconds:.3g} s here, and {1 - USED:.0%} of the time is for all else"
    if steps < affordable:
        why = f"more than {MOST_EPOCHS} epochs of {samples:,} samples teach little; the time is not used up"
    reasons.append(f"steps: {steps:,}, {steps / epoch:.3g} epochs, about {_time(steps * seconds / USED)}; {why}")
    ema = fitted_decay(recipe, steps)
    schedule = {
        "steps": steps,
        "ema.start": ema.start,
        "ema.end": ema.end,
        "ema.anneal_steps": ema.anneal_steps,
        "monitor.warmup_steps": steps // 10,
        "log.every": max(1, min(recipe.log.every, steps // 50)),
        "checkpoint.every": max(1, min(recipe.checkpoint.every, steps // 10)),
    }
    chosen = {**schedule, **chosen}
    config = with_overrides(recipe, chosen)
    lr = follow(recipe, {name: value for name, value in chosen.items() if name.startswith("loader.")})[0].optim.lr
    lr *= recipe.model.transformer.dim / config.model.transformer.dim
    if not is_given("optim.lr", given):
        chosen["optim.lr"] = float(f"{lr:.3g}")
    config = with_overrides(recipe, chosen)
    half_lives = half_lives_of(recipe)
    if half_lives is None:
        why = "as the recipe has it, which was chosen for short runs"
    elif half_lives == SLOW:
        why = f"so that it hardly moves: it would forget half in {SLOW[0]:g} to {SLOW[1]:g} times as many steps"
    else:
        why = "so that it forgets half in 0.9 % of the steps at first and in 18 % at the end, as vision2-base does"
    reasons.append(
        f"teacher: decay {config.ema.start:.6g} to {config.ema.end:.6g} within {config.ema.anneal_steps:,} steps, {why}"
    )
    reasons.append(
        f"learning rate: {config.optim.lr:.3g}, the recipe's times the root of the ratio of the batches and the "
        f"inverse ratio of the widths; warm-up over {config.optim.warmup:.0%} of the steps"
    )
    return Decision(chosen, config, tuple(reasons))


def _batch(recipe: Config, given: Mapping[str, Any], samples: int, reasons: list[str]) -> dict[str, Any]:
    """A smaller batch for a corpus of few samples."""
    size = recipe.loader.batch_size
    if is_given("loader.batch_size", given) or is_given("loader", given) or samples >= FEWEST_BATCHES * size:
        return {}
    smaller = max(4, samples // FEWEST_BATCHES)
    if smaller >= size:
        return {}
    reasons.append(
        f"batch: {smaller} instead of {size}, as there are {samples:,} samples: {FEWEST_BATCHES} batches an epoch"
    )
    found: dict[str, Any] = {"loader.batch_size": smaller}
    seconds = recipe.loader.batch_seconds
    if seconds is not None:
        found["loader.batch_seconds"] = seconds * smaller / size
    return found


def _touched(given: Collection[str]) -> bool:
    """Whether a field of the network is given: then its size is the user's."""
    return any(
        name.startswith(("model.transformer", "model.head", "model.target")) or name == "model" for name in given
    )


def _sized(recipe: Config, dim: int, depth: int, heads: int) -> dict[str, Any]:
    """The fields of a network of this size, in the proportions of the small presets."""
    found: dict[str, Any] = {
        "model.transformer.dim": dim,
        "model.transformer.depth": depth,
        "model.transformer.heads": heads,
        "model.transformer.ffn_dim": 4 * dim,
        "model.target.top_k": round(2 / 3 * depth),
    }
    if isinstance(recipe.model.head, DecoderConfig):
        found |= {"model.head.dim": dim // 2, "model.head.groups": dim // 32}
    return found


def _time(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
