"""A configuration as JSON and back, changed by name, and compared with another one."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from d2v_fast import registry
from d2v_fast.checks import MISSING, join, named, settle, shown
from d2v_fast.data.config import InputsConfig
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import MaskConfig
from d2v_fast.models.config import EmbeddingConfig

T = TypeVar("T")

BASES = (EmbeddingConfig, InputsConfig, MaskConfig)
"""Types of fields that hold an instance of a derived class."""

KIND = "kind"
"""The key that names the class, where a field may hold one of several dataclasses: those derived from its type, or the
members of a union, the first of which need not be named."""


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass `config` as dictionaries, lists, strings and numbers."""
    hints = typing.get_type_hints(type(config))
    result: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            hint = hints[field.name]
            unnamed = type(value) is hint or type(value) is _members(hint)[0]
            value = ({} if unnamed else {KIND: type(value).__name__}) | to_dict(value)
        result[field.name] = _lists(value)
    return result


def from_dict(cls: type[T], data: Any, name: str = "") -> T:
    """The inverse of `to_dict`. Fields that are missing take their default.

    Args:
        cls: The dataclass to build.
        data: What `to_dict` gave, perhaps by way of JSON.
        name: Dotted name of this part, for the messages.

    Raises:
        ConfigError: A field is unknown, is missing without a default, or has a value of another type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{name or 'config'}: expected the fields of {cls.__name__}, got {shown(data)}")
    hints = typing.get_type_hints(cls)
    values = {
        field.name: field.metadata[MISSING] for field in fields(typing.cast(Any, cls)) if MISSING in field.metadata
    }
    for key, value in data.items():
        if key != KIND:
            values[key] = _decode(_hint(hints, key, name), value, join(name, key))
    try:
        with named(cls, name):
            return cls(**values)
    except TypeError as error:  # only a missing field is left
        raise ConfigError(f"{name or 'config'}: {str(error).split('__init__() ')[-1]}") from error


def with_overrides(config: T, overrides: Mapping[str, Any], name: str = "") -> T:
    """A copy of `config` with some fields changed.

    Args:
        config: Any dataclass.
        overrides: Field name (dots lead into sections: "optim.lr") to its value, or to a mapping for a whole section.
        name: Dotted name of this part, for the messages.

    Raises:
        ConfigError: A field is unknown or its value has another type.
    """
    hints = typing.get_type_hints(type(config))
    values: dict[str, Any] = {}
    for key, value in _by_section(overrides).items():
        hint, current = _hint(hints, key, name), getattr(config, key)
        if is_dataclass(current) and isinstance(value, Mapping) and KIND not in value:
            value = with_overrides(current, value, join(name, key))
        elif not is_dataclass(value):
            value = _decode(hint, value, join(name, key))
        values[key] = value
    with named(type(config), name):  # all at once: what fits together may not fit one by one
        return replace(config, **values)  # type: ignore[type-var]  # of a class that only the caller knows


def dotted(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}, "steps": 3} as {"optim.lr": 1, "steps": 3}; sections given as a whole stay whole."""
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and KIND not in value:
            result |= dotted(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def field_of(config: Any, name: str) -> Any:
    """The value of the field with the dotted name."""
    for key in name.split("."):
        config = getattr(config, key)
    return config


def fields_by_name(config: Any) -> dict[str, Any]:
    """Every field of a configuration by its dotted name, as JSON can hold it."""
    return dict(_flat(to_dict(config)))


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of each field that differs between two configurations."""
    left, right = fields_by_name(old), fields_by_name(new)
    names = list(left) + [name for name in right if name not in left]
    absent = "(no such field)"
    pairs = [(name, left.get(name, absent), right.get(name, absent)) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]


def _by_section(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"optim.lr": 1, "optim": {"eps": 2}, "steps": 3} as {"optim": {"lr": 1, "eps": 2}, "steps": 3}; the last wins."""
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        first, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        before = result.get(first)
        if isinstance(value, Mapping) and KIND not in value:
            if is_dataclass(before):
                value = with_overrides(before, value, first)
            elif isinstance(before, Mapping):
                value = {**before, **value}
        result[first] = value
    return result


def _decode(hint: Any, value: Any, name: str) -> Any:
    """`value`, as JSON can hold it, as the type `hint`."""
    if is_dataclass(hint) or is_dataclass(_members(hint)[0]):
        return from_dict(_class_of(hint, value, name), value, name)
    return settle(hint, value, name)


def _hint(hints: Mapping[str, Any], key: str, name: str) -> Any:
    if key in hints:
        return hints[key]
    near = difflib.get_close_matches(key, hints, n=1)
    hint = f"; did you mean {join(name, near[0])}?" if near else f"; known fields: {', '.join(hints)}"
    raise ConfigError(f"{join(name, key)}: there is no such field{hint}")


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _class_of(hint: Any, value: Any, name: str) -> type:
    """The class that a value is of: the one that it names, of those that a field of type `hint` may hold."""
    members = _members(hint)
    base: type = members[0]
    if base not in BASES and len(members) == 1:
        return base
    kind = value.get(KIND) if isinstance(value, Mapping) else None
    if kind is None and len(members) > 1:
        return base
    known = {each.__name__: each for each in (members if len(members) > 1 else _classes(base))}
    if kind not in known:
        foreign = "; if it comes from another package, import the module that registers its modality first"
        raise ConfigError(
            f"{join(name, KIND)}: expected one of {', '.join(known)}, got {shown(kind)}"
            + (foreign if base in BASES else "")
        )
    return known[kind]


def _classes(base: type) -> Iterator[type]:
    """The classes of all modalities that are derived from `base`."""
    for modality in registry.every():
        for cls in (modality.embedding, modality.inputs, *modality.masks):
            if issubclass(cls, base):
                yield cls


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
