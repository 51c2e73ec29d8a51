"""The command `d2v-fast`. Nothing heavy is imported before it is known what to do, so that --help is quick."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import tyro

from d2v_fast import launch, log
from d2v_fast.commands.options import one_line, value_of
from d2v_fast.run.lock import refuse_if_in_use
from d2v_fast.streams import SteadyStream, fill_closed_descriptors

T = TypeVar("T")

HELP = """\
usage: d2v-fast [--quiet] COMMAND ...

Fast and exact data2vec pretraining for speech, images, text and signals.

commands:
  pretrain PRESET --data PATH --out RUN   train on your own files; the same command again continues the run
  finetune RUN --task TASK --data LABELLED --out OUT
                                          train the encoder of a run on samples with labels: classify, ctc, ...
  predict OUT --data NEW --out FILE       what a fine-tuned run says about new samples
  evaluate OUT --data TEST                how good it is on labelled samples, with confidence intervals
  data build PATH --out MANIFEST          look at every file once, list what is broken, write a manifest
  data show PATH                          counts, hours and sizes, and a picture of samples with their masks
  embed RUN --data PATH --out FILE        the features of every sample, in a file
  probe RUN --data LABELLED               what student and teacher are worth on labelled data, layer by layer
  export RUN --to FORMAT --out DIR        the network of a run as a model that other libraries load
  report RUN [RUN ...] --out PAGE         one HTML page: curves, what stands out, masks, configurations
  profile PRESET|RUN --data PATH          where the time of a training step goes
  demo [vision|speech|text]               pretrain a small model in a minute and show what it has learned
  info [--json]                           versions, and which code serves each operation on each device

presets: {speech,text,vision}-{base,large,small,tiny}, series-tiny, spectrogram-tiny; data2vec 2.0:
  {speech2,text2,vision2}-{base,large,tiny}, vision2-{huge16,huge14}, series2-tiny, spectrogram2-{base,tiny}

--quiet leaves out progress; warnings and errors stay.
torchrun --nproc-per-node N -m d2v_fast pretrain|finetune ... trains with N processes.
d2v-fast COMMAND --help explains a command; d2v-fast pretrain PRESET --help lists every field of a preset.
"""


TOGETHER = ("pretrain", "finetune")
"""Commands that several processes, started by torchrun, carry out together."""


class Failure(Exception):
    """The command failed for a reason that the user can act on.

    Args:
        message: One line.
        code: The exit code; 2 for what cannot be done as asked.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Pretrain a tiny model on data that comes with the package, and show what it has learned."""

    out: str | None = None
    """Folder for the run and the picture; demo-runs/MODALITY if it is not given."""

    steps: int | None = None
    """Optimizer steps; the preset's number if it is not given."""


@dataclass(frozen=True, kw_only=True)
class InfoArguments:
    """Versions, what was compiled, and which code serves each operation on each device."""

    json: bool = False
    """Print JSON instead of tables."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Exits with 0 if it succeeded, 2 if it cannot be done as asked, 1 if a run stopped by itself, and 128 plus the number
    of the signal if it was stopped from outside. Each of these prints one line; a traceback is a bug of this program.
    Standard output that cannot be written makes it 1, but for a reader that went away; a run goes on without.
    """
    fill_closed_descriptors()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    quiet = arguments[:1] == ["--quiet"]
    log.for_a_command(quiet=quiet)
    if launch.rank() > 0:
        log.mute()
    stdout = SteadyStream(sys.stdout if launch.rank() == 0 else None)
    try:
        with contextlib.redirect_stdout(stdout):
            try:
                _dispatch(arguments[quiet:])
            except SystemExit:  # the parser has printed a help
                _finish(stdout)
                raise
        _finish(stdout)
    except Failure as error:
        log.tell(str(error), logging.ERROR)
        sys.exit(error.code)
    except KeyboardInterrupt:
        log.tell("interrupted; the same command continues, a run from its last checkpoint", logging.ERROR)
        sys.exit(130)
    finally:
        log.flush_output()


