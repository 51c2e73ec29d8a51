"""What lies beside a sample and says something about it: `7.cls`, `7.txt`, `7.json` beside `7.jpg`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from d2v_fast.log import report

ENDINGS = (".cls", ".txt", ".json")
"""A class, a text, an object of fields; the names are WebDataset's."""

LIST = ".trans.txt"
"""What LibriSpeech's lists of transcripts end in."""

MOST_BYTES = 1 << 20
"""More than any label has."""

Fields = dict[str, Any]
"""What is known about a sample besides its content: columns of a manifest, members beside it, its folder."""


def stem(name: str) -> str:
    """What the files of one sample have in common: the path up to the last dot."""
    return os.path.splitext(name)[0]


def transcripts(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The texts of recordings as LibriSpeech lists them: in `*.trans.txt` files, each line a name and a text.

    Args:
        folder: Of the recordings.
        names: Of the files in it.

    Returns:
        The text of each recording, by its name without an ending. A list that cannot be read is told and left out.
    """
    found: dict[str, str] = {}
    for name in sorted(name for name in names if name.endswith(LIST)):
        try:
            lines = (folder / name).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            report(str(folder / name), f"cannot be read: {error}")
            continue
        for line in lines:
            recording, _, text = line.partition(" ")
            found[recording] = text.strip()
    return found


def fields_of(name: str, there: Iterable[str], read: Callable[[str], bytes]) -> Fields:
    """The fields that the files beside a sample give: "label" from .cls, "text" from .txt, and the keys of .json.

    Args:
        name: Of the sample, below its folder or archive. Its first folder, if there is one, is the field "folder".
        there: The endings of `ENDINGS` that there are for it.
        read: From an ending to the content.
            What cannot be understood, as it is no UTF-8 or no JSON object, is told and left out.
    """
    fields: Fields = {}
    if "/" in name:
        fields["folder"] = name.split("/", 1)[0]
    for ending in sorted(there):
        try:
            text = read(ending).decode("utf-8-sig")
            if ending != ".json":
                fields["label" if ending == ".cls" else "text"] = text.strip()
                continue
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            report(stem(name) + ending, f"cannot be understood: {error}")
            continue
        if isinstance(found, dict):
            fields = found | fields
        else:
            report(f"{stem(name)}.json", f"holds a {type(found).__name__}, not an object of fields")
    return fields
