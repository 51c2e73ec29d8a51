"""Learning rate and EMA decay as plain functions of the number of attempted optimizer steps."""

from __future__ import annotations

import math

from d2v_fast.config import EmaConfig, OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) in a run of `steps` steps (data2vec.md 1.10, 2.1).

    A linear warm-up from `first_lr` over W steps; then "cosine" and "linear" fall to `last_lr` at the end of the run,
    and "tri_stage" holds for H steps and falls exponentially to `last_lr`.
    """
    warmup = _share(steps, config.warmup)
    if step < warmup:
        return config.lr * (config.first_lr + (1.0 - config.first_lr) * step / warmup)
    if config.schedule != "tri_stage":
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        if config.schedule == "linear":
            return config.lr * (1.0 - (1.0 - config.last_lr) * progress)
        return config.lr * (config.last_lr + (1.0 - config.last_lr) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    hold = _share(steps, config.hold)
    if step < warmup + hold:
        return config.lr
    progress = min(1.0, (step - warmup - hold) / max(1, steps - warmup - hold))
    return config.lr * math.exp(math.log(config.last_lr) * progress)


def ema_decay(config: EmaConfig, step: int) -> float:
    """The decay of the teacher's update after optimizer step `step` (from 0).

    That update is number step + 1, and the released code indexes its decay by it: already the first one uses a little
    more than `start`.
    """
    done = step + 1
    if done >= config.anneal_steps:
        return config.end
    return config.end - (config.end - config.start) * (1 - done / config.anneal_steps)


def share_of_start(config: EmaConfig, steps: int) -> float:
    """How much of the teacher is its random start after `steps` steps: the product of the decays, from 0 to 1."""
    if min(config.start, config.end) == 0:
        return 0.0 if steps else 1.0
    annealed = min(steps, max(0, config.anneal_steps - 1))
    annealing = sum(math.log(ema_decay(config, step)) for step in range(annealed))
    return math.exp(annealing + (steps - annealed) * math.log(config.end))


def too_short(config: EmaConfig, steps: int) -> str | None:
    """A sentence about a run that is too short for its teacher's decay; None if it is not."""
    share = share_of_start(config, steps)
    if steps == 0 or share <= _TOO_MUCH:
        return None
    count = "1 step is" if steps == 1 else f"{steps:,} steps are"
    return (
        f"{count} short for this teacher: at the end {share:.0%} of it will still be its random start. Give the run "
        f"more steps, or lower ema.start ({config.start:.6g}) and ema.end ({config.end:.6g})"
    )


_TOO_MUCH = 0.95
"""Share of the random start in the teacher at the end of a run above which the run is called too short. A slow teacher
may be a good one: `speech-tiny` ends at 0.80, `text2-tiny` at 0.89, and no preset is above 0.91."""


def _share(steps: int, share: float) -> int:
    # Rounded down as in the released code, but not when only the product's rounding error is missing (0.07 * 100 < 7).
    return math.floor(steps * share + 1e-6)
