"""The command `d2v-fast embed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from d2v_fast.commands.entry_points import import_modalities

Parse = Callable[[Any, list[str], str], Any]
"""(dataclass, arguments, command) -> the arguments as that dataclass."""


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """Write the features of every sample to a file. Interrupted, the same command continues."""

    run: Annotated[str, tyro.conf.arg(name=""), tyro.conf.Positional]
    """The run's folder, or that of one of its checkpoints."""

    data: str
    """What pretrain --data takes: a folder, a manifest, tar shards, ...; it is prepared as the run did."""

    out: str
    """The file: .safetensors, .npy or .parquet. What cannot be read is listed in OUT.broken.jsonl."""

    network: Literal["student", "teacher", "initial"] = "student"
    """Whose features: the student's, the teacher's, or those of the run's random start."""

    layers: str = "last"
    """"last", "all", or numbers ("0,6,12"): 0 is what the embedding gives, without positions; k the end of block k."""

    pool: Literal["mean", "none"] = "mean"
    """The mean over the tokens of a sample, or the features of each token."""

    batch_size: int = 32
    """Samples in a batch at most; only samples of one length are computed together."""

    device: str | None = None
    """cpu, cuda, cuda:1, ...; a GPU if there is one."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""

    window: float | None = None
    """Seconds (of text: tokens) of the windows in which long samples are taken; by default the longest input of the
    training; 0: all is used whole."""

    overlap: float | None = None
    """Of two windows; by default a fifth of a window."""

    dry_run: bool = False
    """Print samples, disk and time, from a few samples that are read, and write nothing."""


def main(arguments: list[str], parse: Parse) -> None:
    """Run the command.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data cannot be used, or the file is there already.
        RunError: The run cannot be read.
    """
    asked = parse(EmbedArguments, arguments, "embed")
    import_modalities()
    from d2v_fast.evaluation.embed import embed
    from d2v_fast.evaluation.estimate import estimate

    options: dict[str, Any] = asdict(asked)
    run, data = options.pop("run"), options.pop("data")
    if not options.pop("dry_run"):
        print(embed(run, data, **options))
        return
    lines = estimate(run, data, **options)
    print("nothing was written")
    for what, value in lines:
        print(f"{what:18} {value}")
