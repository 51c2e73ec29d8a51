"""Checks the model against golden numbers of the reference code: python python_tests/golden/check.py FILE.npz ...

One line per quantity: name, largest error, tolerance, and ok, FAIL or "differs (documented)". Exit status 0 if all is
well, 1 if a quantity fails, 2 if a file is of a kind that this check does not know.

Features, targets, predictions, losses and gradients come from the model in float32, as it is used, and are compared
with the reference's float64 numbers where the file has them. Two things magnify rounding errors and are taken apart:
* The targets of the variants, float32 in the file, are made from the file's own layer features (which ours are checked
  against): a second norm turns the features' last bits into errors above the tolerance, in the reference as in ours.
* The optimizer steps run in float64: Adam turns a gradient of the size of a rounding error into a whole step. (So the
  weights after the steps have a wider tolerance: the reference's own in float32 and float64 differ by more than 2e-5.)

In a padded batch only valid positions are compared. What the networks make of padding means nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from check_second import check_parts, check_student, check_teacher_input
from golden_case import Case, UnknownKind, Variant, read
from golden_steps import Protocol
from torch import Tensor, nn
from torch.nn import functional as F

from d2v_fast import ops
from d2v_fast.batch import Batch
from d2v_fast.models.config import TeacherConfig
from d2v_fast.models.data2vec import Data2Vec, Data2VecOutput

FEATURES, SECOND_FEATURES = 5e-6, 1e-5
"""data2vec 2.0 has up to five more norms behind each other (prenet, decoder, two of the targets): the reference's own
float32 and float64 differ by 4.5e-6 there, and the makers of the files suggest 1e-5. A wrong norm shows at 9e-3."""
LOSS = 1e-6
GRADIENT_OF_TENSOR, GRADIENT_OF_MODEL = 1e-4, 1e-6
WEIGHTS, VISION_WEIGHTS = 5e-5, 1e-4


@dataclass
class Report:
    """The lines of one file."""

    valid: Tensor | None = None
    """bool [B, T], where positions mean something; None if all of them do."""

    failures: int = 0
    lines: list[str] = field(default_factory=list)

    def line(self, name: str, error: float, tolerance: float, *, documented: str | None = None) -> None:
        """One quantity; `documented` says which fault of the reference it restates."""
        good = error <= tolerance  # False for NaN
        verdict = "FAIL" if not good else "ok" if documented is None else f"differs (documented): {documented}"
        self.failures += not good
        self.lines.append(f"  {name:<44} error {error:9.2e}  tolerance {tolerance:8.1e}  {verdict}")

    def close(
        self, name: str, ours: Tensor, theirs: Tensor | None, tolerance: float, documented: str | None = None
    ) -> None:
        """Compare element by element, if the file has the quantity; of [..., B, T, C] only the valid positions."""
        if theirs is None:
            return
        if ours.shape != theirs.shape:
            self.failures += 1
            self.lines.append(f"  {name:<44} shape {list(ours.shape)}, theirs {list(theirs.shape)}  FAIL")
            return
        difference = (ours.detach().double() - theirs.double()).abs()
        if self.valid is not None and difference.shape[-3:-1] == self.valid.shape:
            difference = difference[..., self.valid, :]
        self.line(name, float(difference.max()), tolerance, documented=documented)

    def relative(
        self,
        name: str,
        ours: float,
        theirs: Tensor | float | None,
        documented: str | None = None,
        tolerance: float = LOSS,
    ) -> None:
        """Compare two losses, or other numbers."""
        if theirs is not None:
            theirs = float(theirs)
            self.line(name, abs(ours - theirs) / abs(theirs), tolerance, documented=documented)


def faulty_targets(features: list[Tensor], variant: Variant) -> Tensor:
    """Targets as the reference makes them where it mixes up its axes (its tensors are [T, B, C] there)."""
    layers = [feature.transpose(0, 1).float() for feature in features]
    if {"batch", "instance"} & set(variant.layer_norm):  # these norms bring it back to [B, T, C]
        columns = [layer.permute(1, 2, 0) for layer in layers]
        if "batch" in variant.layer_norm:
            columns = [F.batch_norm(c, None, None, training=True) for c in columns]
        if "instance" in variant.layer_norm:
            columns = [F.instance_norm(c) for c in columns]
        layers = [c.transpose(1, 2) for c in columns]
    if variant.bug == "group norm over the batch":
        layers = [F.layer_norm(layer, layer.shape[-2:]) for layer in layers]
    if "layer" in variant.layer_norm:
        layers = [F.layer_norm(layer, layer.shape[-1:]) for layer in layers]
    mean = torch.stack(layers).mean(0)
    if "layer" in variant.final_norm:
        mean = F.layer_norm(mean, mean.shape[-1:])
    if "instance" in variant.final_norm:
        mean = F.instance_norm(mean.transpose(1, 2)).transpose(1, 2)
    return mean if {"batch", "instance"} & set(variant.layer_norm) else mean.transpose(0, 1)


def targets(features: list[Tensor], variant: Variant) -> Tensor:
    """[B, T, C]: by the library, or restated where the reference has a fault."""
    if variant.bug is not None:
        return faulty_targets(features, variant)
    return ops.layer_targets(features, layer_norm=variant.layer_norm, final_norm=variant.final_norm)


def build(case: Case) -> tuple[Data2Vec, Data2Vec]:
    """Our pair with the file's weights, and the pair for the first step.

    In the file every weight of the teacher differs from the student's, also those that the reference copies from the
    student at the first update and that our teacher shares. So the teacher of the first step owns all of its weights;
    its student is the same module.
    """
    model = Data2Vec(case.config)
    if not case.has_head:
        model.student.head = nn.Identity()
    model.student.load_state_dict(case.weights("student0", "student"))
    given = case.weights("teacher0", "encoder")
    averaged = [name for name, value in model.teacher.named_parameters() if not value.requires_grad]
    if missing := set(averaged) - given.keys():
        raise UnknownKind(f"the teacher has no {min(missing)}, but the configuration averages it")
    model.teacher.load_state_dict({name: given[name] for name in averaged}, strict=False)
    first = Data2Vec(replace(case.config, teacher=TeacherConfig(averages="all")))
    first.student = model.student
    first.teacher.load_state_dict(model.student.encoder.state_dict() | given)
    return model, first


def features_of(model: Data2Vec, case: Case) -> tuple[Tensor, list[Tensor]]:
    """The teacher's input [B, T, C] and its kept features."""
    options, batch = case.config.target, case.batch
    embedding = model.teacher if model.config.teacher.averages == "all" else model.student.encoder
    with torch.no_grad():
        local = embedding.embed(batch.inputs)
        lengths = model.teacher.token_lengths(batch.lengths)
        kept = model.teacher.forward_layers(
            local, lengths, last=options.top_k, feature=options.feature, padding=True
        ).features
    return local, kept


