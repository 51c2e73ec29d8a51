"""Samples with labels: classes, several classes, values or transcripts, from wherever the samples come from."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data import label_values
from d2v_fast.data.config import InputsConfig
from d2v_fast.data.formats.beside import Fields
from d2v_fast.data.labelled import LabelKind, Labelled
from d2v_fast.data.own import DOCUMENT
from d2v_fast.data.samples import names_of, open_samples
from d2v_fast.data.source import DataSource, Openable
from d2v_fast.errors import DataError
from d2v_fast.log import report, tell

COLUMNS: dict[LabelKind, tuple[str, ...]] = {
    "class": ("label", "folder"),
    "multi": ("labels", "label"),
    "value": ("target", "label"),
    "transcript": (DOCUMENT,),
}
"""Where labels are looked for if nobody says: the first of these that any sample has. "folder" is the first folder
below the one that was given, or in an archive."""


_SEPARATORS = ("|", ";", ",")

_SPAN = re.compile(r" \[(?:from )?[^\[\]]+ s(?: \+ [^\[\]]+ s)?\]$")
"""What the name of a part of a file ends in."""


_SHOWN = 3

_MANY = 20
"""Samples from which on it is odd that most classes have one."""


def open_labelled(
    data: Openable,
    modality: str,
    inputs: InputsConfig,
    *,
    kind: LabelKind,
    label: str | None = None,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    labels: Sequence[Any] | np.ndarray | Tensor | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    text: str = DOCUMENT,
    text_pair: str = "text_pair",
    embedding: Any | None = None,
    run: Path | None = None,
    threads: int = 2,
    allow_roots: Sequence[str] = (),
) -> Labelled:
    """Opens samples with their labels. The samples and their order are those of `open_source`.

    Labels come from the columns of a manifest or of a `datasets.Dataset`, from members of archives or files beside a
    sample (`7.cls`, `7.txt`, `7.json` beside `7.jpg`), from the folder that a sample is in, or as `labels`. A sample
    without a label that can be used stays in the source and is one of `Labelled.problems`, which are told.

    Args:
        data: As for `open_source`. Where the samples are texts, it is a table, a folder of .txt files, or a list of
            texts or pairs, and each text is one sample.
        modality: Name of the modality.
        inputs: How files become inputs.
        kind: What a label is.
        label: The column, or the key in .json; None: the first of `COLUMNS` that there is. "folder" is the folder.
        group: A column, "folder", or "file" (parts of one file belong together); None: no groups.
        classes: The classes in their order, as training had them; None: all that occur, sorted (numbers by value).
        labels: One label for each sample, in the order of the source; needed for arrays and sources of one's own.
        groups: One group for each sample, likewise.
        text: Texts only: the column of the text.
        text_pair: Texts only: the column of the second text of a pair; not all rows need one.
        embedding: What the model takes.
        run: Folder for the index; None keeps it in memory.
        threads: Threads that read headers.
        allow_roots: Folders that a manifest may name besides those below its own.

    Raises:
        DataError: See `open_source`; or there is no such column, no sample has a label, or all are of one class.
    """
    opened = open_samples(
        data,
        modality,
        inputs,
        text=text,
        text_pair=text_pair,
        columns=labels is None or group is not None,
        embedding=embedding,
        run=run,
        threads=threads,
        allow_roots=allow_roots,
    )
    source, rows = opened.source, opened.rows
    values = _given(labels, len(source), "labels")
    if values is None:
        values = _column(rows, label, kind)
    result = _labelled(source, kind, values, classes, opened.problems)
    result = replace(result, groups=_groups(source, rows, group, _given(groups, len(source), "groups")))
    _tell(result)
    if kind == "class" and classes is None and len(result) >= _MANY and 2 * len(result.classes) > len(result):
        tell(f"{len(result)} samples have {len(result.classes)} classes: if the labels are values, the task is regress")
    return result


def _given(values: Any, count: int, what: str) -> list[Any] | None:
    if values is None:
        return None
    plain = values.tolist() if isinstance(values, (np.ndarray, Tensor)) else list(values)
    if len(plain) != count:
        raise DataError(f"{what} has {len(plain)} entries for {count} samples")
    return plain


def _column(rows: list[Fields] | None, label: str | None, kind: LabelKind) -> list[Any]:
    """The labels of all samples, None where there is none."""
    if rows is None:
        raise DataError("labels is not given: arrays and sources of one's own bring none, so pass one for each sample")
    wanted = COLUMNS[kind] if label is None else (label,)
    for name in wanted:
        if any(name in row for row in rows):
            return [row.get(name) for row in rows]
    beside = ", or write each transcript in a .txt beside its recording" if kind == "transcript" else ""
    raise DataError(
        f"data: no sample has a {' or '.join(repr(name) for name in wanted)}; there are {names_of(rows)}. Name the "
        f"column of labels (label){beside}"
    )


def _labelled(
    source: DataSource, kind: LabelKind, values: list[Any], classes: Sequence[str] | None, bad: dict[int, str]
) -> Labelled:
    problems = dict(bad)

    def each(read: Callable[[Any], Any]) -> list[Any]:
        found = []
        for i, value in enumerate(values):
            try:
                # a nan among numbers is a mistake to be named, elsewhere it is an empty field
                empty = value is None if kind == "value" else label_values.missing(value)
                found.append(None if empty else read(value))
            except (ValueError, TypeError, OverflowError) as error:
                problems.setdefault(i, str(error))
                found.append(None)
                continue
            if found[-1] is None:
                problems.setdefault(i, "has no label")
        if len(problems) >= len(values):
            first = min(problems)
            raise DataError(
                f"data: none of the {len(values)} samples has a label: {source.name(first)} {problems[first]}"
            )
        return found

    if kind == "value":
        numbers = [math.nan if value is None else value for value in each(label_values.number)]
        return Labelled(source, kind, torch.tensor(numbers, dtype=torch.float32), problems=problems)
    if kind == "transcript":
        written = ["" if value is None else value for value in each(label_values.transcript)]
        return Labelled(source, kind, texts=written, problems=problems)
    if kind == "class":
        names = each(label_values.class_name)
        order = label_values.order(classes, (name for name in names if name is not None))
        number = {name: i for i, name in enumerate(order)}
        for i, name in enumerate(names):
            if name is not None and name not in number:
                problems.setdefault(i, f"has the class {name!r}, which training does not know")
        if classes is None and len(order) == 1:
            raise DataError(
                f"data: all samples have the class {order[0]!r}: there is nothing to learn. Give the folder that has a "
                "folder for each class, or name another column (label)"
            )
        found = torch.tensor([-1 if name is None else number.get(name, -1) for name in names])
        return Labelled(source, kind, found, classes=order, problems=problems)
    separator = next((s for s in _SEPARATORS if any(isinstance(v, str) and s in v for v in values)), None)
    several = each(lambda value: label_values.several(value, separator))
    order = label_values.order(classes, (name for names in several for name in names or ()))
    number = {name: i for i, name in enumerate(order)}
    table = torch.zeros(len(values), len(order))
    unknown: Counter[str] = Counter()
    for i, names in enumerate(several):
        for name in names or ():
            if name in number:
                table[i, number[name]] = 1
            else:
                unknown[name] += 1
    if unknown:
        shown = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(_SHOWN))
        tell(f"left out {unknown.total()} labels of {len(unknown)} classes that training does not know: {shown}")
    return Labelled(source, kind, table, classes=order, problems=problems)


def _groups(
    source: DataSource, rows: list[Fields] | None, group: str | None, given: list[Any] | None
) -> np.ndarray | None:
    """The group of each sample. One without a group is a group of its own."""
    if given is None and group is None:
        return None
    names = [source.name(i) for i in range(len(source))]
    if given is None:
        if group == "file":
            given = [_SPAN.sub("", name) for name in names]
        elif group == "folder":
            given = [name.rsplit("/", 1)[0] if "/" in name else None for name in names]
        else:
            given = [row.get(str(group)) for row in rows or ()]
            if all(label_values.missing(value) for value in given):
                raise DataError(f"group: no sample has a {group!r}; there are {names_of(rows or ())}")
    alone = [i for i, value in enumerate(given) if label_values.missing(value)]
    if alone:
        tell(
            f"{len(alone)} samples have no {group or 'group'} (the first is {names[alone[0]]}): each is one of its own"
        )
    # the sample's name could be that of a group: a zero byte is in neither
    return np.array(
        [
            f"\0{n}" if label_values.missing(v) else label_values.class_name(v)
            for v, n in zip(given, names, strict=True)
        ],
        dtype=object,
    )


def _tell(result: Labelled) -> None:
    """Names the first samples without a label, counts all of them, and names classes without a sample."""
    problems = result.problems or {}
    for i in list(problems)[:_SHOWN]:
        report(result.source.name(i), problems[i])
    if problems:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in list(result.left_out().items())[:_SHOWN])
        tell(f"{len(problems)} of {len(result)} samples have no label that can be used: {reasons}")
    if result.classes:
        count = f"{len(result.classes)} class{'es' if len(result.classes) > 1 else ''}"
        tell(f"{count}: {', '.join(result.classes[:10])}", logging.INFO)