def _finish(stdout: SteadyStream) -> None:
    """Write out the rest.

    Raises:
        Failure: It, or something before it, could not be written.
    """
    stdout.flush()
    if stdout.problem is not None and not isinstance(stdout.problem, BrokenPipeError):
        raise Failure(f"standard output could not be written: {stdout.problem}", 1)


def _dispatch(arguments: list[str]) -> None:
    commands: dict[str, Callable[[list[str]], None]] = {
        "pretrain": _pretrain,
        "data": _data,
        "finetune": _finetune,
        "predict": _predict,
        "evaluate": _evaluate,
        "embed": _embed,
        "probe": _probe,
        "export": _export,
        "report": _report,
        "profile": _profile,
        "demo": _demo,
        "info": _info,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    if arguments[0] == "--version":
        from d2v_fast import __version__

        print(__version__)
        return
    if arguments[0] not in commands:
        raise Failure(f"there is no command {arguments[0]!r}; choose one of {', '.join(commands)}")
    if launch.size() > 1 and arguments[0] not in TOGETHER:
        raise Failure(f"{arguments[0]} is done by one process: call it without torchrun")
    commands[arguments[0]](arguments[1:])


@contextlib.contextmanager
def _expected_errors() -> Iterator[None]:
    """Turns the errors that a run may end with, which explain themselves, into a line and an exit code."""
    from d2v_fast.errors import ConfigError, DataError, Interrupted, RunError, RunStopped, TooManySkipped

    try:
        yield
    except Interrupted as error:
        raise Failure(str(error), 128 + error.signum) from error
    except (RunStopped, TooManySkipped, OSError) as error:  # OSError: disks and permissions; its message has the path
        raise Failure(str(error), 1) from error
    except (ConfigError, DataError, RunError) as error:
        raise Failure(str(error)) from error


def _pretrain(arguments: list[str]) -> None:
    with _expected_errors():
        if "--dry-run" not in arguments and launch.rank() == 0:
            refuse_if_in_use(value_of("--out", arguments))  # before anything heavy is imported
        from d2v_fast.commands import pretrain

        pretrain.main(arguments, _parse)


def _data(arguments: list[str]) -> None:
    from d2v_fast.commands import data as data_cli
    from d2v_fast.commands.entry_points import import_modalities

    with _expected_errors():
        import_modalities()
        data_cli.main(arguments, _parse)


def _finetune(arguments: list[str]) -> None:
    with _expected_errors():
        if "--dry-run" not in arguments and launch.rank() == 0:
            refuse_if_in_use(value_of("--out", arguments))  # before anything heavy is imported
        from d2v_fast.commands import finetune

        finetune.main(arguments, _parse)


def _predict(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import finetune

        finetune.predict(arguments, _parse)


def _evaluate(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import finetune

        finetune.evaluate(arguments, _parse)


def _embed(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import embed

        embed.main(arguments, _parse)


def _probe(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import probe

        probe.main(arguments, _parse)


def _export(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import export

        export.main(arguments, _parse)


def _report(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import report

        report.main(arguments, _parse)


def _profile(arguments: list[str]) -> None:
    with _expected_errors():
        from d2v_fast.commands import profile

        profile.main(arguments, _parse)


def _demo(arguments: list[str]) -> None:
    modality = "vision"
    if arguments and not arguments[0].startswith("-"):
        modality, *arguments = arguments
    parsed = _parse(DemoArguments, arguments, "demo [vision|speech|text]")
    from d2v_fast.demo import DemoError
    from d2v_fast.demo import main as demo

    with _expected_errors():
        try:
            demo(modality, parsed.out, parsed.steps)
        except DemoError as error:
            raise Failure(str(error)) from error


def _info(arguments: list[str]) -> None:
    parsed = _parse(InfoArguments, arguments, "info")
    from d2v_fast.commands.info import main as info

    info(parsed.json)


def _parse(cls: type[T], arguments: Sequence[str], command: str, default: Any = None) -> T:
    """`arguments` as the dataclass `cls`, by tyro, with its errors on one line.

    Raises:
        Failure: They do not fit.
    """
    errors = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                cls,
                prog=f"d2v-fast {command}",
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands,),
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise Failure(f"{one_line(errors.getvalue())} (see d2v-fast {command} --help)") from None