def forward(model: Data2Vec, case: Case, variant: Variant, step: int = 0) -> tuple[Data2VecOutput, Tensor]:
    """The library's output, and the loss that the file's gradients are of; `step` is counted from 1, 0 is none."""
    reduction = "mean" if case.published_vision else "sum"
    noise = case.noise[min(step, len(case.noise) - 1)] if case.noise else None
    # Layer drop is off in the reference's runs.
    output = model(case.batch, skipped=(False,) * case.config.transformer.depth, noise=noise)
    if case.second:
        return output, output.loss * output.losses["regression"].count
    if variant.bug is None:
        return output, output.loss if case.published_vision else output.losses["regression"].sum
    target = faulty_targets(features_of(model, case)[1], variant)
    target = at_rows_of(case.batch, target)
    return output, loss_of(case, output.prediction, target, reduction)


def at_rows_of(batch: Batch, full: Tensor) -> Tensor:
    """[M, C]: what the views predict, of targets [B, T, C] of the samples."""
    return full.repeat_interleave(batch.views, 0).flatten(0, 1)[batch.rows]


def loss_of(case: Case, prediction: Tensor, target: Tensor, reduction: str) -> Tensor:
    """The file's loss."""
    c = case.config
    scale = c.transformer.dim**-0.5 if c.loss.scale is None else c.loss.scale
    return ops.masked_smooth_l1(prediction, target, beta=c.loss.beta, scale=scale, reduction=reduction)


def valid_positions(model: Data2Vec, case: Case) -> Tensor | None:
    """bool [B, T]: True where a token is not padding; None if nothing is padded."""
    lengths = model.teacher.token_lengths(case.batch.lengths)
    return None if lengths is None else torch.arange(case.batch.mask.shape[1]) < lengths[:, None]


