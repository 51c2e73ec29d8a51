"""Each operation of `d2v_fast.ops` in a few lines of plain torch: the specification, and the code where no kernel is.

Same signatures as the operations, any floating dtype, any device, no checks of the arguments; float32 arithmetic, or
float64 where a float64 tensor comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def ema_update_(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    decay: float | Tensor,
    shadow: Sequence[Tensor] | None = None,
) -> None:
    """Moves each teacher towards its student in place: teacher += (1 - decay) * (student - teacher).

    Args:
        teacher: the running means.
        student: tensors of the same shapes.
        decay: the share of the old teacher that stays; a number or a 0-dim float64 tensor.
        shadow: receives the new teacher, rounded to its own dtype.
    """
    for index, (mean, sample) in enumerate(zip(teacher, student, strict=True)):
        # The weight is formed in float64: 1 - 0.9999 in float32 is off by 1.7e-4 of itself.
        weight = 1 - decay if isinstance(decay, Tensor) else mean.new_full((), 1 - decay, dtype=torch.float64)
        sample = sample.to(mean.dtype)
        moved = torch.lerp(mean, sample, weight.to(mean))
        # The ends are exact, also beside infinities and NaN: decay 1 keeps the teacher, decay 0 copies the student.
        mean.copy_(torch.where(weight == 0, mean, torch.where(weight == 1, sample, moved)))
        if shadow is not None:
            shadow[index].copy_(mean)


@torch.no_grad()
def adamw_ema_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: Sequence[float],
    weight_decay: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    gradient_scale: Tensor,
    found_inf: Tensor,
    teacher: Sequence[Tensor | None],
    decay: float | Tensor,
    shadow: Sequence[Tensor | None],
    teacher_shadow: Sequence[Tensor | None],
) -> None:
    """One step of AdamW with decoupled weight decay, then the moving averages; see `ops.adamw_ema_`.

    Args:
        parameters: in place, as the moments and the counts of steps.
        gradients: of the same shapes.
        exp_avg: first moments.
        exp_avg_sq: second moments.
        steps: float32 [] for each parameter.
        lr: a number for each parameter.
        weight_decay: likewise.
        betas: decays of the moments.
        eps: added to the root of the second moment.
        gradient_scale: [], what the gradients are divided by.
        found_inf: []; nothing is written unless it is 0.
        teacher: what follows each parameter, or None.
        decay: of the teacher, as in `ema_update_`.
        shadow: receives the new parameter, rounded.
        teacher_shadow: receives the new teacher, rounded.
    """
    (beta1, beta2), skipped = betas, found_inf != 0

    def put(tensor: Tensor, value: Tensor) -> None:
        tensor.copy_(torch.where(skipped, tensor, value.to(tensor.dtype)))

    for index, (parameter, mean, square, done) in enumerate(zip(parameters, exp_avg, exp_avg_sq, steps, strict=True)):
        put(done, done + 1)
        count = done.double()
        gradient = gradients[index] / gradient_scale
        put(mean, torch.lerp(mean, gradient, 1 - beta1))
        put(square, square * beta2 + (1 - beta2) * gradient * gradient)
        root = square.sqrt() / (1 - beta2**count).sqrt() + eps
        kept = parameter * (1 - lr[index] * weight_decay[index])
        put(parameter, kept - lr[index] / (1 - beta1**count) * mean / root)
        copies = [(shadow[index], parameter)]
        if (average := teacher[index]) is not None:
            moved = average.clone()
            ema_update_([moved], [parameter], decay)
            put(average, moved)
            copies.append((teacher_shadow[index], average))
        for copy, source in copies:
            if copy is not None:
                put(copy, source)


def masked_smooth_l1(
    pred: Tensor,
    target: Tensor,
    rows: Tensor | None = None,
    *,
    beta: float,
    scale: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Smooth-L1 (beta > 0) or squared error (beta = 0) of each row, summed over its channels, times `scale`.

    Args:
        pred: [M, C], or [B, T, C] with rows.
        target: [M, C].
        rows: int64 [M], flat indices into B * T; None when `pred` is gathered already.
        beta: where the quadratic part ends; 0 for the squared error, without a factor 1/2.
        scale: multiplies every row's loss.
        reduction: over rows; "mean" of no row is 0.

    Returns:
        The loss, or [M] row losses; float64 when an input is, else float32.
    """
    if rows is not None:
        pred = pred.flatten(0, 1).index_select(0, rows)
    dtype = torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32
    pred, target = pred.to(dtype), target.to(dtype)
    error = F.smooth_l1_loss(pred, target, reduction="none", beta=beta) if beta > 0 else (pred - target).square()
    losses = error.sum(dim=-1) * scale
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / max(losses.numel(), 1)


