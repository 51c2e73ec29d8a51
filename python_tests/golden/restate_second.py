"""data2vec 2.0 restated in plain torch and float64 from its description: nothing of the library is used here.

`numbers` computes what a golden file holds from the file's weights and batch. On the real files it agrees with the
reference, so files that are `made` by it with other options stand for those that are not in this repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from golden_case import layers_of
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
NORMS = {
    "in": ["instance_norm_target_layer"],
    "ln": ["layer_norm_target_layer"],
    "in+lnT": ["instance_norm_target_layer", "layer_norm_targets"],
    "ln+inT": ["layer_norm_target_layer", "instance_norm_targets"],
}


def weights(arrays: Mapping[str, Any], group: str) -> Weights:
    """The arrays `group/NAME` in float64."""
    return {
        key.removeprefix(f"{group}/"): torch.from_numpy(np.array(value)).double()
        for key, value in arrays.items()
        if key.startswith(f"{group}/")
    }


class Reference:
    """The forward pass for the options of one file."""

    def __init__(self, meta: dict[str, Any], arrays: Mapping[str, Any]) -> None:
        self.c, self.m, self.d = meta["config"], meta["config"]["_m"], meta["config"]["_d"]
        self.name = self.c["supported_modality"]
        self.root = f"modality_encoders.{self.name}"
        self.flags = meta["variants"][meta["main_variant"]]
        source = torch.from_numpy(np.array(arrays["batch/source"]))
        self.source = source.double() if source.is_floating_point() else source
        self.mask = torch.from_numpy(np.array(arrays["fwd/mask_indices"])).bool()
        self.keep = torch.from_numpy(np.array(arrays["fwd/ids_keep"])).long()
        self.restore = torch.from_numpy(np.array(arrays["fwd/ids_restore"])).long()
        self.views, self.extra = self.c["clone_batch"], self.m.get("num_extra_tokens", 0)
        self.padding = None
        if "batch/padding_mask" in arrays:
            lengths = torch.from_numpy(~np.array(arrays["batch/padding_mask"]).astype(bool)).sum(1)
            for _, kernel, stride in self._layers():
                lengths = (lengths - kernel) // stride + 1
            self.padding = torch.arange(self.mask.shape[1]) >= lengths[:, None]

    def _layers(self) -> list[tuple[int, ...]]:
        return list(layers_of(self.m["feature_encoder_spec"]))

    def local(self, p: Weights) -> Tensor:
        """[B, T, C]."""
        front = f"{self.root}.local_encoder"
        if self.name == "AUDIO":
            x = self.source[:, None]
            for i, (channels, _, stride) in enumerate(self._layers()):
                x = F.conv1d(x, p[f"{front}.conv_layers.{i}.0.weight"], stride=stride).transpose(1, 2)
                norm = f"{front}.conv_layers.{i}.2.1"
                x = F.gelu(F.layer_norm(x, (channels,), p[f"{norm}.weight"], p[f"{norm}.bias"])).transpose(1, 2)
            x, project = x.transpose(1, 2), f"{self.root}.project_features"
            x = F.layer_norm(x, x.shape[-1:], p[f"{project}.1.weight"], p[f"{project}.1.bias"])
            return F.linear(x, p[f"{project}.2.weight"], p[f"{project}.2.bias"])
        if self.name == "IMAGE":
            patch = self.m["patch_size"]
            x = F.conv2d(self.source, p[f"{front}.proj.weight"], p[f"{front}.proj.bias"], stride=patch)
            return x.flatten(2).transpose(1, 2)
        table = p[f"{front}.embed_positions.weight"]
        pad = len(table) - self.m["max_source_positions"] - 1
        real = self.source != pad
        positions = real.cumsum(1) * real + pad
        x = p[f"{front}.embed_tokens.weight"][self.source] + table[positions]
        norm = f"{front}.layernorm_embedding"
        return F.layer_norm(x, x.shape[-1:], p[f"{norm}.weight"], p[f"{norm}.bias"])

    def place(self, p: Weights, local: Tensor, mask: Tensor | None) -> Tensor:
        """Local features [N, T, C] with their positions; what is hidden is zero for the convolutions."""
        if self.name == "IMAGE":
            return local + p[f"{self.root}.fixed_positional_encoder.positions"]
        if self.name == "TEXT":
            return local
        x = local if mask is None else local * ~mask[..., None]
        for i in range(self.m["conv_pos_depth"]):
            conv = f"{self.root}.relative_positional_encoder.{i + 1}.0"
            kernel = p[f"{conv}.weight"].shape[2]
            x = F.conv1d(
                x.transpose(1, 2), p[f"{conv}.weight"], p[f"{conv}.bias"], padding=kernel // 2,
                groups=self.m["conv_pos_groups"],
            ).transpose(1, 2)[:, : local.shape[1]]  # fmt: skip
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return local + x

    def bias(self, p: Weights, positions: Tensor) -> Tensor | None:
        """ALiBi between positions [N, S]: [N, H, S, S]."""
        if not self.m.get("use_alibi_encoder"):
            return None
        heads = self.c["num_heads"]
        slopes = torch.tensor([2.0 ** (-8 / heads * (h + 1)) for h in range(heads)], dtype=torch.float64)  # 2, 4, 8
        scale = p[f"{self.root}.alibi_scale"].flatten().clamp_min(0)
        apart = (positions[:, None, :] - positions[:, :, None]).abs()[:, None]
        return -(scale * slopes)[None, :, None, None] * apart

    def network(
        self, p: Weights, x: Tensor, bias: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Extra tokens, norm, prenet, blocks: output and target feature of each block, extra tokens included."""
        if self.extra:
            x = torch.cat([p[f"{self.root}.extra_tokens"].expand(len(x), -1, -1), x], 1)
            bias = None if bias is None else F.pad(bias, (self.extra, 0, self.extra, 0))
            padding = None if padding is None else F.pad(padding, (self.extra, 0))
        norm = f"{self.root}.context_encoder.norm"
        if f"{norm}.weight" in p:
            x = F.layer_norm(x, x.shape[-1:], p[f"{norm}.weight"], p[f"{norm}.bias"], self.c["norm_eps"])
        for i in range(self.m["prenet_depth"]):
            x, _ = self.block(p, f"{self.root}.context_encoder.blocks.{i}", x, bias, padding)
        features = []
        for i in range(self.c["depth"]):
            x, feature = self.block(p, f"blocks.{i}", x, bias, padding)
            features.append(x if self.c.get("end_of_block_targets") else feature)
        return x, features

    def block(
        self, p: Weights, name: str, x: Tensor, bias: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Post-norm: the output and the feed-forward network's."""

        def linear(part: str, value: Tensor) -> Tensor:
            return F.linear(value, p[f"{name}.{part}.weight"], p[f"{name}.{part}.bias"])

        def norm(part: str, value: Tensor) -> Tensor:
            weight = p[f"{name}.{part}.weight"]
            return F.layer_norm(value, x.shape[-1:], weight, p[f"{name}.{part}.bias"], self.c["norm_eps"])

        rows, length, dim = x.shape
        heads = self.c["num_heads"]
        q, k, v = linear("attn.qkv", x).view(rows, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        scores = q / math.sqrt(dim // heads) @ k.transpose(2, 3)
        scores = scores if bias is None else scores + bias
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None, :], -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, dim)
        h = norm("norm1", x + linear("attn.proj", mixed))
        feature = linear("mlp.fc2", F.gelu(linear("mlp.fc1", h)))
        return norm("norm2", h + feature), feature

    def decode(self, p: Weights, kept: Tensor, noise: Tensor) -> Tensor:
        """[N, T, C] of the kept tokens, extra ones left out, and noise [N, hidden, C]."""
        x = torch.cat([kept, noise], 1).gather(1, self.restore[..., None].expand(-1, -1, kept.shape[2]))
        root, d = f"{self.root}.decoder", self.d
        x, convolve = x.transpose(1, 2), F.conv1d
        if self.name == "IMAGE":
            side = math.isqrt(x.shape[2])
            x, convolve = x.unflatten(2, (side, side)), F.conv2d
        for i in range(d["decoder_layers"]):
            weight, bias = p[f"{root}.blocks.{i}.0.weight"], p[f"{root}.blocks.{i}.0.bias"]
            y = convolve(x, weight, bias, padding=weight.shape[2] // 2, groups=d["decoder_groups"])
            y = F.gelu(F.layer_norm(y.movedim(1, -1), weight.shape[:1])).movedim(-1, 1)
            x = y + x if d.get("decoder_residual", True) and y.shape == x.shape else y
        x = x.flatten(2).transpose(1, 2)
        if f"{root}.proj.weight" in p:
            return F.linear(x, p[f"{root}.proj.weight"], p[f"{root}.proj.bias"])
        for i in range(d["projection_layers"]):
            name = f"{root}.proj.{2 * i}"
            x = F.linear(F.gelu(x) if i else x, p[f"{name}.weight"], p[f"{name}.bias"])
        return x

    def teacher_features(self, student: Weights, teacher: Weights) -> list[Tensor]:
        """[B, T, C] of each block, without extra tokens."""
        if self.c["ema_encoder_only"]:
            teacher = {f"blocks.{name}": value for name, value in teacher.items()}
        own = any("local_encoder" in name for name in teacher)
        with torch.no_grad():
            local = self.local(teacher if own else student)
            x = self.place(teacher, local, None)
            bias = self.bias(teacher, torch.arange(x.shape[1])[None])
            features = self.network(teacher, x, bias, self.padding)[1]
        return [feature[:, self.extra :] for feature in features]

    def targets(self, features: list[Tensor], flags: list[str]) -> Tensor:
        """[B, T, C]."""

        def over_time(x: Tensor) -> Tensor:
            return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)

        layers = []
        for x in features[-self.c["average_top_k_layers"] :]:
            if "batch_norm_target_layer" in flags:
                x = F.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)
            x = over_time(x) if "instance_norm_target_layer" in flags else x
            layers.append(F.layer_norm(x, x.shape[-1:]) if "layer_norm_target_layer" in flags else x)
        y = torch.stack(layers).mean(0)
        y = F.layer_norm(y, y.shape[-1:]) if "layer_norm_targets" in flags else y
        return over_time(y) if "instance_norm_targets" in flags else y

    def student(self, p: Weights, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output of the blocks [N, E + kept, C], of the decoder [N, T, C], and the class token [N, C] (empty: none)."""
        local = self.local(p).repeat_interleave(self.views, 0)
        index = self.keep[..., None].expand(-1, -1, local.shape[2])
        kept = self.place(p, local, self.mask).gather(1, index)
        padding = self.padding
        padding = None if padding is None else padding.repeat_interleave(self.views, 0).gather(1, self.keep)
        output, _ = self.network(p, kept, self.bias(p, self.keep), padding)
        return output, self.decode(p, output[:, self.extra :], noise), output[:, self.extra - 1 if self.extra else 0]

    def losses(self, x: Tensor, classes: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Sums: {"NAME_regression", and "cls"}."""

        def distance(one: Tensor, other: Tensor) -> Tensor:
            beta, scale = self.c.get("loss_beta", 0), self.c.get("loss_scale")
            error = F.smooth_l1_loss(one, other, reduction="sum", beta=beta) if beta else ((one - other) ** 2).sum()
            return error * (one.shape[-1] ** -0.5 if scale is None else scale)

        each = y.repeat_interleave(self.views, 0)
        losses = {f"{self.name}_regression": distance(x[self.mask], each[self.mask])}
        if self.c.get("cls_loss"):
            losses["cls"] = self.c["cls_loss"] * int(self.mask.sum()) * distance(classes, each.mean(1))
        return losses


def numbers(meta: dict[str, Any], arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Its numbers, of weights, batch, masks and noise: `fp64/*`, `fp64_grad/*`, `steps/*`, `student3/*`, ...."""
    case = Reference(meta, arrays)
    student, teacher = weights(arrays, "student0"), weights(arrays, "teacher0")
    for name, value in student.items():
        value.requires_grad_(name not in meta["frozen"])
    hidden = case.restore.shape[1] - case.keep.shape[1]
    shape = (len(case.mask), hidden, case.c["embed_dim"])
    given = [arrays["fwd/mask_noise"], *arrays["steps/mask_noise"]] if "fwd/mask_noise" in arrays else []
    noise = [torch.from_numpy(np.array(n)).double() for n in given] or [torch.zeros(shape, dtype=torch.float64)] * 4
    found: dict[str, Tensor] = {}

    def forward(number: int) -> dict[str, Tensor]:
        features = case.teacher_features(student, teacher)
        output, decoded, classes = case.student(student, noise[number])
        y = case.targets(features, case.flags)
        losses = case.losses(decoded, classes, y)
        if number == 0:
            found["fp64/layer_results"], found["fp64/y_full"] = torch.stack(features), y
            found["fp64/y"] = y.repeat_interleave(case.views, 0)[case.mask]
            found["fp64/x"], found["fp64/student_out"] = decoded[case.mask], output
            found["fwd/decoder_out"] = decoded
            found.update((f"fp64/loss/{name}", value) for name, value in losses.items())
            for name, flags in NORMS.items():
                other = case.targets([f.float() for f in features], flags)
                found[f"variant/{name}/y_full"] = other
                found[f"variant/{name}/loss_sum"] = sum(case.losses(decoded, classes, other.double()).values())
        return losses

    total = sum(forward(0).values())
    found["fp64/loss_sum"] = total
    total.backward()
    found.update((f"fp64_grad/{name}", v.grad.clone()) for name, v in student.items() if v.grad is not None)
    _steps(case, meta, student, teacher, forward, found)
    return {name: value.detach() for name, value in found.items()}


def _steps(
    case: Reference, meta: dict[str, Any], student: Weights, teacher: Weights, forward: Any, found: Weights
) -> None:
    """Three updates: fairseq's Adam, clipping, the moving average."""
    options, c = case.c["_opt"], case.c
    moments = {name: [torch.zeros_like(v), torch.zeros_like(v)] for name, v in student.items() if v.requires_grad}
    steps: dict[str, list[Tensor]] = {"loss_sum": [], "gnorm": [], "ema_decay": []}
    for n in range(1, 4):
        for value in student.values():
            value.grad = None
        loss = sum(forward(n).values())
        loss.backward()
        with torch.no_grad():
            grads = {name: student[name].grad / int(case.mask.sum()) for name in moments}
            norm = torch.stack([g.norm() for g in grads.values()]).norm()
            clip = min(1.0, options["clip"] / (float(norm) + 1e-6))
            size = options["lr"] * math.sqrt(1 - 0.98**n) / (1 - 0.9**n)
            for name, (first, second) in moments.items():
                g = grads[name] * clip
                first.mul_(0.9).add_(g, alpha=0.1)
                second.mul_(0.98).addcmul_(g, g, value=0.02)
                vector = student[name].ndim == 1 or name.endswith((".bias", "alibi_scale"))
                student[name].mul_(1 - options["lr"] * (0.0 if vector else options["wd"]))
                student[name].addcdiv_(first, second.sqrt() + options["eps"], value=-size)
            decay = c["ema_end_decay"] - (c["ema_end_decay"] - c["ema_decay"]) * (1 - n / c["ema_anneal_end_step"])
            for name, value in teacher.items():
                value.lerp_(student[f"blocks.{name}" if c["ema_encoder_only"] else name], 1 - decay)
        for key, value in (
            ("loss_sum", loss),
            ("gnorm", norm),
            ("ema_decay", torch.tensor(decay, dtype=torch.float64)),
        ):
            steps[key].append(value.detach())
        if n != 2:
            found.update((f"student{n}/{name}", v.detach().clone()) for name, v in student.items())
            found.update((f"teacher{n}/{name}", v.clone()) for name, v in teacher.items())
    found.update((f"steps/{key}", torch.stack(values)) for key, values in steps.items())


def made(
    source: Mapping[str, Any], changes: dict[str, Any], *, padded: bool = False, ragged: bool = False
) -> dict[str, Any]:
    """A file with other options, made of a real one: new weights where shapes change, and all numbers anew.

    Args:
        source: Arrays of the real file.
        changes: Options, of the model ("depth"), the modality ("_m.prenet_depth") or the decoder ("_d.decoder_dim").
        padded: Speech: the second clip is half as long.
        ragged: Rows with different numbers of hidden positions, while as many are kept of each as of the first.
    """
    meta = json.loads(str(source["meta_json"]))
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (meta if name in ("main_variant",) else meta["config"][section] if section else meta["config"])[key] = value
    meta["variants"] |= NORMS
    c, random = meta["config"], torch.Generator().manual_seed(5)
    arrays = {key: value for key, value in source.items() if key.startswith(("batch/", "student0/", "teacher0/"))}
    samples, width = len(arrays["batch/source"]), source["fwd/mask_indices"].shape[1]
    mask = torch.rand(samples * c["clone_batch"], width, generator=random).argsort(1) < width // 2
    if padded:
        arrays["batch/padding_mask"] = np.zeros(arrays["batch/source"].shape, bool)
        arrays["batch/padding_mask"][1, arrays["batch/source"].shape[1] // 2 :] = True
        arrays["batch/source"] = np.where(arrays["batch/padding_mask"], 0, arrays["batch/source"])
    if ragged:
        mask[1, :3], mask[2, 4:9] = True, False
    shuffle = mask.long().argsort(dim=1, stable=True)
    kept = width - int(mask[0].sum())
    arrays["fwd/mask_indices"], arrays["fwd/ids_keep"] = mask.numpy(), shuffle[:, :kept].flip(1).numpy()
    order = torch.cat([shuffle[:, :kept].flip(1), shuffle[:, kept:]], 1)
    arrays["fwd/ids_restore"] = order.argsort(1).numpy()
    if c["_m"].get("mask_noise_std"):
        shape = (4, len(mask), width - kept, c["embed_dim"])
        noise = torch.randn(shape, generator=random) * c["_m"]["mask_noise_std"]
        arrays["fwd/mask_noise"], arrays["steps/mask_noise"] = noise[0].numpy(), noise[1:].numpy()
    _reshape(arrays, c, random)
    arrays["meta_json"] = np.array(json.dumps(meta))
    return arrays | {key: value.numpy() for key, value in numbers(meta, arrays).items()}


def _reshape(arrays: dict[str, Any], c: dict[str, Any], random: torch.Generator) -> None:
    """Weights for prenet and decoder of other sizes."""
    root, dim = f"modality_encoders.{c['supported_modality']}", c["embed_dim"]
    for part in ("student0", "teacher0"):
        for key in [key for key in arrays if key.startswith(f"{part}/{root}.context_encoder.blocks.")]:
            del arrays[key]
        for i in range(c["_m"]["prenet_depth"]):
            for key in [key for key in arrays if key.startswith(f"{part}/blocks.{i}.")]:
                name = key.replace(f"{part}/", f"{part}/{root}.context_encoder.")
                change = 0.05 * torch.randn(arrays[key].shape, generator=random).numpy()
                arrays[name] = arrays[key] + change
    width, old = c["_d"]["decoder_dim"], f"student0/{root}.decoder.blocks.0.0.weight"
    if len(arrays[old]) != width:
        for i in range(c["_d"]["decoder_layers"]):
            shape = (width, (width if i else dim) // c["_d"]["decoder_groups"], *arrays[old].shape[2:])
            arrays[old.replace("blocks.0", f"blocks.{i}")] = 0.1 * torch.randn(shape, generator=random).numpy()
            bias = old.replace("blocks.0", f"blocks.{i}").replace("weight", "bias")
            arrays[bias] = 0.1 * torch.randn(width, generator=random).numpy()
        weight = f"student0/{root}.decoder.proj.weight"
        arrays[weight] = 0.1 * torch.randn(dim, width, generator=random).numpy()