def check_forward(report: Report, case: Case, model: Data2Vec) -> None:
    """Features, targets under every variant, predictions and losses."""
    batch, main = case.batch, case.main_variant()
    tolerance = SECOND_FEATURES if case.second else FEATURES
    local, features = features_of(model, case)
    check_input(report, case, model, local)
    theirs = layers_of(case, "fp64/layer_results", "fwd/layer_results")
    if theirs is not None:
        report.close("layer features", torch.stack(features), theirs, tolerance)
    full = targets(features, main)
    report.close("targets, all frames", full, case.get("fp64/y_full", "fwd/y_full"), tolerance, main.bug)
    with torch.no_grad():
        output, loss = forward(model, case, main)
    if case.second:
        classes = check_student(report.close, case, model, tolerance)
        check_teacher_input(report.close, case, model, tolerance)
        check_parts(report, case, output)
    else:
        theirs, classes = case.get("fp64/student_out", "fwd/student_out"), None
        report.close("student output", masked_output(model, case), theirs, tolerance)
    at_rows = output.target if main.bug is None else at_rows_of(batch, full)
    report.close("targets", at_rows, case.get("fp64/y", "fwd/y"), tolerance, main.bug)
    report.close("predictions", output.prediction, case.get("fp64/x", "fwd/x"), tolerance)
    key = "loss" if case.published_vision else "loss_sum"
    report.relative("loss", float(loss), case.get(f"fp64/{key}", f"fwd/{key}"), main.bug)
    given = layers_of(case, "fwd/layer_results")
    for name, variant in case.variants().items():
        full = targets(features if given is None else list(given), variant)
        target = at_rows_of(batch, full)
        report.close(f"targets, all frames [{name}]", full, case.get(f"variant/{name}/y_full"), tolerance, variant.bug)
        report.close(f"targets [{name}]", target, case.get(f"variant/{name}/y"), tolerance, variant.bug)
        loss = loss_of(case, output.prediction, target, "mean" if case.published_vision else "sum")
        if classes is not None and case.config.loss.class_token > 0:
            wanted = full.mean(1).repeat_interleave(batch.views, 0)
            report.close(f"class-token targets [{name}]", wanted, case.get(f"variant/{name}/cls_target"), tolerance)
            weight = case.config.loss.class_token / len(classes) * len(target)
            loss = loss + weight * loss_of(case, classes, wanted, "sum")
        report.relative(f"loss [{name}]", float(loss), case.get(f"variant/{name}/{key}"), variant.bug)


def layers_of(case: Case, *keys: str) -> Tensor | None:
    """[K, B, T, C]: the last K of the first of these layer features that the file has, without the class token."""
    layers = case.get(*keys)
    if layers is None:
        return None
    if case.kind in ("fairseq speech", "fairseq text"):
        layers = layers.transpose(1, 2)  # theirs are [K, T, B, C]
    return layers[-case.config.target.top_k :, :, -case.batch.mask.shape[1] :]


def check_input(report: Report, case: Case, model: Data2Vec, local: Tensor) -> None:
    """What enters the teacher's context network."""
    theirs = case.get("fp64/pre_encoder_features", "fwd/pre_encoder_features")
    if theirs is None:
        return
    if case.config.teacher.averages == "all" and not case.published_vision:
        # fairseq keeps the student's features under this name; a teacher that is a whole model makes its own.
        with torch.no_grad():
            local = model.student.encoder.embed(case.batch.inputs)
    if theirs.shape[1] == local.shape[1] + 1:  # vision: the class token comes first
        encoder = model.teacher if case.published_vision else model.student.encoder
        local = torch.cat([encoder.embedding.class_token.expand(len(local), 1, -1), local], 1)
    report.close("teacher input", local, theirs, FEATURES)


def masked_output(model: Data2Vec, case: Case) -> Tensor:
    """[B, T, C]: the student's encoder on the masked input, all positions."""
    encoder, batch = model.student.encoder, case.batch
    text = batch.masked_inputs is not None
    local = encoder.embed(batch.masked_inputs if text else batch.inputs)
    lengths = encoder.token_lengths(batch.lengths)
    return encoder.forward_layers(local, lengths, mask=None if text else batch.mask).output


