"""One HTML page about runs: curves, what stands out, masks, results, configurations. It needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.files import write_whole
from d2v_fast.report.charts import charts
from d2v_fast.report.health import findings
from d2v_fast.report.markup import GENERATOR, document, folded, table, text
from d2v_fast.report.results import tables
from d2v_fast.report.seen import Seen
from d2v_fast.report.svg import number

LARGEST = 5_000_000
"""Bytes of a page."""

_NAMED = 20
"""Broken samples that are named."""


class Section(NamedTuple):
    """A part of the page."""

    anchor: str
    title: str

    content: str
    """HTML."""


def page(runs: Sequence[Seen], *, looks: Sequence[Section] = (), refresh: float | None = None) -> str:
    """The page, UTF-8 HTML without a script. Every text that comes from a file or its name is escaped.

    Args:
        runs: From `read`; the first is what the configurations of the others are compared with.
        looks: Further sections, of `report.looks`.
        refresh: Seconds after which a browser reads it again; None: never.

    Raises:
        ConfigError: It would be larger than `LARGEST`.
        RunError: A file of a run cannot be read.
    """
    sections = [Section("summary", "Summary", _summary(runs)), Section("curves", "Curves", charts(runs)), *looks]
    if results := _results(runs):
        sections.append(Section("results", "Results", results))
    sections += [
        Section("configuration", "Configuration", _configuration(runs)),
        Section("files", "Runs", _files(runs)),
    ]
    names = ", ".join(seen.name for seen in runs)
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    made = document(f"d2v-fast: {names}", sections, note=f"Made on {now}.", refresh=refresh)
    if len(made.encode()) > LARGEST:
        raise ConfigError(
            f"the page would have {len(made.encode()) / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: name fewer runs"
        )
    return made


def write(html: str, path: str | Path) -> None:
    """Writes a page, whole or not at all; an older page is replaced, any other file stays.

    Raises:
        ConfigError: There is another file.
        OSError: It cannot be written.
    """
    target = Path(path).expanduser()
    if target.exists() and f'content="{GENERATOR}"'.encode() not in _begin(target):
        raise ConfigError(f"--out {target} is there and is no page of this command: name another file")
    write_whole(target, html)


def _begin(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1000)


def _summary(runs: Sequence[Seen]) -> str:
    rows = []
    for seen in runs:
        last = seen.lines[-1] if seen.lines else {}
        steps = f"{seen.step:,} of {int(seen.run.config.steps):,}"
        model = seen.run.config.model
        rows.append(
            [seen.name, model.modality, seen.run.notes.preset or "—", steps]
            + [_short(last.get(name)) for name in ("loss", "explained", "target_std", "target_rank")]
            + [_short(last.get("samples_per_second")), _short(last.get("data_wait"), share=True)]
            + [_short(last.get("skipped_samples"))]
        )
    head = ["run", "input", "preset", "step", "loss", "explained", "target std", "target rank", "samples/s"]
    parts = [table([*head, "waits for data", "samples left out"], rows, caption="The last log line of each run")]
    for seen in runs:
        found = findings(seen.run.config, seen.lines)
        title = f"<h3>{text(seen.name)}</h3>" if len(runs) > 1 else ""
        if found:
            body = '<ul class="found">' + "".join(f'<li class="warn">{text(one)}</li>' for one in found) + "</ul>"
        else:
            body = "<p>Nothing stands out. The sentence below each curve says what is normal.</p>"
        parts.append(f"{title}{body}")
    return "".join(parts)


def _results(runs: Sequence[Seen]) -> str:
    return "".join(
        tables(content, title=f"{seen.name}: {name}") for seen in runs for name, content in seen.run.results().items()
    )


def _configuration(runs: Sequence[Seen]) -> str:
    parts = []
    if len(runs) > 1:
        names = list(dict.fromkeys(name for seen in runs for name in seen.fields))
        rows = [[name, *(_json(seen.fields, name) for seen in runs)] for name in names]
        rows = [row for row in rows if len(set(row[1:])) > 1]
        if rows:
            parts.append(table(["field", *(seen.name for seen in runs)], rows, caption="What differs"))
        else:
            parts.append("<p>The configurations are the same.</p>")
    for seen in runs:
        derived = set(seen.run.notes.derived)
        rows = [
            [name, _json(seen.fields, name) + (" (followed other fields)" if name in derived else "")]
            for name in seen.fields
        ]
        parts.append(folded(f"All fields of {seen.name}", table(["field", "value"], rows, caption=seen.name)))
    return "".join(parts)


def _files(runs: Sequence[Seen]) -> str:
    rows, broken = [], []
    for seen in runs:
        steps = seen.run.checkpoints()
        try:
            versions, data = seen.run.versions, seen.run.data
        except RunError as error:
            versions, data = {}, {"checkpoint": str(error)}
        kept = ", ".join(f"{step:,}" for step in steps[-10:]) or "none yet"
        kept = f"{len(steps):,}, the last ten: {kept}" if len(steps) > 10 else kept
        words = [", ".join(f"{key} {value}" for key, value in about.items()) or "—" for about in (versions, data)]
        rows.append([seen.name, str(seen.run.path), kept, *words])
        broken.append(_broken(seen))
    head = ["run", "folder", "checkpoints (steps)", "versions", "data"]
    return table(head, rows, caption="Checkpoints and versions") + "".join(broken)


def _broken(seen: Seen) -> str:
    """The samples that its index knows to be unreadable."""
    try:
        index = seen.run.index()
    except (RunError, DataError):  # none yet, or a source of the user's own
        return ""
    if not index.problems:
        return f"<p>{text(seen.name)}: {len(index.names):,} samples, all of them with a header that can be read.</p>"
    rows = [[str(index.names[i]), index.problems[i]] for i in sorted(index.problems)[:_NAMED]]
    more = "" if len(index.problems) <= _NAMED else f", the first {_NAMED}"
    caption = f"{seen.name}: {len(index.problems):,} of {len(index.names):,} samples cannot be read{more}"
    return table(["sample", "why"], rows, caption=caption)


def _json(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "(no such field)"


def _short(value: float | None, *, share: bool = False) -> str:
    if value is None:
        return "—"
    return f"{value:.1%}" if share else f"{value:,}" if isinstance(value, int) else number(float(f"{value:.3g}"))