def layer_targets(
    layers: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    layer_norm: str | tuple[str, ...] | None = "instance",
    final_norm: str | tuple[str, ...] | None = None,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
    views: int = 1,
) -> Tensor:
    """The mean over K layers, each normalised, then normalised again: data2vec's targets (paper, section 3.3).

    Args:
        layers: K tensors [B, T, C].
        rows: int64 [M], flat indices into B * V * T: position t of view v of sample b is (b * V + v) * T + t, and has
            the target of position t of sample b. None for all positions of the samples.
        layer_norm: norms of each layer, in order: "instance" (over T), "layer" (over C), "batch" (over B and T).
        final_norm: norms of the mean, in order.
        lengths: int64 [B]; statistics run over the first lengths[b] frames and the other frames are zero.
        eps: added to the (biased) variance.
        views: V.

    Returns:
        [M, C], or [B, T, C] without rows; float64 for float64 layers, else float32.
    """
    dtype = torch.float64 if layers[0].dtype == torch.float64 else torch.float32
    batch, frames, channels = layers[0].shape
    valid = None if lengths is None else (torch.arange(frames, device=lengths.device) < lengths[:, None])[..., None]

    def normalise(x: Tensor, norms: str | tuple[str, ...] | None) -> Tensor:
        for norm in (norms,) if isinstance(norms, str) else norms or ():
            dims = {"instance": (1,), "batch": (0, 1), "layer": (2,)}[norm]
            if valid is None or norm == "layer":
                variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
            else:
                count = valid.sum(dims, keepdim=True)
                mean = x.where(valid, 0).sum(dims, keepdim=True) / count
                variance = (x - mean).where(valid, 0).square().sum(dims, keepdim=True) / count
            x = (x - mean) * torch.rsqrt(variance + eps)
        return x

    with torch.no_grad():
        total = normalise(layers[0].to(dtype), layer_norm)
        for layer in layers[1:]:
            total = total + normalise(layer.to(dtype), layer_norm)
        targets = normalise(total / len(layers), final_norm)
        if valid is not None:
            targets = targets.where(valid, 0)
        if rows is None:
            return targets
        own = rows // (views * frames) * frames + rows % frames
        return targets.reshape(batch * frames, channels).index_select(0, own)


def strided_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution over time without padding or bias.

    Args:
        x: [B, L, in_channels].
        weight: [out_channels, in_channels, kernel].
        stride: frames between the starts of two windows.

    Returns:
        [B, (L - kernel) // stride + 1, out_channels].
    """
    return F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax of the scaled products of queries and keys, times the values.

    Packed sequences are one row whose bias is minus infinity between tokens of different sequences.

    Args:
        query: [N, S, heads, D].
        key: likewise.
        value: likewise.
        bias: bool (True: may be attended to) or float (added to the scores), broadcast to [N, heads, S, S].

    Returns:
        [N, S, heads, D].
    """
    scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / query.shape[3] ** 0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), value)


def restore(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> Tensor:
    """Kept tokens where they came from, and noise at all other places.

    Args:
        tokens: [K, C].
        kept: int64 [K], flat indices into N * T, ascending.
        noise: [N * T - K, C], for the places that are not kept, in order.
        samples: N.
        width: T.

    Returns:
        [N, T, C].
    """
    hidden = torch.ones(samples * width, dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
    grid = tokens.new_zeros(samples * width, tokens.shape[1]).masked_scatter(hidden[:, None], noise)
    return grid.index_copy(0, kept, tokens).view(samples, width, -1)


def decoder_layer(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> Tensor:
    """Convolution that keeps the size, LayerNorm without affine, exact GELU, and the input added where channels agree.

    Args:
        x: [N, T, C] or [N, H, W, C].
        weight: [D, C / groups, kernel] or [D, C / groups, kernel, kernel].
        bias: [D].
        groups: of the convolution.
        residual: whether x is added.

    Returns:
        [N, T, D] or [N, H, W, D].
    """
    convolve = F.conv1d if x.dim() == 3 else F.conv2d
    y = convolve(x.movedim(-1, 1), weight, bias, padding=weight.shape[2] // 2, groups=groups).movedim(1, -1)
    y = y[:, : x.shape[1]] if x.dim() == 3 else y[:, : x.shape[1], : x.shape[2]]  # an even kernel makes one too many
    y = F.gelu(F.layer_norm(y, y.shape[-1:]))
    return x + y if residual and x.shape[-1] == y.shape[-1] else y


def front_layer(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float) -> Tensor:
    """Convolution over time without padding or bias, LayerNorm over channels and exact GELU.

    Args:
        x: [B, L, in_channels].
        weight: [C, in_channels, kernel].
        norm_weight: [C].
        norm_bias: [C].
        stride: frames between the starts of two windows.
        eps: added to the (biased) variance.

    Returns:
        [B, (L - kernel) // stride + 1, C].
    """
    convolved = F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    return norm_gelu(convolved, norm_weight, norm_bias, eps)


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over channels and exact GELU.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the (biased) variance.

    Returns:
        [..., C].
    """
    return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias, eps))
