"""What stands in a column of labels, read as classes, numbers or transcripts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from d2v_fast.errors import DataError


def missing(value: Any) -> bool:
    """Whether a field is empty: nothing, or the nan that tables have instead. An empty list is not: it is no class."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def class_name(value: Any) -> str:
    """What a class is called: numbers without a fraction, however they are written (3, 3.0), have one name.

    Raises:
        ValueError: It is empty, or neither a name nor a number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"has a {type(value).__name__} for a class")
    name = str(value).strip()
    if not name:
        raise ValueError("has no label")
    return name


def several(value: Any, separator: str | None) -> list[str]:
    """The classes of a sample, given as a list, or as a string with a separator between them.

    Raises:
        ValueError: The string is empty, or a class has no name.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("has no label")
        value = value.split(separator) if separator is not None else [value]
        value = [part for part in value if part.strip()]
    elif not isinstance(value, (list, tuple)):
        value = [value]
    return [class_name(part) for part in value]


def number(value: Any) -> float:
    """A target.

    Raises:
        ValueError: It is empty, no number, or not finite.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("has no label")
    try:
        found = float(value)
    except (ValueError, TypeError):
        raise ValueError(f"has the target {value!r}, which is no number") from None
    if not math.isfinite(found):
        raise ValueError(f"has the target {found}")
    return found


def transcript(value: Any) -> str:
    """A transcript.

    Raises:
        ValueError: It is no text, or empty.
    """
    if not isinstance(value, str):
        raise ValueError(f"has a {type(value).__name__} for a transcript")
    if not value.strip():
        raise ValueError("has an empty transcript")
    return value


def order(given: Sequence[str] | None, found: Iterable[str]) -> tuple[str, ...]:
    """The classes in their order: as given, else all that were found, sorted; numbers by value.

    Raises:
        DataError: A class is given twice.
    """
    if given is not None:
        if len(set(given)) != len(given):
            raise DataError(f"classes names a class twice: {Counter(given).most_common(1)[0][0]!r}")
        return tuple(given)
    names = set(found)
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
