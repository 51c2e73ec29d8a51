"""The commands `d2v-fast data build`, `data show` and `data check`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

HELP = """\
usage: d2v-fast data build PATH --out MANIFEST   look at every file once; list what is broken; write a manifest
       d2v-fast data show PATH                   counts, hours and sizes, and a picture of samples with their masks
       d2v-fast data check PATH --run RUN        compare every file with those that a run began with

d2v-fast data build --help, and the same with show or check, lists the options.
"""


@dataclass(frozen=True, kw_only=True)
class BuildArguments:
    """Look at every sample once and write a manifest of those that can be read, for pretrain --data MANIFEST.

    Interrupted, the same command continues.
    """

    path: Annotated[str, tyro.conf.arg(name=""), tyro.conf.Positional]
    """A folder of files or of tar shards, a pattern of shards ("train-{000..099}.tar"), or another manifest."""

    out: str
    """The manifest: .jsonl, .tsv (as wav2vec has it), .csv or .parquet. Best beside the data or above it."""

    modality: str | None = None
    """What to look for: speech, vision, ...; by default what most of the files are."""

    deep: bool = False
    """Decode every sample, not only its header: finds what is cut off or damaged inside."""

    threads: int = 4
    """Threads that read."""

    part: str | None = None
    """i/n: only the i-th of n parts, such as 2/4, as one of n such commands; the last one writes the manifest."""

    allow_roots: tuple[str, ...] = ()
    """Folders outside of PATH that links may lead to."""


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """Print counts, hours and sizes, and draw augmented samples with their masks."""

    path: Annotated[str, tyro.conf.arg(name=""), tyro.conf.Positional]
    """What pretrain --data takes: a folder, a manifest, tar shards."""

    modality: str | None = None
    """What to look for: speech, vision, ...; by default what most of the files are."""

    preset: str | None = None
    """Whose augmentation and masks are shown; if it is not given, one of the modality."""

    picture: str | None = None
    """The PNG; data-show.png if it is not given, "none" for none."""

    seed: int = 0
    """Of the samples, crops and masks that are drawn."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Compare all files, their sizes and their names with those that a run began with, and its index with its hashes.

    A start does that by itself for small data only.
    """

    path: Annotated[str, tyro.conf.arg(name=""), tyro.conf.Positional]
    """What the run was given as --data."""

    run: str
    """Its folder."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""


Parse = Callable[[Any, list[str], str], Any]
"""(dataclass, arguments, command) -> the arguments as that dataclass."""


def main(arguments: list[str], parse: Parse) -> None:
    """Runs the command.

    Raises:
        DataError: The data cannot be used, or there is no such command.
    """
    from d2v_fast.data import DataError

    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
    elif arguments[0] == "build":
        _build(parse(BuildArguments, arguments[1:], "data build"))
    elif arguments[0] == "show":
        _show(parse(ShowArguments, arguments[1:], "data show"))
    elif arguments[0] == "check":
        _check(parse(CheckArguments, arguments[1:], "data check"))
    else:
        raise DataError(f"there is no command data {arguments[0]!r}; choose build, show or check")


def _build(asked: BuildArguments) -> None:
    from d2v_fast import registry
    from d2v_fast.data.build import Built, broken_list, build, build_part
    from d2v_fast.data.formats.write import named_root
    from d2v_fast.data.parts import Part

    if asked.modality is not None:
        registry.get(asked.modality)
    out = Path(asked.out).expanduser()
    options: dict[str, Any] = {
        "modality": asked.modality,
        "deep": asked.deep,
        "threads": asked.threads,
        "allow_roots": asked.allow_roots,
    }
    if asked.part is None:
        built = build(asked.path, out, **options)
    else:
        part = Part.parse(asked.part)
        result = build_part(asked.path, out, part, **options)
        if not isinstance(result, Built):
            named = ", ".join(map(str, result[:5])) + (f" and {len(result) - 5:,} more" if len(result) > 5 else "")
            print(f"{out}: part {part} is complete; to come: {named}")
            return
        built = result
    print(f"{out}: {len(built.good):,} samples, {built.kind.amount(built.sizes[built.good])}")
    if built.problems:
        print(f"{broken_list(out)}: {len(built.problems):,} left out, with their reasons")
    root = named_root(out, built.root)
    print(f"next: d2v-fast data show {out}" + (f" --allow-roots {root}" if Path(root).is_absolute() else ""))


def _show(asked: ShowArguments) -> None:
    from d2v_fast import presets, registry
    from d2v_fast.data.guess import guess
    from d2v_fast.data.own import PICTURE
    from d2v_fast.errors import DataError
    from d2v_fast.modalities import open_data
    from d2v_fast.report.data import describe

    modality = registry.get(asked.modality or guess(asked.path))
    name = asked.preset or modality.default_preset
    if name is None:
        raise DataError(f"{modality.name} has no preset of its own: name one by --preset")
    config = presets.preset(name)
    if config.model.modality != modality.name:
        raise DataError(f"--preset {name} is for {config.model.modality}, the data is {modality.name}")
    loader = replace(
        config.loader, allow_roots=asked.allow_roots, prefetch=1, accumulation=1, holdout=0.0, max_skipped=1.0
    )
    config = replace(config, seed=asked.seed, loader=loader)
    source = open_data(asked.path, config, None)
    lines, histograms = describe(source, config.inputs)
    _print(asked.path, lines, histograms)
    picture = Path(asked.picture or PICTURE).expanduser()
    if asked.picture == "none":
        return
    from d2v_fast.report.samples import draw

    try:
        draw(source, config, picture, name)
    except ImportError as error:
        raise DataError(f"{error}; or leave the picture out: --picture none") from error
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(picture)) from error
        raise
    print(f"samples with their masks, as {name} sees them: {picture}")


def _check(asked: CheckArguments) -> None:
    from d2v_fast.modalities import open_data
    from d2v_fast.run.reader import Run

    run = Run(asked.run)
    index, config = run.index_file, cast(Any, run.config)
    if asked.allow_roots:
        config = replace(config, loader=replace(config.loader, allow_roots=asked.allow_roots))
    source = open_data(asked.path, config, run.path, thorough=True)
    print(f"{asked.path}: {len(source):,} samples compared with {index}: nothing is new or of another size")


def _print(title: str, lines: list[tuple[str, str]], histograms: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from d2v_fast.report.data import bars

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(show_header=False, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(*line)
    console.print(table, markup=False)
    for histogram in histograms:
        chart = Table(show_header=False, title=f"\n{histogram.title}", title_justify="left", box=None, padding=(0, 1))
        chart.add_column(justify="right", no_wrap=True)
        chart.add_column(style="cyan", no_wrap=True, min_width=40)
        chart.add_column(justify="right", no_wrap=True)
        for row in bars(histogram):
            chart.add_row(*row)
        console.print(chart, markup=False)
