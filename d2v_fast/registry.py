"""Which modalities there are. Each is one object; this registry finds it by its name and knows nothing else about it.

It stands at the bottom of the house, so that no room below the modalities imports one: a room asks for a modality by
name and uses what its own protocol says (`d2v_fast.models.protocol`, `d2v_fast.data.protocol`).
"""

from __future__ import annotations

import importlib
from typing import Any

from d2v_fast.errors import ConfigError

BUILT_IN = ("speech", "vision", "text", "series", "spectrogram")
"""Rooms of d2v_fast.modalities; each registers its modality, of the same name, when it is imported."""

_registered: dict[str, Any] = {}


def register(modality: Any) -> Any:
    """Make a modality known under its `name`.

    Args:
        modality: A `d2v_fast.modalities.Modality`.

    Returns:
        The same object.

    Raises:
        ConfigError: Another modality has that name.
    """
    before = _registered.setdefault(modality.name, modality)
    if type(before) is not type(modality):
        raise ConfigError(
            f"there is a modality {modality.name!r} already, registered by {module_of(before)}: choose another name"
        )
    return before


def get(name: str) -> Any:
    """The modality called `name`. A built-in one is imported when it is first asked for; nothing else ever is.

    Raises:
        ConfigError: There is no such modality.
    """
    if name not in _registered and name in BUILT_IN:
        importlib.import_module(f"d2v_fast.modalities.{name}")
    if name not in _registered:
        raise ConfigError(
            f"there is no modality {name!r}; there are {', '.join(names())}. If it comes from another package, import "
            "the module that registers it first"
        )
    return _registered[name]


def names() -> list[str]:
    """The built-in modalities, then those registered by others."""
    return [*BUILT_IN, *(name for name in _registered if name not in BUILT_IN)]


def every() -> list[Any]:
    """All modalities that can be used now."""
    return [get(name) for name in names()]


def module_of(modality: Any) -> str:
    """The module that has to be imported for this modality to be registered."""
    return type(modality).__module__
