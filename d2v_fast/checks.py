"""How a section of the configuration checks itself when it is made.

Every section is a frozen dataclass derived from `Section`. When one is made, its values are brought to the types of
their fields, then its own method `check` says what is allowed. An error names the field with its dots
("optim.lr is nan, but ..."), wherever the section stands. What must fit between sections is checked by `Config`.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

from d2v_fast.errors import ConfigError

MAY_CHANGE: Mapping[str, Any] = {"may_change": "always"}
"""Metadata of a field that decides no bit of the weights: it may have another value when a run continues."""

MAY_CHANGE_WITH_STEPS: Mapping[str, Any] = {"may_change": "with steps"}
"""Metadata of a field that may have another value when a run continues with more steps than before."""

MISSING = "missing"
"""Key of a field's metadata: what it means that a file does not have the field, if not the default."""

SEED_LIMIT = 2**63
"""Seeds are below it (`rng.natural`)."""

INTEGER_LIMIT = 2**63
"""Whole numbers are below it and not below its negative: numpy, torch and the kernels count in 64 bits."""

LARGEST = 1e30
"""The largest measure (`at_least`, `above_zero`): float32 holds it, and float64 the product of a few of them."""

LONGEST_SHOWN = 120
"""Characters of a value in a message, at most."""

_name_given: ContextVar[tuple[type, str] | None] = ContextVar("name_given", default=None)
_unchecked: ContextVar[bool] = ContextVar("unchecked", default=False)


@dataclass(frozen=True, kw_only=True)
class Section:
    """The base class of all sections."""

    section: ClassVar[str] = ""
    """Dotted name of the section in a `Config`, for the messages."""

    def __post_init__(self) -> None:
        """Bring the values to their types and check them.

        Raises:
            ConfigError: A value has another type, or is not allowed.
        """
        if _unchecked.get():
            return
        given = _name_given.get()
        name = given[1] if given is not None and given[0] is type(self) else self.section
        kind: Any = type(self)
        hints = _hints(kind)
        for field in fields(self):
            value = getattr(self, field.name)
            settled = settle(hints[field.name], value, join(name, field.name))
            if settled is not value:
                object.__setattr__(self, field.name, settled)
        self.check(Check(self, name))

    def check(self, check: Check) -> None:
        """Say what is allowed, by the methods of `check`; called when the section is made."""


class Check:
    """The checks of one section.

    Args:
        section: The section, whose values have the right types.
        name: Its dotted name.
    """

    def __init__(self, section: Any, name: str) -> None:
        self._section = section
        self.name = name

    def require(self, good: bool, field: str, allowed: str) -> None:
        """Refuse the value of `field` unless it is good; `allowed` completes "it must be ...".

        Raises:
            ConfigError: It is not good.
        """
        if not good:
            value = getattr(self._section, field)
            raise ConfigError(f"{join(self.name, field)} is {shown(value)}, but it must be {allowed}")

    def at_least(self, least: float, *names: str) -> None:
        """Numbers that are finite and not below `least`; None passes.

        Raises:
            ConfigError: One of them is.
        """
        for name in names:
            value = getattr(self._section, name)
            self.require(value is None or (math.isfinite(value) and value >= least), name, _least(least))
            self._not_beyond(value, name)

    def above_zero(self, *names: str) -> None:
        """Numbers that are finite and above 0; None passes.

        Raises:
            ConfigError: One of them is not.
        """
        for name in names:
            value = getattr(self._section, name)
            self.require(value is None or (math.isfinite(value) and value > 0), name, "a finite number above 0")
            self._not_beyond(value, name)

    def share(self, *names: str) -> None:
        """Numbers between 0 and 1, both included.

        Raises:
            ConfigError: One of them is not.
        """
        for name in names:
            self.require(0 <= getattr(self._section, name) <= 1, name, "between 0 and 1")

    def below_one(self, *names: str) -> None:
        """Numbers of at least 0 and below 1, as probabilities of leaving something out are.

        Raises:
            ConfigError: One of them is not.
        """
        for name in names:
            self.require(0 <= getattr(self._section, name) < 1, name, "at least 0 and below 1")

    def ordered_pair(self, name: str) -> None:
        """Two finite numbers above 0, the smaller one first.

        Raises:
            ConfigError: They are something else.
        """
        low, high = getattr(self._section, name)
        self.require(0 < low <= high < math.inf, name, "two numbers above 0, the smaller one first")
        self._not_beyond(high, name)

    def _not_beyond(self, value: float | None, name: str) -> None:
        self.require(value is None or value <= LARGEST, name, f"at most {LARGEST:g}")


