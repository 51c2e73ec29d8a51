"""`d2v-fast export RUN`: the network of a run, for another library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from d2v_fast.commands.entry_points import import_modalities
from d2v_fast.errors import ConfigError
from d2v_fast.exporting import export
from d2v_fast.exporting.write import Format, dry_run


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write an encoder, or a fine-tuned network, as a folder that another library loads, with a model card."""

    to: Format
    """hf: a model of transformers, for AutoModel.from_pretrained. timm: pictures, for timm.create_model. onnx:
    for onnxruntime and others. torch: a program of torch.export."""

    out: str
    """The new folder."""

    network: Literal["student", "teacher"] = "student"
    """The student, which the papers fine-tune, or the teacher, its moving average (not of a fine-tuned run)."""

    overwrite: bool = False
    """Replace an earlier export; any other folder is never touched."""

    dry_run: bool = False
    """Print the files and their sizes, or why it cannot be done, and leave nothing on the disk."""


def main(arguments: list[str], parse: Callable[..., Any]) -> None:
    """Run the command.

    Raises:
        ConfigError: No run was named.
        RunError, OSError: See `export`.
    """
    import_modalities()
    run = None
    if arguments and not arguments[0].startswith("-"):
        run, *arguments = arguments
    parsed = parse(ExportArguments, arguments, "export RUN")
    if run is None:
        raise ConfigError("the run comes first: d2v-fast export RUN --to FORMAT --out DIR")
    if parsed.dry_run:
        print("nothing was written")
        for what, value in dry_run(run, parsed.to, parsed.out, network=parsed.network, overwrite=parsed.overwrite):
            print(f"{what}  {value}")
        return
    print(export(run, parsed.to, parsed.out, network=parsed.network, overwrite=parsed.overwrite))
