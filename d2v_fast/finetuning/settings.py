"""The settings of a fine-tuning: those of the pretrained run, the task's defaults, a recipe, and what is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v_fast import registry
from d2v_fast.config_json import with_overrides
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.finetuning import imported
from d2v_fast.finetuning.config import FinetuneConfig, TaskConfig
from d2v_fast.finetuning.recipes import RECIPES
from d2v_fast.finetuning.tasks import TASKS
from d2v_fast.interop import foreign
from d2v_fast.interop.described import described
from d2v_fast.models.config import ModelConfig
from d2v_fast.run.evidence import folder_of
from d2v_fast.run.reader import Run
from d2v_fast.training.pretraining import begun


def settle(
    run: str | Path, task: str, given: Mapping[str, Any], out: str | Path, recipe: str | None = None
) -> FinetuneConfig:
    """The settings of a start; nothing is written. A run that continues keeps those that are not given.

    Args:
        run: The pretrained run.
        task: Name of the task.
        given: Dotted name of each field that was given to its value.
        out: The folder of the new run.
        recipe: See `finetune`.

    Raises:
        ConfigError: There is no such task, recipe or field, or a value cannot be used.
        RunError: A run cannot be read, or the folder holds one of another kind.
    """
    before = begun(folder_of(out))
    if before is not None:
        config = before.config
        if not isinstance(config, FinetuneConfig):
            raise RunError(f"{before.path} is a pretraining run: give the fine-tuning a folder of its own")
        if config.task.name != task:
            raise RunError(f"{before.path} is a run of the task {config.task.name}, not of {task}")
        return with_overrides(config, given)
    return with_overrides(default_config(run, task, recipe), given)


def default_config(run: str | Path, task: str, recipe: str | None = None) -> FinetuneConfig:
    """The settings of a new fine-tuning, before anything is changed.

    Args:
        run: The pretrained run: its model and inputs are taken over.
        task: Name of the task.
        recipe: See `finetune`.

    Raises:
        ConfigError: There is no such task or recipe.
        RunError: The run cannot be read.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    model, inputs, where = pretrained(run)
    modality: Any = registry.get(model.modality)
    config = FinetuneConfig(
        task=TaskConfig(name=task),  # type: ignore[arg-type]  # one of TASKS, as checked above
        model=model,
        inputs=modality.for_labels(modality.for_features(inputs, where), model.embedding),
        loader=LoaderConfig(batch_size=32, holdout=0.1, pad=modality.pads),
    )
    source = str(Path(run).expanduser().resolve())
    config = with_overrides(config, {"encoder.run": source, **TASKS[task].defaults(config)})
    if (foreigner := foreign.place(run)) is not None:
        config = with_overrides(config, imported.defaults(foreigner, task))
    if recipe is None:
        return config
    if task != "ctc" and any(name.startswith("ctc.") for name in RECIPES[recipe]):
        raise ConfigError(f"the recipe {recipe} is for the task ctc, not for {task}")
    try:
        return with_overrides(config, RECIPES[recipe])
    except ConfigError as error:
        raise ConfigError(f"the recipe {recipe} does not fit the task {task} of {model.modality}: {error}") from error


def pretrained(run: str | Path) -> tuple[ModelConfig, InputsConfig, Path]:
    """The model of a run, or of a folder of another library, how it makes inputs, and the folder.

    Raises:
        RunError: It cannot be read.
    """
    if (folder := foreign.place(run)) is None:
        opened = Run(run)
        return opened.config.model, opened.config.inputs, opened.path
    return described(folder)