@contextlib.contextmanager
def named(cls: type, name: str) -> Iterator[None]:
    """Within the context, a section of class `cls` calls itself `name`."""
    token = _name_given.set((cls, name))
    try:
        yield
    finally:
        _name_given.reset(token)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Within the context, sections are made without any check; what is made so must not leave the parser."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def settle(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint`: numpy's integers become int, integers float where one is wanted, lists tuples.

    Args:
        hint: Type of a field: int, float, bool, str, a Literal, a tuple, a class, or one of them or None.
        value: What was given.
        name: Dotted name of the field.

    Raises:
        ConfigError: It is of another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        members = [arg for arg in args if arg is not type(None)]
        if len(members) == 1:
            return settle(members[0], value, name)
        if isinstance(value, tuple(members)):  # one of several sections
            return value
        raise ConfigError(f"{name}: expected {' or '.join(m.__name__ for m in members)}, got {shown(value)}")
    if origin is typing.Literal:
        if isinstance(value, str | int | bool) and value in args:
            return value
        near = difflib.get_close_matches(value, args, n=1) if isinstance(value, str) else []
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: expected one of {', '.join(map(repr, args))}, got {shown(value)}{meant}")
    if origin is tuple:
        return _settle_tuple(args, value, name)
    if hint is int and not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return _in_64_bits(operator.index(value), name)
    elif hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return value if type(value) is float else float(value)
        except OverflowError:
            raise ConfigError(f"{name} is {shown(value)}, which is too large for a number") from None
    elif hint is Any or (hint not in (int, float) and isinstance(value, origin or hint)):
        return value
    raise ConfigError(f"{name}: expected {getattr(hint, '__name__', hint)}, got {shown(value)}")


def shown(value: Any) -> str:
    """`value` as a message shows it: on one line and not too long, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits; a repr that fails
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]} ..."


def join(name: str, key: str) -> str:
    """The dotted name of the field `key` of the section `name`."""
    return f"{name}.{key}" if name else key


def may_change(config: Any, name: str) -> str | None:
    """How the field with the dotted name may change when a run continues: "always", "with steps", or None: never.

    A mark at a section is one for all its fields.
    """
    for key in name.split("."):
        field = next((field for field in fields(config) if field.name == key), None)
        if field is None:
            return None
        if "may_change" in field.metadata:
            mark: str = field.metadata["may_change"]
            return mark
        config = getattr(config, key)
    return None


def younger_fields(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default) of each field whose absence in a file means something else than its default."""
    for field in fields(config):
        value, dotted = getattr(config, field.name), join(name, field.name)
        if isinstance(value, Section):
            yield from younger_fields(value, dotted)
        elif MISSING in field.metadata:
            yield dotted, field.default


def _settle_tuple(args: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name}: expected a list, got {shown(value)}")
    inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(inner) != len(value):
        raise ConfigError(f"{name}: expected {len(inner)} values, got {shown(value)}")
    settled = tuple(settle(arg, item, f"{name}[{i}]") for i, (arg, item) in enumerate(zip(inner, value, strict=True)))
    if isinstance(value, tuple) and all(a is b for a, b in zip(settled, value, strict=True)):
        return value
    return settled


def _least(least: float) -> str:
    return "0 or more, and finite" if least == 0 else f"at least {least:g}"


def _in_64_bits(value: int, name: str) -> int:
    if not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise ConfigError(f"{name} is {shown(value)}, but it must be below 2**63")
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
