"""Checks of data2vec 2.0 that data2vec 1.0 has no counterpart of: kept tokens, decoder, ALiBi, class token, spread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from golden_case import Case
from torch import Tensor, nn

from d2v_fast.models.data2vec import Data2Vec, Data2VecOutput
from d2v_fast.modules.positions import SinCosPositions
from d2v_fast.ops.packing import to_device
from d2v_fast.run.monitors import mean_std

SPREAD = 1e-5
Close = Callable[..., None]
"""`Report.close`."""


class Relative(Protocol):
    """A `Report`."""

    def relative(
        self, name: str, ours: float, theirs: Tensor | float | None, documented: str | None = None, tolerance: float = 0
    ) -> None: ...


def check_student(close: Close, case: Case, model: Data2Vec, tolerance: float) -> Tensor | None:
    """What enters and leaves the student's blocks and its decoder, in ascending order of the kept tokens.

    Returns:
        [views, C], the prediction of the class token, if there is one.
    """
    batch, encoder = case.batch, model.student.encoder
    entered: list[Tensor] = []
    hook = encoder.blocks[case.config.transformer.prenet].register_forward_pre_hook(_keep_first(entered))
    with torch.no_grad():
        local = encoder.embed(batch.inputs)
        lengths = encoder.token_lengths(batch.lengths)
        layers = encoder.encode_kept(local, lengths, mask=batch.mask, kept=batch.kept)
        every = torch.arange(batch.mask.numel())
        decoded = model.student.decoder(
            layers.output,
            to_device(batch.kept, local.device),
            encoder.shape(local.shape[1]),
            every,
            case.noise[0] if case.noise else torch.zeros(len(every) - len(batch.kept), local.shape[2]),
            samples=len(batch.mask),
        )
    hook.remove()
    close("local features", local, case.get("fwd/local_features"), tolerance)
    if isinstance(encoder.positions if hasattr(encoder, "positions") else None, SinCosPositions):
        name = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
        close("fixed positions", encoder.positions.table.unsqueeze(0), case.get(f"student0/{name}"), tolerance)
    order = _order(case)
    extra = layers.extra if layers.extra is not None else layers.output.new_zeros(len(batch.mask), 0, local.shape[2])
    output = torch.cat([extra, layers.output.view(len(batch.mask), -1, local.shape[2])], 1)
    theirs = case.get("fp64/student_out", "fwd/student_out")
    close("student output", output, None if theirs is None else _sorted(theirs, order, extra.shape[1]), tolerance)
    theirs = case.get("fwd/student_in")
    ours = entered[0].view(output.shape)
    close(
        "student, before its blocks",
        ours,
        None if theirs is None else _sorted(theirs, order, extra.shape[1]),
        tolerance,
    )
    close("decoder output", decoded.view(*batch.mask.shape, -1), case.get("fwd/decoder_out"), tolerance)
    if layers.extra is not None:
        close("class token", layers.extra.mean(1), case.get("fwd/cls_pred"), tolerance)
    check_alibi(close, case, model, order, tolerance)
    return None if layers.extra is None else layers.extra.mean(1)


def check_alibi(close: Close, case: Case, model: Data2Vec, order: Tensor, tolerance: float) -> None:
    """The bias of attention, of the teacher between all frames and of the student between kept ones."""
    width = case.batch.mask.shape[1]
    theirs = case.get("fwd/teacher_alibi_bias")
    if theirs is not None:
        close("ALiBi of the teacher", model.teacher.alibi().dense(width), theirs, tolerance)
    theirs = case.get("fwd/student_alibi_bias")
    if theirs is not None:
        positions = case.batch.kept.view(len(order), -1) % width
        rows = order[:, None, :, None].expand_as(theirs)
        given = theirs.gather(2, rows).gather(3, order[:, None, None, :].expand_as(theirs))
        close("ALiBi of the student", model.student.encoder.alibi().bias(positions), given, tolerance)


def check_teacher_input(close: Close, case: Case, model: Data2Vec, tolerance: float) -> None:
    """What enters the teacher's network, and its blocks behind the prenet."""
    teacher, entered = model.teacher, list[Tensor]()
    hook = teacher.blocks[case.config.transformer.prenet].register_forward_pre_hook(_keep_first(entered))
    with torch.no_grad():
        local = teacher.embed(case.batch.inputs)
        teacher.forward_layers(local, teacher.token_lengths(case.batch.lengths), padding=True)
    hook.remove()
    close("teacher, local features", local, case.get("fwd/teacher_local_features"), tolerance)
    theirs = case.get("fp64/teacher_in", "fwd/teacher_in")
    if theirs is not None:
        width, ours = case.batch.mask.shape[1], entered[0]
        close("teacher, before its blocks", ours[:, -width:], theirs[:, -width:], tolerance)
        if theirs.shape[1] > width:
            close("teacher, extra tokens", ours[:, :-width], theirs[:, :-width], tolerance)


def check_parts(report: Relative, case: Case, output: Data2VecOutput) -> None:
    """Each part of the loss, and the spread of targets and predictions."""
    rows, once = output.losses["regression"].count, output.target
    names = {key.rpartition("/")[2] for key in case.arrays if key.startswith(("fwd/loss/", "variant/"))}
    for name, part in output.losses.items():
        theirs = "cls" if name == "class_token" else next((n for n in names if n.endswith("_regression")), "regression")
        value = float(part.weight * part.sum / part.count * rows)
        given = case.get(
            f"fp64/loss/{theirs}", f"fwd/loss/{theirs}", f"variant/{case.meta['main_variant']}/loss/{theirs}"
        )
        report.relative(f"loss, {name}", value, given)
    for what, values, key in (("predictions", output.prediction, "pred_var"), ("targets", once, "target_var")):
        report.relative(f"spread of the {what}", float(mean_std(values)), case.get(f"fwd/{key}"), tolerance=SPREAD)


def _order(case: Case) -> Tensor:
    """int64 [rows, kept]: by which the file's kept tokens come into ascending order."""
    keep = torch.as_tensor(case.arrays["fwd/ids_keep"]).long()
    return keep.reshape(len(case.batch.mask), -1).argsort(1)


def _sorted(theirs: Tensor, order: Tensor, extra: int) -> Tensor:
    kept = theirs[:, extra:].gather(1, order.unsqueeze(2).expand(-1, -1, theirs.shape[2]))
    return torch.cat([theirs[:, :extra], kept], 1)


def _keep_first(into: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        into.append(arguments[0])

    return keep
