"""What is wrong with a configuration, found before anything is read or built."""

from __future__ import annotations

from d2v_fast.config import Config
from d2v_fast.data.engines.engine import check_engine
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.modalities import modality_of


def validate(config: Config) -> None:
    """Check the values that only the training room uses; each room checks its own.

    Raises:
        ConfigError: A field has a value that cannot be used; the message names it, its value and what is allowed.
    """
    optim, ema, loader = config.optim, config.ema, config.loader
    checks = [
        ("steps", config.steps, config.steps >= 1, "at least 1"),
        ("seed", config.seed, config.seed >= 0, "0 or more"),
        ("loader.batch_size", loader.batch_size, loader.batch_size >= 1, "at least 1"),
        ("loader.threads", loader.threads, loader.threads >= 1, "at least 1"),
        ("loader.prefetch", loader.prefetch, loader.prefetch >= 1, "at least 1"),
        ("loader.accumulation", loader.accumulation, loader.accumulation >= 1, "at least 1"),
        ("loader.max_skipped", loader.max_skipped, 0 <= loader.max_skipped <= 1, "a share between 0 and 1"),
        ("loader.holdout", loader.holdout, 0 <= loader.holdout < 1, "at least 0 and below 1"),
        ("optim.lr", optim.lr, optim.lr > 0, "above 0"),
        ("optim.betas", optim.betas, all(0 <= beta < 1 for beta in optim.betas), "at least 0 and below 1"),
        ("optim.eps", optim.eps, optim.eps > 0, "above 0"),
        ("optim.weight_decay", optim.weight_decay, optim.weight_decay >= 0, "0 or more"),
        ("optim.clip_norm", optim.clip_norm, optim.clip_norm is None or optim.clip_norm > 0, "above 0, or none"),
        ("optim.warmup", optim.warmup, 0 <= optim.warmup <= 1, "a share between 0 and 1"),
        ("optim.hold", optim.hold, 0 <= optim.hold <= 1 - optim.warmup, "a share of what the warm-up leaves"),
        ("optim.first_lr", optim.first_lr, 0 <= optim.first_lr <= 1, "a share between 0 and 1"),
        ("optim.last_lr", optim.last_lr, 0 <= optim.last_lr <= 1, "a share between 0 and 1"),
        (
            "optim.last_lr",
            optim.last_lr,
            optim.schedule == "cosine" or optim.last_lr > 0,
            "above 0 with the tri_stage schedule, which falls exponentially (the recipe has 0.01)",
        ),
        ("ema.start", ema.start, 0 <= ema.start <= 1, "between 0 and 1"),
        ("ema.end", ema.end, 0 <= ema.end <= 1, "between 0 and 1"),
        ("ema.anneal_steps", ema.anneal_steps, ema.anneal_steps >= 0, "0 or more"),
        ("checkpoint.every", config.checkpoint.every, config.checkpoint.every >= 1, "at least 1"),
        ("checkpoint.keep", config.checkpoint.keep, config.checkpoint.keep >= 1, "at least 1"),
        ("log.every", config.log.every, config.log.every >= 1, "at least 1"),
        ("log.validate_every", config.log.validate_every, config.log.validate_every >= 1, "at least 1"),
    ]
    for name, value, good, allowed in checks:
        if not good:
            raise ConfigError(f"{name} is {value}, but it must be {allowed}")
    modality = config.model.modality
    belongs = modality_of(config)
    for name, part, classes in (("mask", config.mask, belongs.masks), ("inputs", config.inputs, (belongs.inputs,))):
        if not isinstance(part, classes):
            names = " or a ".join(cls.__name__ for cls in classes)
            raise ConfigError(f"{name} is a {type(part).__name__}, but a {modality} model needs a {names}")
    for field in ("batch_seconds", "batch_tokens"):
        if getattr(loader, field) is not None and belongs.budget_field != field:
            raise ConfigError(
                f"loader.{field} is not for {modality}: use loader.{belongs.budget_field or 'batch_size'}"
            )
    if loader.pad and not belongs.pads:
        raise ConfigError(f"loader.pad is not for {modality}: leave it out")
    try:
        check_engine(loader.engine, modality, decodes=belongs.dali(config.inputs, config.model.embedding) is not None)
    except DataError as error:
        raise ConfigError(str(error)) from error
    belongs.check(config)
