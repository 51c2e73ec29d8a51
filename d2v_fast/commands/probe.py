"""The command `d2v-fast probe`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from d2v_fast.commands.entry_points import import_modalities

Parse = Callable[[Any, list[str], str], Any]
"""(dataclass, arguments, command) -> the arguments as that dataclass."""


@dataclass(frozen=True, kw_only=True)
class ProbeArguments:
    """What student and teacher are worth on labelled data, layer by layer, beside the run's random start."""

    run: Annotated[str, tyro.conf.arg(name=""), tyro.conf.Positional]
    """The run's folder, or that of one of its checkpoints."""

    data: str
    """Samples with classes: a folder with one for each class, a manifest with a column, tar shards, ..."""

    test: str | None = None
    """Others for the test; a part of --data is held out if it is not given."""

    pairs: str | None = None
    """Instead of labels: the partner of each sample of --data, in the same order, which its features are to find."""

    network: Literal["both", "student", "teacher"] = "both"
    """Whose features; the random start is always measured, too."""

    layers: str = "all"
    """"all", "last", or numbers ("0,6,12"): 0 is what the embedding gives, without positions; k the end of block k."""

    label: str | None = None
    """Where the classes are: a column, or "folder"."""

    group: str | None = None
    """A column, "folder" or "file": what belongs together (speaker, patient) is never on both sides."""

    holdout: float = 0.25
    """Share for the test, and of the rest for the choice of a layer."""

    task: Literal["classify", "tag", "regress"] = "classify"
    """What labels are: a class, any number of classes (mean average precision), or a number (explained variance)."""

    neighbours: int = 10
    """Of the kNN probe."""

    temperature: float | None = None
    """Neighbours vote with exp(cosine / temperature), 0.07 for example; by default with their cosine."""

    draws: int = 1000
    """Of the bootstrap, which makes the intervals (95 %)."""

    batch_size: int = 32
    """Samples in a batch at most; only samples of one length are computed together."""

    device: str | None = None
    """cpu, cuda, cuda:1, ...; a GPU if there is one."""

    out: str | None = None
    """A .json file for all numbers."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run the command.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data or its labels cannot be used.
        RunError: The run cannot be read.
    """
    asked = parse(ProbeArguments, arguments, "probe")
    import_modalities()
    from d2v_fast.errors import ConfigError
    from d2v_fast.evaluation.probing import probe, retrieve
    from d2v_fast.files import write_whole

    if asked.pairs is not None and (asked.test or asked.label or asked.group):
        raise ConfigError("--pairs needs no labels: leave out --test, --label and --group")
    shared = {
        "networks": ("student", "teacher") if asked.network == "both" else (asked.network,),
        "layers": asked.layers,
        "draws": asked.draws,
        "batch_size": asked.batch_size,
        "device": asked.device,
        "allow_roots": asked.allow_roots,
    }
    if asked.pairs is not None:
        found = retrieve(asked.run, asked.data, asked.pairs, **shared)
    else:
        found = probe(
            asked.run,
            asked.data,
            test=asked.test,
            label=asked.label,
            group=asked.group,
            holdout=asked.holdout,
            task=asked.task,
            neighbours=asked.neighbours,
            temperature=asked.temperature,
            **shared,
        )
    _print(found)
    if asked.out is not None:
        path = Path(asked.out).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_without_nan(asdict(found)), indent=1) + "\n")


def _print(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(found.scores[0].values)
    free = list(found.scores[0].label_free)
    table = Table(title=None, box=None, padding=(0, 2, 0, 0))
    for title in ("network", "layer"):
        table.add_column(title, no_wrap=True)
    for title in (*names, *free):
        table.add_column(title, justify="right", no_wrap=True)
    before = None
    for score in found.scores:
        if before not in (None, score.network):
            table.add_row()
        shown = score.network if score.network != before else ""
        before = score.network
        numbers = ["{:.3f} [{:.3f}, {:.3f}]".format(score.values[name], *score.intervals[name]) for name in names]
        table.add_row(shown, str(score.layer), *numbers, *(f"{score.label_free[name]:.4g}" for name in free))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    first, second = found.samples
    groups = "" if found.groups is None else f" in {found.groups:,} groups"
    about = f"{first:,} pairs" if first == second and "knn" not in names else f"{first:,} to learn from, {second:,}"
    test = "" if about.endswith("pairs") else f" for the test{groups}"
    console.print(f"\n{about}{test}; chance {found.chance:.3f}; intervals 95 %", markup=False)
    for comparison in found.comparisons:
        console.print(str(comparison), markup=False, soft_wrap=True)


def _without_nan(value: Any) -> Any:
    """The same with None for nan, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