def check_gradients(report: Report, case: Case, model: Data2Vec) -> None:
    """Every parameter's gradient: within a part of its own largest entry plus a part of the model's."""
    forward(model, case, case.main_variant())[1].backward()
    parameters = dict(model.student.named_parameters())
    for group in ("fp64_grad", "grad1"):
        theirs = case.weights(group, "student")
        if theirs:
            break
    else:
        return
    largest = max(float(value.abs().max()) for value in theirs.values())
    judged = []
    for name, value in theirs.items():
        grad = parameters[name].grad
        ours = torch.zeros_like(value) if grad is None else grad
        error = float((ours.double() - value.double()).abs().max())
        tolerance = GRADIENT_OF_TENSOR * float(value.abs().max()) + GRADIENT_OF_MODEL * largest
        judged.append((-error / tolerance if error == error else -torch.inf, name, error, tolerance))
    _, name, error, tolerance = min(judged)
    report.line(f"gradients of {len(theirs)} tensors, the worst", error, tolerance)
    report.lines.append(f"    which is {name}")


def check_steps(report: Report, case: Case, model: Data2Vec, first: Data2Vec) -> None:
    """Three optimizer and EMA steps on the same batch, with the file's protocol."""
    main = case.main_variant()
    check_gradients(report, case, first)
    if case.batch.inputs.is_floating_point():
        case = replace(case, batch=replace(case.batch, inputs=case.batch.inputs.double()))
    model.double()
    first.double()
    parameters = dict(model.student.named_parameters())
    protocol = Protocol(case, parameters)
    tolerance = VISION_WEIGHTS if "vision" in case.kind else WEIGHTS
    key = "loss" if case.published_vision else "loss_sum"
    # The published vision code damages its teacher's index table; idxkept/* are the steps without that.
    losses = case.get("idxkept/steps_loss", f"steps/{key}")
    norms, decays = case.get("steps/gnorm"), case.get("steps/ema_decay")
    for update in range(1, int(case.meta.get("nsteps", 3)) + 1):
        model.zero_grad(set_to_none=True)
        _, loss = forward(first if update == 1 else model, case, main, update)
        loss.backward()
        norm = protocol.step(case.batch.rows.numel())
        decay = protocol.ema_decay(update)
        model.update_teacher(decay)
        if losses is not None:
            report.relative(f"loss of step {update}", float(loss.detach()), losses[update - 1], main.bug)
        if norms is not None and (update == 1 or "idxkept/steps_loss" not in case.arrays):
            report.line(f"gradient norm of step {update}", abs(norm / float(norms[update - 1]) - 1), 1e-5)
        if decays is not None:
            report.line(f"EMA decay of step {update}", abs(decay - float(decays[update - 1])), 1e-12)
        for part, module in (("student", model.student), ("teacher", model.teacher)):
            group = f"idxkept/{part}{update}"
            theirs = case.weights(group, "student" if part == "student" else "encoder")
            theirs = theirs or case.weights(f"{part}{update}", "student" if part == "student" else "encoder")
            if theirs:
                ours = module.state_dict()
                error = max(float((ours[name].double() - value.double()).abs().max()) for name, value in theirs.items())
                report.line(f"{part} after step {update}, {len(theirs)} tensors", error, tolerance)


def check(path: Path) -> Report:
    """All quantities of one file.

    Raises:
        UnknownKind: if the file is none that this check knows.
    """
    case = read(path)
    try:
        model, first = build(case)
    except (ValueError, RuntimeError) as error:  # names or shapes that do not fit the options
        raise UnknownKind(f"{case.kind}, but {error}") from error
    report = Report(valid_positions(model, case))
    report.lines.append(f"{path.name}: {case.kind}, {case.meta['main_variant']}")
    check_forward(report, case, first)
    check_steps(report, case, model, first)
    return report


def main(arguments: list[str]) -> int:
    """Check every file; the highest status counts."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for argument in arguments:
        try:
            report = check(Path(argument))
        except UnknownKind as reason:
            print(f"{argument}: unknown kind of file: {reason}")
            status = 2
            continue
        print("\n".join(report.lines))
        print(f"  {report.failures} failed" if report.failures else "  all ok")
        status = max(status, int(report.failures > 0))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
