"""A decoder layer on a GPU: the library's convolution, then norm, GELU and residual in one pass of Triton's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.kernels import launch
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching, routes
from d2v_fast.ops.linear import by_onednn

_EPS = 1e-5
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_COVERAGE = routes.Coverage(
    cuda="",
    triton="norm, GELU and residual of 32 or 16 bits and up to 8192 channels; the convolution is cuDNN's",
    torch="float64, more channels",
    why="the convolution is a library's; behind it every byte moves once each way and one launch does it",
)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The convolution that keeps the size, [N, ..., C] to contiguous [N, ..., D]."""
    if _as_picture(x, weight, groups):
        x, weight = x.unsqueeze(1), weight.unsqueeze(2)
        kernel = weight.shape[3]
        z = F.conv2d(x.movedim(-1, 1), weight, bias, padding=(0, kernel // 2)).movedim(1, -1).squeeze(1)
        return z[:, : x.shape[2]].contiguous()
    function = F.conv1d if x.dim() == 3 else F.conv2d
    padding = weight.shape[2] // 2
    z = function(x.movedim(-1, 1), weight, bias, padding=padding, groups=groups).movedim(1, -1)
    z = z[:, : x.shape[1]] if x.dim() == 3 else z[:, : x.shape[1], : x.shape[2]]  # an even kernel makes one too many
    return z.contiguous()


def convolve_backward(of_z: Tensor, x: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and `weight`."""
    dims, kernel = x.dim() - 2, weight.shape[2]
    if kernel % 2 == 0:  # the place that was left out has no gradient
        of_z = F.pad(of_z, (0, 0, *[0, 1] * dims))
    picture = _as_picture(x, weight, groups)
    if picture:
        of_picture = torch.ops.aten.convolution_backward(
            of_z.unsqueeze(1).movedim(-1, 1), x.unsqueeze(1).movedim(-1, 1), weight.unsqueeze(2), None, [1, 1],
            [0, kernel // 2], [1, 1], False, [0, 0], groups, [True, False, False],
        )[0]  # fmt: skip
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        of_z.movedim(-1, 1),
        x.movedim(-1, 1),
        weight,
        None,
        [1] * dims,
        [kernel // 2] * dims,
        [1] * dims,
        False,
        [0] * dims,
        groups,
        [not picture, True, False],
    )
    if picture:
        of_x = of_picture.squeeze(2)
    return of_x.movedim(1, -1).contiguous(), of_weight.contiguous()


def _as_picture(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether oneDNN is given frames as a picture one place high with channels last: it then transposes nothing.

    Its gradient of such weights is slow, and is asked for with channels first.
    """
    return x.is_cpu and x.dim() == 3 and groups == 1 and by_onednn(x, x.shape[0] * x.shape[1] * weight.numel())


def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> tuple[Tensor, Tensor]:
    """The layer, and what the convolution gave; the arguments are checked.

    Args:
        x: [N, T, C] or [N, H, W, C].
        weight: [D, C / groups, kernel] or [D, C / groups, kernel, kernel].
        bias: [D].
        groups: of the convolution.
        residual: whether x is added where C = D.

    Raises:
        RuntimeError: a launch failed.
    """
    with launching.on(x.device):
        z = convolve(x, weight, bias, groups)
        added = x.contiguous() if residual and x.shape == z.shape else None
        if not _by_triton(z):
            y = F.gelu(F.layer_norm(z, z.shape[-1:], eps=_EPS))
            return y if added is None else y + added, z
        y = torch.empty_like(z)
        channels = z.shape[-1]
        rows = z.numel() // max(channels, 1)
        if z.numel():
            from d2v_fast.kernels.decoder_layer import finish

            tile = launch.row_tile(channels)
            launching.start(finish, (rows,), z, added, y, channels, _EPS, tile.channels, warps=tile.warps)
    return y, z


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, z: Tensor, groups: int, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias.

    Args:
        grad: of the result.
        x: as in `forward`, like the others.
        weight: the same.
        z: what the convolution gave.
        groups: the same.
        residual: the same.

    Raises:
        RuntimeError: a launch failed.
    """
    with launching.on(x.device):
        channels = z.shape[-1]
        rows = z.numel() // max(channels, 1)
        if _by_triton(z) and z.numel():
            from d2v_fast.kernels.decoder_layer import unfinish

            tile, of_z = launch.row_tile(channels), torch.empty_like(z)
            launching.start(
                unfinish, (rows,), z, grad.contiguous(), of_z, channels, _EPS, tile.channels, warps=tile.warps
            )
        else:
            of_z = _plainly(grad, z)
        of_x, of_weight = convolve_backward(of_z, x, weight, groups)
        if residual and grad.shape == of_x.shape:
            of_x.add_(grad)
        of_bias = of_z.flatten(0, -2).sum(0, dtype=None if z.dtype == torch.float64 else torch.float32)
    return of_x, of_weight, of_bias.to(weight.dtype)


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)


def _by_triton(z: Tensor) -> bool:
    fits = z.dtype in _DTYPES and z.shape[-1] <= launch.LARGEST_ROW
    return fits and routes.obstacles(z.device).triton is None


def _plainly(grad: Tensor, z: Tensor) -> Tensor:
    """The gradient of z."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        y = F.gelu(F.layer_norm(leaf, leaf.shape[-1:], eps=_EPS))
        (of_z,) = torch.autograd.grad(y, leaf, grad)
    return of_z
