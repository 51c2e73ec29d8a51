"""Options that have to be known before the command line is parsed as a whole."""

from __future__ import annotations

import re
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


def one_line(boxed: str) -> str:
    """The point of tyro's message, without its frame, its title and the help of the argument."""
    plain = re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e\n]", " ", boxed)
    lines = [" ".join(line.split()) for line in plain.splitlines()]
    if any(line.startswith("Missing from") for line in lines):
        return "missing " + ", ".join(line.split()[0] for line in lines if re.match(r"--\w", line))
    lines = [line for line in lines if line.strip("- ")][1:]
    ends = ("Argument helptext", "Perhaps you meant", "For full helptext")
    end = next((i for i, line in enumerate(lines) if line.startswith(ends)), len(lines))
    near = [line.split()[0] for line in lines[end + 1 :] if line.startswith("--")]
    meant = end < len(lines) and lines[end].startswith("Perhaps") and near
    return " ".join(lines[:end]) + (f"; did you mean {near[0].rstrip(',')}?" if meant else "")
