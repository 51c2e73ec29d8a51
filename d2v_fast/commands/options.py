"""Options that have to be known before the command line is parsed as a whole."""

from __future__ import annotations

from collections.abc import Sequence


def take(option: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What follows `option`, or is joined to it by an equals sign, and the arguments without both.

    None if it is not there; "" if nothing follows it.
    """
    for i, argument in enumerate(arguments):
        if argument == option:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
            return value, [*arguments[:i], *arguments[i + 2 :]]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1], [*arguments[:i], *arguments[i + 1 :]]
    return None, list(arguments)


def value_of(option: str, arguments: Sequence[str]) -> str:
    """What follows `option`, or is joined to it by an equals sign; empty if it is not there."""
    return take(option, arguments)[0] or ""
