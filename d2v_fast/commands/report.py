"""The command `d2v-fast report`: a page about runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from d2v_fast.commands.entry_points import import_modalities
from d2v_fast.errors import ConfigError

Parse = Callable[[Any, list[str], str], Any]
"""(dataclass, arguments, command) -> the arguments as that dataclass."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one HTML page about one or more runs. It can be read without a network, and sent to others as it is."""

    runs: Annotated[tuple[str, ...], tyro.conf.arg(name=""), tyro.conf.Positional]
    """The folders of the runs. They may be training."""

    out: str = "report.html"
    """The page; one that this command has written before is replaced."""

    data: str | None = None
    """What pretrain or probe --data takes: then samples with the runs' masks are shown, maps of their features coloured
    by class, and what is like what in a sample; of a fine-tuning, how good its predictions are."""

    label: str | None = None
    """Where the classes of --data are: a column, or "folder"."""

    group: str | None = None
    """A column, "folder" or "file" of --data: what belongs together (speaker, patient)."""

    network: Literal["student", "teacher"] = "student"
    """Whose features are shown."""

    watch: float | None = None
    """Seconds between two pages: it is written again, and a browser shows it, until all runs are finished."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run the command.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data cannot be used.
        RunError: A run cannot be read.
        OSError: The page cannot be written.
    """
    asked = parse(ReportArguments, arguments, "report")
    if not asked.runs:
        raise ConfigError("name a run: d2v-fast report RUN [RUN ...] --out report.html")
    if asked.watch is not None and not 1 <= asked.watch <= 86_400:
        raise ConfigError(f"--watch: expected 1 to 86400 seconds, got {asked.watch:g}")
    import_modalities()
    from d2v_fast.report import page
    from d2v_fast.report.seen import read

    def look(runs: Any, before: tuple[Any, Any]) -> tuple[Any, Any]:
        """The newest checkpoints, and the sections about the data, made anew when there are others than before."""
        if asked.data is None:
            return None, ()
        from d2v_fast.report.looks import looks
        from d2v_fast.report.maps import newest

        if newest(runs) == before[0]:
            return before
        shown = {"label": asked.label, "group": asked.group, "network": asked.network}
        return newest(runs), looks(runs, asked.data, allow_roots=asked.allow_roots, **shown)

    runs = read(asked.runs)
    seen = look(runs, (None, ()))
    while asked.watch is not None and not all(one.finished for one in runs):
        page.write(page.page(runs, looks=seen[1], refresh=asked.watch), asked.out)
        time.sleep(asked.watch)
        runs = read(asked.runs)
        seen = look(runs, seen)
    page.write(page.page(runs, looks=seen[1]), asked.out)
    print(asked.out)
