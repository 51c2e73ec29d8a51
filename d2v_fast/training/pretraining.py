"""Level 1 of the public surface: a preset by name, some fields changed, and a trainer for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.config_json import differences, dotted, field_of, with_overrides
from d2v_fast.data import Openable
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.files import exists
from d2v_fast.log import tell
from d2v_fast.presets.budget import seconds_of
from d2v_fast.presets.scaling import BATCH_FIELDS, follow, is_given
from d2v_fast.run import checkpoint as checkpoints
from d2v_fast.run.evidence import evidence, folder_of
from d2v_fast.run.reader import Run
from d2v_fast.run.settings import Notes
from d2v_fast.training.budget import fit_to_budget
from d2v_fast.training.observer import Observer
from d2v_fast.training.trainer import Data2VecTrainer


@dataclass(frozen=True)
class Start:
    """What a start of a preset with some fields changed comes to."""

    config: Config
    """What is trained."""

    notes: Notes
    """What config.json says beside it."""

    continues: bool
    """Whether the folder holds a run, whose settings these are where none was given."""

    followed: Mapping[str, Any]
    """Fields that followed those that were given, by their dotted names; empty for a run that continues."""


def pretrain(
    preset: str,
    *,
    data: Openable,
    out: str | Path,
    init_from: str | Path | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    scale: bool = True,
    probe: Observer | None = None,
    for_budget: str | None = None,
    data_changed: bool = False,
    **overrides: Any,
) -> Path:
    """Pretrain a preset on one's own data; the same call again continues the run.

    Example:
        >>> d2v_fast.pretrain("vision-base", data="photos/", out="runs/a", steps=10_000, optim={"lr": 1e-3})

    Args:
        preset: A name in `d2v_fast.presets.NAMES`.
        data: A folder, a file, or a source of one's own.
        out: The run's folder.
        init_from: A run whose student weights a new run starts from, or weights of another library
            (`interop.foreign`); a run that continues does not need it any more.
        resume: See `Data2VecTrainer.fit`.
        scale: Let learning rate, teacher decays and steps follow another batch size, and the teacher's annealing and
            the monitors' warm-up other steps (`presets.scaling.follow`). What is given stays as it is given.
        probe: What looks at the model while it trains, see `d2v_fast.evaluation.ProbeDuring`.
        for_budget: A time such as "1h": size, batch, steps and what hangs on them are chosen so that a new run takes
            about so long, by a few measured steps (`training.budget`). A run that continues keeps what was chosen.
        data_changed: See `Data2VecTrainer.fit`.
        **overrides: Fields of the preset's `Config` to change; a section takes a dictionary.

    Returns:
        The run's folder.

    Raises:
        ConfigError: There is no such preset or field, or a value cannot be used.
        RunError: See `Data2VecTrainer.fit`.
    """
    start = settle(preset, dotted(overrides), out, scale=scale, for_budget=for_budget, data=data)
    return begin(start, data, out, init_from, probe).fit(resume, data_changed=data_changed)


def settle(
    preset: str,
    given: Mapping[str, Any],
    out: str | Path,
    *,
    scale: bool = True,
    for_budget: str | None = None,
    data: Openable | None = None,
) -> Start:
    """The settings of a start; nothing is written.

    What follows from other settings is decided once, at a run's first start. A run that continues keeps its own value
    of each field that is not given, so the same command continues it, whatever the presets or the rules have become.

    Args:
        preset: Its name.
        given: Dotted name of each field that was given, or of a section as a whole, to its value.
        out: The run's folder, which need not be there.
        scale: See `pretrain`.
        for_budget: See `pretrain`; needs `data`.
        data: What is trained on.

    Raises:
        ConfigError: There is no such preset or field, a value cannot be used, or a budget is too short.
        RunError: The run in the folder is one of another preset, or cannot be read.
    """
    recipe = presets.preset(preset)
    budget = None if for_budget is None else seconds_of(for_budget)
    run = begun(folder_of(out))
    if run is not None:
        _check_preset(run, preset, with_overrides(recipe, given))
        notes = run.notes if run.notes.preset is not None else replace(run.notes, preset=preset)
        if budget is not None:
            tell("the budget was settled when this run began, and is not measured again", logging.INFO)
        return Start(with_overrides(run.config, given), notes, True, {})
    if budget is not None:
        if is_given("steps", given):
            raise ConfigError("--for-budget chooses the steps: give a budget or steps, not both")
        assert data is not None, "a budget is measured on the data"
        made = fit_to_budget(preset, given, data, budget)
        for reason in made.reasons:
            tell(reason, logging.INFO)
        chosen = tuple(name for name in made.given if not is_given(name, given))
        return Start(made.config, Notes(preset=preset, derived=chosen, budget=made.reasons), False, {})
    config, followed = follow(recipe, given) if scale else (with_overrides(recipe, given), {})
    return Start(config, Notes(preset=preset, derived=tuple(followed)), False, followed)


def begin(
    start: Start,
    data: Openable,
    out: str | Path,
    init_from: str | Path | None = None,
    probe: Observer | None = None,
) -> Data2VecTrainer:
    """The trainer of a start; says what followed from the settings that were given.

    Args:
        start: What `settle` gave.
        data: See `Data2VecTrainer`.
        out: The run's folder.
        init_from: See `pretrain`.
        probe: See `pretrain`.
    """
    trainer = Data2VecTrainer(start.config, data=data, out=out, init_from=init_from, notes=start.notes, probe=probe)
    if start.followed:
        tell(explain(start))
    return trainer


def explain(start: Start) -> str:
    """One line about the fields that followed."""
    name = start.notes.preset or ""
    recipe, config = presets.preset(name), start.config
    because = f"{config.steps:,} steps instead of the {recipe.steps:,} of {name}"
    if any(field_of(config, one) != field_of(recipe, one) for one in BATCH_FIELDS):
        because = f"{_batch(config)} a step instead of the {_batch(recipe)} of {name}"
    fields = ", ".join(f"{field} {_shown(value)}" for field, value in start.followed.items())
    return f"{because}: set {fields} (a field that you give stays as it is; --no-scale changes none)"


def _batch(config: Config) -> str:
    loader = config.loader
    unit = "s of sound" if loader.batch_seconds is not None else "samples" if loader.batch_tokens is None else "tokens"
    return f"{presets.global_batch(config):,.10g} {unit}"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def begun(folder: Path) -> Run | None:
    """The run in a folder; None if there is none, or one that ended before its first checkpoint."""
    if evidence(folder) is None or not (exists(folder / "config.json") or checkpoints.steps(folder / "checkpoints")):
        return None
    return Run(folder)


def _check_preset(run: Run, preset: str, asked: Config) -> None:
    """Refuse to continue a run with another preset.

    A run that does not say which preset it is of was begun from Python or by an older version: its model, masks and
    inputs must be what is asked for.

    Raises:
        RunError: It is another one.
    """
    known = run.notes.preset
    if known is not None and known != preset:
        raise RunError(
            f"{run.path} is a run of the preset {known}, not of {preset}: "
            "give that one to continue it, or another folder for a new run"
        )
    if known is None:
        parts = ("model", "mask", "inputs")
        wrong = [change for change in differences(run.config, asked) if change[0].split(".")[0] in parts]
        if wrong:
            name, old, new = wrong[0]
            raise RunError(
                f"{run.path} was made with another configuration; {name}: the run has {old!r}, this command {new!r}"
                + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
                + ". Give the run's preset and fields to continue it, or start a new run in another folder"
            )
