"""Collapse, watched where it happens: local features, predictions and targets (data2vec.md 1.7; paper, section 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from d2v_fast.config import MonitorConfig
from d2v_fast.errors import RunStopped

RANK_ROWS = 2048
"""Rows that the effective rank looks at, at most."""

_FALL = 0.2
"""A warning comes when the targets' effective rank is below this share of its highest. It stayed above half in healthy
runs of the tiny presets, and fell to a twelfth in the collapsed one on speech (docs/healthy.md), far above 2."""


def mean_std(features: Tensor) -> Tensor:
    """Mean over the channels of sqrt(unbiased variance over the rows + 1e-6), float32 [].

    Args:
        features: [N, C], any float dtype. With fewer than two rows the result is nan.
    """
    if len(features) < 2:
        return torch.full((), torch.nan, device=features.device)
    return features.detach().float().var(dim=0, unbiased=True).add(1e-6).sqrt().mean()


def effective_rank(features: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007): float64 [], from 1 to C.

    The rows are not centred: rows that are all the same, which is what a collapse gives, have rank 1.

    Args:
        features: [N, C]. Of more than `RANK_ROWS` rows, that many at even distances are taken. nan if there is
            no row, only zeros, or a value that is not finite.
    """
    rows = features.detach()
    if len(rows) > RANK_ROWS:
        chosen = torch.arange(RANK_ROWS, device=rows.device) * len(rows) // RANK_ROWS
        rows = rows.index_select(0, chosen)
    rows = rows.double()
    # A nan in the product would make the eigenvalue routine raise: put zeros there and give nan back.
    finite = torch.isfinite(rows).all() & (rows != 0).any()
    rows = torch.where(finite, rows, torch.zeros_like(rows))
    product = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    if product.numel() == 0:
        return torch.full((), float("nan"), dtype=torch.float64, device=rows.device)
    # The eigenvalues of the smaller Gram matrix are the squares; float64 leaves them right to 1e-8 of the largest.
    values = torch.linalg.eigvalsh(product).clamp_min(0).sqrt()
    share = values / values.sum()
    return torch.where(finite, torch.special.entr(share).sum().exp(), torch.nan)


def explained(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of the targets' variance that the predictions explain: float64 [], 1 at best.

    One minus the squared error over the squared distance of the targets from their mean. 0 is what the mean of the
    targets would reach, so a run that stays there has learned nothing, whatever its loss does; less is worse than that.

    Args:
        prediction: [N, C].
        target: [N, C]. With fewer than two rows, or targets that are all the same, the result is nan.
    """
    if len(target) < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=target.device)
    wanted = target.detach().double()
    error = (prediction.detach().double() - wanted).square().sum()
    spread = (wanted - wanted.mean(0)).square().sum()
    return torch.where(spread > 0, 1 - error / spread, torch.nan)


class CollapseWatch:
    """Turns the numbers of a log line into warnings, once for each time that a limit is crossed.

    The highest rank of the targets is that of the lines that it was given: after an interruption, of those since.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self._warned: set[str] = set()
        self._highest = 0.0

    def judge(self, metrics: Mapping[str, float | None], step: int) -> list[str]:
        """New warnings for the metrics of `step`; a number that a task does not measure is not judged.

        Raises:
            RunStopped: The targets' standard deviation is below `abort_std`.
        """
        limits, rank = self.config, metrics.get("target_rank")
        self._highest = max(self._highest, rank or 0.0)
        if step < limits.warmup_steps:
            return []
        checks = [
            ("local_std", "local features (the output of the embedding)", limits.min_std / 10, _LOCAL),
            ("pred_std", "predictions", limits.min_std / 10, _TARGETS),
            ("target_std", "targets", limits.min_std, _TARGETS),
            ("pred_rank", "predictions", limits.min_rank, _TARGETS),
            ("target_rank", "targets", limits.min_rank, _TARGETS),
        ]
        warnings = []
        for name, layer, limit, remedy in checks:
            value = metrics.get(name)
            low = value is not None and value < limit
            if low and name not in self._warned:
                kind = "standard deviation" if name.endswith("std") else "effective rank"
                warnings.append(
                    f"step {step}: the {layer} are collapsing: {kind} {value:.4g} is below {limit:.4g}. {remedy}"
                )
            (self._warned.add if low else self._warned.discard)(name)
        low = rank is not None and limits.min_rank <= rank < _FALL * self._highest
        if low and "fall" not in self._warned:
            warnings.append(
                f"step {step}: the targets are losing their directions: effective rank {rank:.4g}, after "
                f"{self._highest:.4g}. {_TARGETS}"
            )
        (self._warned.add if low else self._warned.discard)("fall")
        deviation = metrics.get("target_std")
        if deviation is not None and deviation < limits.abort_std:
            raise RunStopped(
                f"step {step}: the targets have collapsed: standard deviation {deviation:.4g} is below "
                f"monitor.abort_std ({limits.abort_std:.4g}). {_TARGETS}"
            )
        return warnings


_TARGETS = (
    "Lower optim.lr or lengthen optim.warmup, or raise ema.start; speech: normalise the targets over time "
    "(model.target.layer_norm instance)"
)
_LOCAL = (
    "Lower optim.lr or lengthen optim.warmup; check that the inputs differ from each other (silence, blank pictures)"
)
