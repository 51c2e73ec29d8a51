"""The command `d2v-fast profile`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from d2v_fast import presets
from d2v_fast.checks import unchecked
from d2v_fast.commands.entry_points import import_modalities
from d2v_fast.commands.pretrain import given_fields
from d2v_fast.config import Config
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError
from d2v_fast.training.pretraining import begun
from d2v_fast.training.trainer import Data2VecTrainer

Parse = Callable[..., Any]
"""(dataclass, arguments, the command's name, default) to an instance of it."""


@dataclass(frozen=True, kw_only=True)
class OwnArguments:
    """What is not a part of the configuration."""

    data: str
    """What pretrain --data takes."""

    out: str | None = None
    """A picture of the result, PNG or SVG."""

    rounds: int = 5
    """Steps that are measured."""


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Where the time of a training step goes. Nothing of a run is written."""

    own: Annotated[OwnArguments, tyro.conf.arg(name="")]
    """What is not a part of the configuration."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """That of the preset or of the run, each field of which can be changed."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run the command.

    Raises:
        ConfigError: There is no such preset or run, or a value cannot be used.
        DataError: The data cannot be used.
        RunError: The run cannot be read.
        OSError: The picture cannot be written.
    """
    import_modalities()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: d2v-fast profile PRESET|RUN --data PATH [--out PICTURE] [--rounds N] [--loader.batch-size B] ...")
        print("\nd2v-fast profile PRESET --help lists every field of a preset.")
        return
    what, *options = arguments
    if what.startswith("-"):
        raise ConfigError("the preset or the run comes first: d2v-fast profile PRESET|RUN --data PATH")
    run = begun(Path(what)) if what not in presets.NAMES else None
    config = presets.preset(what) if run is None else run.config
    default = ProfileArguments(own=OwnArguments(data=tyro.MISSING), config=config)
    with unchecked():  # the parser makes each section by itself; all of it is checked together, below
        parsed = parse(ProfileArguments, options, f"profile {what}", default)
    own = parsed.own
    if not 1 <= own.rounds <= 1000:
        raise ConfigError(f"--rounds: expected 1 to 1000 steps, got {own.rounds}")
    config = with_overrides(config, given_fields(options, parsed.config))
    from rich.console import Console
    from rich.table import Table

    from d2v_fast.report.profile import draw, profile

    result = profile(Data2VecTrainer(config, data=own.data, out="profile"), own.rounds)
    table = Table("part", "ms", "of the step", "GFLOP", "of bare products", title=what, title_justify="left")
    for row in result.rows():
        table.add_row(*row, end_section=row[0] == "rest")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, markup=False)
    console.print(result.summary(), markup=False, highlight=False)
    if own.out is not None:
        draw(result, what).savefig(own.out, dpi=150)
        print(own.out)
