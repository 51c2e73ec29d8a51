"""`d2v-fast pretrain PRESET`: the arguments of a run, and every field of the preset's configuration."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

import tyro

from d2v_fast import launch, presets
from d2v_fast.checks import unchecked
from d2v_fast.commands.entry_points import import_modalities
from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.log import tell
from d2v_fast.training.observer import Observer
from d2v_fast.training.pretraining import begin, settle

JUDGED = 300
"""Steps from which on something is said about the features of a run that has ended; shorter ones are trials."""

Parse = Callable[..., Any]
"""(dataclass, arguments, the command's name, default) to an instance of it."""


@dataclass(frozen=True, kw_only=True)
class ProbeArguments:
    """What the features are worth, beside the loss while the run trains. It changes no bit of the run."""

    data: str | None = None
    """Samples with classes: kNN and linear probe, LiDAR and more stand in log lines. None: nothing is measured."""

    every: int = 500
    """Steps between two measurements; each is made at the first log line from there on, and at the end."""

    label: str | None = None
    """Where the classes are: a column, or "folder"."""

    group: str | None = None
    """A column, "folder" or "file": what belongs together (speaker, patient) is never on both sides."""

    network: Literal["student", "teacher"] = "student"
    """Whose features."""


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What is not a part of the configuration."""

    data: str
    """A folder of images, of audio or of texts, a manifest, tar shards, saved datasets, ...: see docs/data.md."""

    out: str
    """The run's folder."""

    init_from: str | None = None
    """A run whose student weights a new run starts from, or weights of Hugging Face, timm or fairseq."""

    data_changed: bool = False
    """The data has grown or changed: the run goes on from its newest checkpoint with what there is now."""

    scale: bool = True
    """Let the learning rate, the teacher's decay and the steps follow another batch size, and the teacher's annealing
    and the monitors' warm-up other steps. A field that you give stays as you give it; --no-scale changes none."""

    for_budget: str | None = None
    """A time such as 1h or 90m: a few steps are measured on your data and machine, and size, batch, steps, teacher and
    learning rate are chosen together. A field that you give stays as you give it."""

    dry_run: bool = False
    """Print parameters, memory, steps per epoch and the first batch's shapes, and write nothing."""

    probe: ProbeArguments = field(default_factory=ProbeArguments)
    """What the features are worth, while the run trains."""


@dataclass(frozen=True, kw_only=True)
class PretrainArguments:
    """Pretrain on your own files. The same command again continues the run; its --steps may grow."""

    run: Annotated[RunArguments, tyro.conf.arg(name="")]
    """What is not a part of the configuration."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """The preset, each field of which can be changed."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run the command.

    Raises:
        ConfigError: There is no such preset, or a value cannot be used.
        DataError: The data cannot be used.
        RunError: See `Data2VecTrainer.fit`.
    """
    import_modalities()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: d2v-fast pretrain PRESET --data PATH --out RUN [--steps N] [--seed S] [--optim.lr X] ...\n")
        print("presets:")
        for name, function in presets.NAMES.items():
            print(f"  {name:13} {(function.__doc__ or name).splitlines()[0]}")  # python -OO: no docstrings
        print("\nd2v-fast pretrain PRESET --help lists every field of a preset.")
        return
    preset, *options = arguments
    if preset.startswith("-"):
        raise ConfigError(f"the preset comes first: d2v-fast pretrain PRESET ...; there are {', '.join(presets.NAMES)}")

    default = PretrainArguments(run=RunArguments(data=tyro.MISSING, out=tyro.MISSING), config=presets.preset(preset))
    with unchecked():  # the parser makes each section by itself; all of it is checked together, in `settle`
        parsed = parse(PretrainArguments, options, f"pretrain {preset}", default)
    _start(preset, parsed.run, given_fields(options, parsed.config))


def _start(preset: str, run: RunArguments, given: Mapping[str, Any]) -> None:
    start = settle(preset, given, run.out, scale=run.scale, for_budget=run.for_budget, data=run.data)
    trainer = begin(start, run.data, run.out, run.init_from, _probe(run.probe))
    if not run.dry_run:
        done = trainer.fit(data_changed=run.data_changed)
        if start.config.steps >= JUDGED and launch.rank() == 0:
            from d2v_fast.evaluation.directions import directions, sentence

            tell(sentence(*directions(done, run.data)), logging.INFO)
        return
    if launch.rank() > 0:
        return
    from rich.console import Console
    from rich.table import Table

    from d2v_fast.report.dry_run import dry_run

    table = Table(show_header=False, title="nothing was written", title_justify="left")
    for row in dry_run(trainer):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)


def _probe(asked: ProbeArguments) -> Observer | None:
    if asked.data is None:
        return None
    from d2v_fast.evaluation.during import ProbeDuring

    return ProbeDuring(**asdict(asked))


def given_fields(options: Sequence[str], config: Any) -> dict[str, Any]:
    """The fields of the configuration that the command line names, and their values.

    Args:
        options: What was given: "--optim.lr", "0.1", "--loader.no-pad", "--steps=3", ...
        config: What they were parsed to.

    Returns:
        Dotted name to value, in the order of the configuration; also where the value is the preset's.
    """
    named = {option[2:].split("=", 1)[0].replace("-", "_") for option in options if option.startswith("--")}
    given = {}
    for name, value in fields_of(config):
        section, _, field = name.rpartition(".")
        switched_off = f"{section}.no_{field}" if section else f"no_{field}"
        if name in named or (isinstance(value, bool) and switched_off in named):
            given[name] = value
    return given


def fields_of(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of each field."""
    found = []
    for one in fields(config):
        value = getattr(config, one.name)
        name = f"{prefix}{one.name}"
        found += fields_of(value, f"{name}.") if is_dataclass(value) else [(name, value)]
    return found
