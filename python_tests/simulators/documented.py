"""The figures of docs/kernels.md: the document is the record, and the tests compare what they find with it.

A record is a Markdown table under `<!-- record: NAME, COMPILER VERSION -->`; its first column names the rows. With
D2V_FAST_RECORD=1 the tests write what they find into the table instead, for a change of a kernel or of its compiler.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs/kernels.md"


class Record:
    """One table, as rows of cells by the name of their column."""

    def __init__(self, name: str) -> None:
        """Reads the table.

        Raises:
            LookupError: the document has no such table.
        """
        text = DOCUMENT.read_text()
        found = re.search(rf"<!-- record: {name}, ([^>]+) -->\n+((?:\|.*\n)+)", text)
        if found is None:
            raise LookupError(f"{DOCUMENT} has no table under <!-- record: {name}, ... -->")
        self.compiler = found[1]
        self._before, self._after = text[: found.start(2)], text[found.end(2) :]
        self._head, _, *lines = (
            [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in found[2].split("\n")[:-1]
        )
        self.rows = {cells[0]: dict(zip(self._head[1:], cells[1:], strict=True)) for cells in lines}

    def _write(self) -> None:
        lines = [self._head, ["---"] * len(self._head), *([name, *row.values()] for name, row in self.rows.items())]
        DOCUMENT.write_text(self._before + "".join(f"| {' | '.join(line)} |\n" for line in lines) + self._after)


def check(table: str, row: str, found: dict[str, str], compiler: str) -> None:
    """Compares some cells of a row with what was found.

    Another compiler than the document's may allocate registers otherwise: then nothing is compared.

    Raises:
        AssertionError: the document says something else.
    """
    record = Record(table)
    if os.environ.get("D2V_FAST_RECORD") == "1":
        record.rows[row] = dict.fromkeys(record._head[1:], "-") | record.rows.get(row, {}) | found
        record._write()
    elif compiler == record.compiler:
        assert row in record.rows, f"{DOCUMENT.name} has no row {row!r} in {table!r}"
        wrong = [f"{k}: found {v}, written {record.rows[row][k]}" for k, v in found.items() if record.rows[row][k] != v]
        assert not wrong, f"{DOCUMENT.name}, {row!r}: {'; '.join(wrong)}. D2V_FAST_RECORD=1 pytest ... writes it anew."


def cell(values: list[object]) -> str:
    """One value of each architecture, or a single one where they are equal."""
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values))
