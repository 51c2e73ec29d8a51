"""Matrices of numbers over time: which axis is time, whether all is there, and their scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.errors import SampleError

Normalize = Literal["channel", "all", "none"]

FLAT = 1e-6
"""A deviation below this share of the largest value is rounding: the channel is flat, and stays zero."""

LOUDEST = 1e15
"""Squares of larger numbers, summed over a sample, are no float32."""


def is_transposed(shape: Any, channels: int) -> Any:
    """Whether a matrix is [channels, time], not [time, channels].

    The axis that has as many entries as there are channels is theirs, the last one if both have; if none has, some are
    missing or too many, and the longer axis is time.

    Args:
        shape: (rows, columns), integers or arrays of integers.
        channels: How many there should be.
    """
    rows, columns = shape
    return (columns != channels) & ((rows == channels) | (rows < columns))


def lengths(sizes: np.ndarray, channels: int) -> np.ndarray:
    """int64 [N], the entries over time of matrices of these shapes, int64 [N, 2]."""
    rows, columns = sizes.T
    return np.where(is_transposed((rows, columns), channels), columns, rows)


def matrix(sample: Any, channels: int, name: str, *, what: str = "channels") -> Tensor:
    """A sample as float32 [time, channels].

    Args:
        sample: Array or tensor of numbers, [time, channels], [channels, time], or [time] of a single channel.
        channels: How many there have to be.
        name: For messages.
        what: The channels are called.

    Raises:
        SampleError: It is no such matrix, or has another number of channels.
    """
    found = as_tensor(sample)
    if found.ndim == 1:
        found = found.unsqueeze(1)
    if found.ndim != 2 or found.dtype == torch.bool or found.is_complex() or 0 in found.shape:
        raise SampleError(name, f"is {found.dtype} {list(found.shape)}; it should be numbers, [time, {what}]")
    if is_transposed(tuple(found.shape), channels):
        found = found.T
    if found.shape[1] != channels:
        raise SampleError(name, f"has {found.shape[1]} {what}, but the model takes {channels}")
    return found.float().contiguous()  # so that sums over time have the same bits however it was stored


def check_whole(
    found: Tensor, rate: float | None, name: str, *, what: str = "channel", begin: int | None = None
) -> None:
    """Refuses a matrix float32 [time, channels] with anything missing.

    Args:
        found: The matrix.
        rate: Entries in a second, if that is known.
        name: For messages.
        what: A channel is called.
        begin: Of a stretch of a recording: where it begins.

    Raises:
        SampleError: A channel has no number at all, or there is a gap of numbers that are NaN, infinite or too large.
    """
    bad = ~torch.isfinite(found)
    if not bool(bad.any()):
        return
    absent = bad.all(dim=0).nonzero().flatten().tolist()
    if absent and begin is None:
        which = ", ".join(map(str, absent))
        raise SampleError(name, f"lacks {what} {which} (counted from 0): it holds no number at all")
    channel = int(bad.any(dim=0).nonzero()[0])
    places = bad[:, channel].nonzero().flatten()
    first = int(places[0])
    following = (~bad[first:, channel]).nonzero()
    length = int(following[0]) if len(following) else len(found) - first
    first += begin or 0
    when = "" if rate is None else f", at {first / rate:.2f} s"
    rest = "" if len(places) == length and int(bad.any(dim=0).sum()) == 1 else ", and more"
    raise SampleError(
        name,
        f"has a gap in {what} {channel} (counted from 0): {length} values that are no finite float32 from {first} on"
        f"{when}{rest}: fill it, or cut the recording there",
    )


def scaled(found: Tensor, normalize: Normalize, name: str) -> Tensor:
    """Zero mean and unit (biased) variance over the time of each channel, over all, or as it is.

    A channel that is flat stays zero. The scale of the numbers does not matter: volts or microvolts.

    Args:
        found: float32 [time, channels], finite.
        normalize: Over what.
        name: For messages.

    Raises:
        SampleError: Without normalisation: numbers whose squares overflow.
    """
    peak = found.abs().amax(dim=0 if normalize == "channel" else (0, 1), keepdim=True)
    if normalize == "none":
        if float(peak) > LOUDEST:
            raise SampleError(name, f"has values of up to {float(peak):.3g}, whose squares overflow: scale them")
        return found
    over = (0,) if normalize == "channel" else (0, 1)
    unit = found / peak.clamp_min(torch.finfo(torch.float32).tiny)
    unit = unit - unit.mean(dim=over, keepdim=True)
    deviation = unit.square().mean(dim=over, keepdim=True).sqrt()
    return torch.where(deviation < FLAT, 0.0, unit / deviation.clamp_min(FLAT))


def scale_of(
    mean: Tensor, deviation: Tensor, peak: Tensor, normalize: Normalize, name: str
) -> Callable[[Tensor], Tensor]:
    """What `scaled` does to a whole, for stretches of it.

    Args:
        mean: float64 [channels] or [], of the whole.
        deviation: Likewise, biased.
        peak: Likewise, the largest value.
        normalize: See `scaled`; the moments are of what it says.
        name: For messages.

    Raises:
        SampleError: See `scaled`.
    """
    if normalize == "none":
        if float(peak.max()) > LOUDEST:
            raise SampleError(name, f"has values of up to {float(peak.max()):.3g}, whose squares overflow: scale them")
        return lambda found: found
    largest = peak.clamp_min(torch.finfo(torch.float32).tiny)
    share = deviation / largest
    flat, factor = share < FLAT, 1 / (share.clamp_min(FLAT) * largest)
    return lambda found: torch.where(flat, 0.0, (found.double() - mean) * factor).float()
