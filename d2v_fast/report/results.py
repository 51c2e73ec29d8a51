"""What evaluations have written into a run's folder, as tables, whatever they measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from d2v_fast.report import judged
from d2v_fast.report.markup import table

_MOST = 300
"""Rows of a table."""

_DEPTH = 8
"""Objects and lists within each other that are written out."""


def tables(content: Mapping[str, Any], *, title: str) -> str:
    """What `probe` and `evaluate` write, as charts and tables of their own; any other object by its dotted names.

    There a list of objects is a table of its own, a column for each name.

    Args:
        content: From JSON.
        title: Above each table.
    """
    known = judged.probing(content, title) or judged.evaluation(content, title)
    if known is not None:
        return known
    plain: list[tuple[str, str]] = []
    lists: dict[str, list[dict[str, str]]] = {}
    for name, value in _flat(content):
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            lists[name] = [{key: short(inner) for key, inner in _flat(one)} for one in value]
        else:
            plain.append((name, short(value)))
    parts = [] if not plain else [table(["what", "value"], _cut(plain), caption=title)]
    for name, entries in lists.items():
        columns = list(dict.fromkeys(key for entry in entries for key in entry))
        rows = [[entry.get(column, "—") for column in columns] for entry in entries]
        parts.append(table(columns, _cut(rows), caption=f"{title}, {name}"))
    return "".join(parts)


def short(value: Any, depth: int = 0) -> str:
    """A value as JSON has it, numbers with four digits; what is nested too deeply stands as an ellipsis."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, Mapping)) and depth >= _DEPTH:
        return "…"
    if isinstance(value, list):
        return "[" + ", ".join(short(one, depth + 1) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {short(one, depth + 1)}" for key, one in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(content: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        inner = isinstance(value, Mapping) and depth < _DEPTH
        found += _flat(value, f"{prefix}{key}.", depth + 1) if inner else [(f"{prefix}{key}", value)]
    return found


def _cut(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    left = len(rows) - _MOST
    note = [f"{left:,} more are left out", *[""] * (len(rows[0]) - 1)]
    return [*rows[:_MOST], note] if left > 0 else list(rows)
