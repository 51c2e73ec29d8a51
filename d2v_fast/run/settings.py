"""config.json: the configuration of a run, and what else has to be known to continue it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2v_fast import registry
from d2v_fast.config import Config
from d2v_fast.config_json import from_dict, to_dict
from d2v_fast.errors import ConfigError

AnyConfig = Any
"""A `Config`, or the configuration of a run that is no pretraining: then without masks, a teacher's decay, monitors."""

_KINDS = {"task": ("d2v_fast.finetuning.config", "FinetuneConfig")}
"""A key that the configuration of one kind of run has, to its class. It is imported when such a run is met, since it
stands above this room."""


@dataclass(frozen=True)
class Notes:
    """What config.json says beside the configuration."""

    preset: str | None = None
    """The preset that the run was begun with; None: from Python, or by a version that did not write it down."""

    derived: tuple[str, ...] = ()
    """Dotted names of the fields that nobody gave: they followed the batch or the steps at the first start."""

    budget: tuple[str, ...] = ()
    """What `--for-budget` chose at the first start and why, a sentence each; empty: it was not asked for."""


class ModalityUnknown(ConfigError):
    """The modality of a run is not registered; its module has to be imported first."""


def encode(config: AnyConfig, notes: Notes) -> dict[str, Any]:
    """The content of config.json."""
    modality = registry.get(config.model.modality)
    return {
        "modality": {"name": modality.name, "module": registry.module_of(modality)},
        "preset": notes.preset,
        "derived": list(notes.derived),
        **({"budget": list(notes.budget)} if notes.budget else {}),
        **to_dict(config),
    }


def decode(content: Mapping[str, Any]) -> tuple[AnyConfig, Notes]:
    """The inverse of `encode`; takes the files of older versions, too, which hold the configuration alone.

    Raises:
        ConfigError: The run's modality is not registered; the message names the module to import. Or a field is
            unknown, or its value cannot be used.
    """
    fields = dict(content)
    keys = ("modality", "preset", "derived", "budget")
    modality, preset, derived, budget = (fields.pop(key, None) for key in keys)
    if isinstance(modality, Mapping) and modality.get("name") not in registry.names():
        raise ModalityUnknown(
            f"its modality {modality.get('name')!r} is not registered: import {modality.get('module')} first "
            "(for the command line, its package names that module as an entry point of the group d2v_fast.modalities)"
        )
    names, reasons = (tuple(map(str, one)) if isinstance(one, list) else () for one in (derived, budget))
    return config_from(fields), Notes(preset if isinstance(preset, str) else None, names, reasons)


def config_from(fields: Mapping[str, Any]) -> AnyConfig:
    """The configuration of a run of whatever kind, from what `to_dict` gave.

    Raises:
        ConfigError: A field is unknown, or its value cannot be used.
    """
    for key, (module, name) in _KINDS.items():
        if key in fields:
            return from_dict(getattr(importlib.import_module(module), name), fields)
    return from_dict(Config, fields)
