"""Level 1 of the public surface: a preset by name, some fields changed, and a trainer for it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import with_overrides
from d2v_fast.data import Openable
from d2v_fast.errors import ConfigError
from d2v_fast.training.trainer import Data2VecTrainer


def pretrain(
    preset: str,
    *,
    data: Openable,
    out: str | Path,
    init_from: str | Path | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    **overrides: Any,
) -> Path:
    """Pretrain a preset on one's own data; the same call again continues the run.

    Example:
        >>> d2v_fast.pretrain("vision-base", data="photos/", out="runs/a", steps=10_000, optim={"lr": 1e-3})

    Args:
        preset: A name in `d2v_fast.presets.NAMES`.
        data: A folder, a file, or a source of one's own.
        out: The run's folder.
        init_from: A run whose student weights a new run starts from.
        resume: See `Data2VecTrainer.fit`.
        **overrides: Fields of the preset's `Config` to change; a section takes a dictionary.

    Returns:
        The run's folder.

    Raises:
        ConfigError: There is no such preset or field, or a value cannot be used.
        RunError: See `Data2VecTrainer.fit`.
    """
    config = with_overrides(preset_config(preset), overrides)
    return Data2VecTrainer(config, data=data, out=out, init_from=init_from).fit(resume)


def preset_config(name: str) -> Config:
    """The configuration of the preset `name`.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in presets.NAMES:
        near = difflib.get_close_matches(name, presets.NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(presets.NAMES)}"
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    return presets.NAMES[name]()
