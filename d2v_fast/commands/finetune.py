"""`d2v-fast finetune RUN`, `predict OUT` and `evaluate OUT`: from a pretrained run to answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from d2v_fast import launch
from d2v_fast.checks import unchecked
from d2v_fast.commands.entry_points import import_modalities
from d2v_fast.commands.options import take, value_of
from d2v_fast.commands.pretrain import given_fields
from d2v_fast.errors import ConfigError, RunError
from d2v_fast.files import write_whole
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.finetune import Finetuning
from d2v_fast.finetuning.predict import Finetuned
from d2v_fast.finetuning.predictions import Evaluation, check_file
from d2v_fast.finetuning.recipes import GROUPS
from d2v_fast.finetuning.sets import LabelledData
from d2v_fast.finetuning.settings import default_config, settle
from d2v_fast.finetuning.tasks import TASKS
from d2v_fast.run.reader import Run

Parse = Callable[..., Any]
"""(dataclass, arguments, the command's name, default) to an instance of it."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What is not a part of the configuration."""

    data: str
    """Samples with labels: a folder with a folder for each class, a manifest, archives, saved datasets, ..."""

    out: str
    """The folder of the new run."""

    label: str | None = None
    """The column, or key in .json, of the labels; by default "label", "labels", "target" or "text", or the folder."""

    group: str | None = None
    """The column that says what belongs together (a speaker, a patient) and is held out as a whole; or "file"."""

    validation: str | None = None
    """Labelled samples that choose the best checkpoint; by default the share loader.holdout of the data."""

    recipe: str | None = None
    """Settings by name, which change some defaults; d2v-fast finetune without arguments lists them."""

    data_changed: bool = False
    """The data or its labels have grown or changed: the run goes on from its newest checkpoint with what there is."""

    from_scratch: bool = False
    """Random weights instead of the run's, to see what pretraining is worth (encoder.from_scratch)."""

    dry_run: bool = False
    """Print classes, labels left out, time, memory and disk, measured on a few micro-batches, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments:
    """Train an encoder further on samples with labels. The same command again continues the run."""

    run: Annotated[FinetuneOptions, tyro.conf.arg(name="")]
    """What is not a part of the configuration."""

    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]
    """Each field can be changed."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the outputs of a recogniser become words."""

    beam: int | None = None
    """ctc: prefixes that the beam search keeps; 1: the best symbol of each frame."""

    language_model: str | None = None
    """ctc: an n-gram model in ARPA format for the beam search."""

    lm_weight: float | None = None
    """ctc: factor on the language model's logarithms."""

    word_score: float | None = None
    """ctc: added for each word in the beam search."""

    decoder: Literal["own", "flashlight"] | None = None
    """ctc: whose beam search; flashlight's needs flashlight-text."""

    def given(self) -> dict[str, Any]:
        """What is to be another than in the run's configuration."""
        found = {field.name: getattr(self, field.name) for field in fields(Decoding)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LongSamples:
    """How samples are taken that are longer than the inputs of the training."""

    window: float | None = None
    """Seconds (of text: tokens) of the windows in which long samples are taken; by default the longest input of the
    training; 0: all is used whole."""

    overlap: float | None = None
    """Of two windows; by default a fifth of a window."""


@dataclass(frozen=True, kw_only=True)
class PredictArguments(Decoding, LongSamples):
    """Say what a fine-tuned run thinks of new samples."""

    data: str
    """The samples: a folder, a manifest, archives, a table of texts, ..."""

    out: str
    """The file for the predictions: .jsonl, or .csv."""

    batch_size: int = 32
    """Samples in a batch, at most; the predictions do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(Decoding, LongSamples):
    """Measure a fine-tuned run on labelled samples, with confidence intervals."""

    data: str
    """Samples with labels, others than those that it was trained and validated on."""

    label: str | None = None
    """The column, or key in .json, of the labels."""

    group: str | None = None
    """The column that says what belongs together: drawn together for the intervals."""

    out: str | None = None
    """A .json file for all numbers."""

    batch_size: int = 32
    """Samples in a batch, at most; the numbers do not depend on it."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run `d2v-fast finetune`.

    Raises:
        ConfigError: There is no such task, recipe or field, or a value cannot be used.
        DataError: The data or its labels cannot be used.
        RunError: See `Data2VecTrainer.fit`.
    """
    import_modalities()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: d2v-fast finetune RUN --task TASK --data LABELLED --out OUT [--steps N] [--optim.lr X] ...\n")
        print(f"tasks: {', '.join(TASKS)}")
        for name, kind in TASKS.items():
            print(f"  {name:10} {kind.about}")
        print("\nrecipes (--recipe):")
        for group, recipes in GROUPS.items():
            print(f"  {group}: {', '.join(recipes)}")
        print()
        print("d2v-fast finetune RUN --help lists every field for this run.")
        return
    source, *options = arguments
    if source.startswith("-"):
        raise ConfigError("the run comes first: d2v-fast finetune RUN --task TASK --data LABELLED --out OUT")
    task, options = take("--task", options)
    recipe, out = value_of("--recipe", options) or None, value_of("--out", options)
    if out and (Path(out).expanduser() / "config.json").is_file():  # the pretrained run may be gone
        before = Run(out).config
        if not isinstance(before, FinetuneConfig):
            raise RunError(f"{out} is a pretraining run: give the fine-tuning a folder of its own")
        config, task = before, task or before.task.name
    else:
        config = default_config(source, task or "classify", recipe)
    default = FinetuneArguments(run=FinetuneOptions(data=tyro.MISSING, out=tyro.MISSING), config=config)
    with unchecked():  # the parser makes each section by itself; all of it is checked together, in `settle`
        parsed = parse(FinetuneArguments, options, f"finetune {source}", default)
    run: FinetuneOptions = parsed.run
    fields_given = given_fields(options, parsed.config)
    if run.from_scratch:
        fields_given["encoder.from_scratch"] = True
    settled = settle(source, task or "classify", fields_given, run.out, run.recipe)
    given = LabelledData(data=run.data, label=run.label, group=run.group, validation=run.validation)
    tuning = Finetuning(settled, given, run.out)
    if not run.dry_run:
        print(tuning.fit(data_changed=run.data_changed))
        return
    if launch.rank() > 0:
        return
    from rich.console import Console
    from rich.table import Table

    from d2v_fast.report.finetune_dry_run import dry_run

    table = Table(show_header=False, title="nothing was written", title_justify="left")
    for row in dry_run(tuning):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)


def predict(arguments: list[str], parse: Parse) -> None:
    """Run `d2v-fast predict`.

    Raises:
        ConfigError: The file for the predictions cannot be one.
        DataError: The data cannot be used.
        RunError: The run cannot be read, or is no fine-tuning.
    """
    import_modalities()
    run, parsed = _parsed(PredictArguments, arguments, parse, "predict OUT --data NEW --out FILE")
    check_file(parsed.out)
    found = Finetuned(run, **parsed.given()).predict(
        parsed.data, batch_size=parsed.batch_size, window=parsed.window, overlap=parsed.overlap
    )
    path = found.write(parsed.out)
    print(f"{path}: {len(found) - len(found.problems)} predictions, {len(found.problems)} samples that cannot be used")


def evaluate(arguments: list[str], parse: Parse) -> None:
    """Run `d2v-fast evaluate`.

    Raises:
        DataError: The data or its labels cannot be used.
        RunError: The run cannot be read, or is no fine-tuning.
    """
    import_modalities()
    run, parsed = _parsed(EvaluateArguments, arguments, parse, "evaluate OUT --data TEST")
    network = Finetuned(run, **parsed.given())
    result = network.evaluate(
        parsed.data,
        label=parsed.label,
        group=parsed.group,
        batch_size=parsed.batch_size,
        window=parsed.window,
        overlap=parsed.overlap,
    )
    if parsed.out is not None:
        write_whole(Path(parsed.out).expanduser(), json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    _show(result)


def _show(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("measure", "value", "95 % interval", title=f"{result.samples} samples", title_justify="left")
    for name, value in result.metrics.items():
        low_high = result.intervals.get(name)
        interval = "" if low_high is None else f"{low_high[0]:.4f} to {low_high[1]:.4f}"
        table.add_row(name, "-" if value is None else f"{value:.4f}", interval)
    console.print(table, markup=False)
    if result.confusion is None:
        return
    counts = Table("is", *result.classes, title="taken for", title_justify="left")
    for name, row in zip(result.classes, result.confusion.tolist(), strict=True):
        counts.add_row(name, *map(str, row))
    console.print(counts, markup=False)


def _parsed(cls: type, arguments: list[str], parse: Parse, usage: str) -> tuple[str, Any]:
    """The run and the parsed options."""
    run = None
    if arguments and not arguments[0].startswith("-"):
        run, *arguments = arguments
    parsed = parse(cls, arguments, " ".join(usage.split()[:2]))
    if run is None:
        raise ConfigError(f"the run comes first: d2v-fast {usage}")
    return run, parsed
