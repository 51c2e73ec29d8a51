"""What `d2v-fast export` does: weights out of a run, into a folder of another library."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal, get_args

from d2v_fast.data.store import human_bytes
from d2v_fast.errors import RunError
from d2v_fast.exporting.card import FILE, card, facts
from d2v_fast.exporting.folder import check_new, new_folder
from d2v_fast.exporting.network import trained_of
from d2v_fast.interop import folders, programs, timm
from d2v_fast.run.reader import Run

Format = Literal["hf", "timm", "onnx", "torch"]
FORMATS = get_args(Format)
"""What a run can be exported to."""

_WRITERS = {
    "hf": folders.write_hf,
    "timm": timm.write_timm,
    "onnx": programs.write_onnx,
    "torch": programs.write_torch,
}


def export(
    run: str | Path,
    to: Format,
    out: str | Path,
    *,
    network: Literal["student", "teacher"] = "student",
    overwrite: bool = False,
) -> Path:
    """Write the network of a run as a folder that another library loads, with a model card.

    Of a pretraining run that is an encoder; of a fine-tuning, the encoder with its outputs.

    The folder is there as a whole or not at all. Of the run's place only the folder's name is written.

    Example:
        >>> d2v_fast.export("runs/photos", "hf", "photos-hf", network="teacher")

    Args:
        run: A run's folder, whose newest good checkpoint is taken (of a fine-tuning: the best), or the folder of one
            checkpoint.
        to: "hf": a data2vec model of transformers, for `AutoModel.from_pretrained`, or `AutoModelForCTC` and so on,
            with the files of its processor or tokenizer. "timm": pictures, as a `beit` for `timm.create_model`.
            "onnx": for onnxruntime and others. "torch": a program of torch.export, for `torch.export.load`.
        out: The new folder.
        network: The student, which the papers fine-tune, or the teacher, its moving average, which a fine-tuning has
            not.
        overwrite: Replace an earlier export. A folder that is none is never touched.

    Returns:
        `out`.

    Raises:
        RunError: There is no such run, or `out` exists, or the format has no room for a part of the model, or a
            library that is needed is not installed; the message says which.
        OSError: The folder cannot be written.
        ValueError: `to` or `network` is something else.
    """
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got {to!r}")
    opened, out = Run(run), Path(out).expanduser()
    write = _WRITERS[to]
    with new_folder(out, FILE, overwrite=overwrite) as folder:
        trained = trained_of(opened, network)
        known = facts(opened, to, network, trained)
        try:
            written = write(folder, trained)
        except (ValueError, ImportError) as error:
            raise RunError(f"{opened.path} cannot be exported to {to}: {error}") from error
        (folder / FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(known, written.usage, written.notes), encoding="utf-8")
    return out


def dry_run(
    run: str | Path,
    to: Format,
    out: str | Path,
    *,
    network: Literal["student", "teacher"] = "student",
    overwrite: bool = False,
) -> list[tuple[str, str]]:
    """(file, size) of what `export` would write with the same arguments.

    It is written to a temporary folder, which is deleted: so what cannot be exported is found out, too.

    Raises:
        RunError, OSError, ValueError: See `export`.
    """
    out = Path(out).expanduser()
    check_new(out, FILE, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="d2v_fast-") as folder:
        made = export(run, to, Path(folder) / "export", network=network)
        sizes = {str(path.relative_to(made)): path.stat().st_size for path in made.rglob("*") if path.is_file()}
    lines = [(str(out / name), human_bytes(size)) for name, size in sorted(sizes.items())]
    return [*lines, ("on the disk", human_bytes(sum(sizes.values())))]
