"""What can be said of features without labels: how many directions they use, and how they lie on the sphere.

None of these numbers is an accuracy. They compare runs of one method on one set of samples; a run with a low rank is
worth little, one with a high rank may be. (A random network has a high one.)
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

_PIECE = 2048
"""Rows that are compared with all others at a time."""


def rankme(features: ArrayLike, *, eps: float = 1e-7) -> float:
    """RankMe (Garrido et al., 2022, arXiv 2210.02885): how many directions the features use, from 1 to C.

    The exponential of the entropy of the normalised singular values, of features that are not centred.

    Args:
        features: [N, C]; about 25,000 rows are enough.
        eps: Added to each share, as published.

    Raises:
        ValueError: No rows, or values that are not finite.
    """
    values = torch.linalg.svdvals(_checked(features))
    total = values.sum()
    if total == 0:
        raise ValueError("all features are zero, so they have no rank")
    share = values / total + eps
    return float(torch.exp(-(share * share.log()).sum()))


def alpha_req(features: ArrayLike) -> float:
    """Alpha-ReQ (Agrawal et al., 2022): how fast the eigenvalues of the covariance fall, as a power of their number.

    Near 1 is reported to be best; much more means few directions, much less means noise in all of them.

    Args:
        features: [N, C], C at least 3.

    Raises:
        ValueError: Too few rows or channels, or values that are not finite.
    """
    x = _checked(features)
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    values = values[values > values.max() * 1e-12]
    if len(values) < 3:
        raise ValueError(f"a slope needs three eigenvalues above 0, found {len(values)}")
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64, device="cpu").log()
    steps, heights = steps - steps.mean(), values.log() - values.log().mean()
    return float(-(steps * heights).sum() / steps.square().sum())


def lidar(features: ArrayLike, *, delta: float = 1e-4) -> float:
    """LiDAR (Thilak et al., 2023, arXiv 2312.04000): directions in which samples differ more than their views do.

    The exponential of the entropy of the eigenvalues of W^(-1/2) B W^(-1/2), where B is the covariance of the samples'
    means and W the mean covariance of a sample's views, plus delta on the diagonal.

    Args:
        features: [N, Q, C], Q views (masked ones, say) of each of N samples.
        delta: Added to the diagonal of W, as published.

    Raises:
        ValueError: Fewer than two samples or views, or values that are not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 2:
        raise ValueError(f"features [N, Q, C] with two samples and two views at least are needed, got {values.shape}")
    x = _checked(values.reshape(-1, values.shape[2])).view(values.shape)
    means = x.mean(1)
    centred = means - means.mean(0)
    between = centred.T @ centred / (len(means) - 1)
    off = (x - means[:, None]).flatten(0, 1)
    within = off.T @ off / (len(means) * (x.shape[1] - 1)) + delta * torch.eye(x.shape[2], dtype=x.dtype, device="cpu")
    scales, axes = torch.linalg.eigh(within)
    root = axes / scales.sqrt() @ axes.T
    eigenvalues = torch.linalg.eigvalsh(root @ between @ root).clamp_min(0)
    if eigenvalues.sum() == 0:
        raise ValueError("all samples have the same mean, so nothing tells them apart")
    share = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(share).sum().exp())


def alignment(features: ArrayLike, others: ArrayLike) -> float:
    """Mean squared distance of the features of a pair on the unit sphere: 0 (equal) to 4 (Wang and Isola, 2020).

    Args:
        features: [N, C].
        others: [N, C], of other views of the same samples.
    """
    x, y = _unit(features), _unit(others)
    if x.shape != y.shape:
        raise ValueError(f"pairs need two arrays of one shape, got {list(x.shape)} and {list(y.shape)}")
    return float((x - y).square().sum(1).mean())


def uniformity(features: ArrayLike, *, t: float = 2.0) -> float:
    """Ln of the mean of exp(-t d^2) over all pairs, on the unit sphere (Wang and Isola, 2020): low where spread evenly.

    Args:
        features: [N, C], N at least 2; distances are taken in pieces, so memory grows with N only.
        t: Inverse width of the kernel.
    """
    x = _unit(features)
    if len(x) < 2:
        raise ValueError("uniformity is about pairs: two rows are needed")
    total = 0.0
    for start in range(0, len(x), _PIECE):
        distance = 2 - 2 * x[start : start + _PIECE] @ x.T
        total += float(torch.exp(-t * distance).sum())
    pairs = len(x) * (len(x) - 1)
    return float(np.log((total - len(x)) / pairs))  # a row's distance to itself is 0


def _unit(features: ArrayLike) -> Tensor:
    return F.normalize(_checked(features), dim=1)


def _checked(features: ArrayLike) -> Tensor:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"features [N, C] are needed, got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("some features are not finite")
    return torch.from_numpy(np.ascontiguousarray(values))
