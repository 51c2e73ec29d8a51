"""A translation table between two sets of weight names, written once and read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One of our tensors and what it is called elsewhere."""

    ours: str
    """Name in our state_dict."""

    theirs: tuple[str, ...]
    """Name there; several are cut from ours along the first axis in equal parts, in this order (fused projections)."""

    token: bool = False
    """[C] here and [1, 1, C] there."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """Here and there, where they differ; -1 once in each."""

    def with_prefix(self, ours: str) -> Entry:
        """The same entry, our name prefixed."""
        return replace(self, ours=ours + self.ours)

    def to_ours(self, tensor: Tensor) -> Tensor:
        """Their shape to ours."""
        here = (-1,) if self.token else self.shapes[0] if self.shapes else tuple(tensor.shape)
        return tensor.reshape(here)

    def from_ours(self, tensor: Tensor) -> Tensor:
        """Our shape to theirs."""
        there = (1, 1, -1) if self.token else self.shapes[1] if self.shapes else tuple(tensor.shape)
        return tensor.reshape(there)


def both(ours: str, *theirs: str) -> Iterator[Entry]:
    """The weight and the bias of a layer."""
    for kind in ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs))


def to_ours(
    entries: Iterable[Entry], state: Mapping[str, Tensor], *, source: str, drop: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Translate their names to ours.

    Args:
        entries: The table.
        state: Their tensors.
        source: What they are, for errors.
        drop: True for names that are left out on purpose.

    Returns:
        Our names -> tensors; unfused ones share memory with `state`.

    Raises:
        ValueError: If names are missing, or neither in the table nor dropped.
    """
    entries = list(entries)
    known = {name for entry in entries for name in entry.theirs}
    check_names(known, [name for name in state if name in known or not drop(name)], source)
    result = {}
    for entry in entries:
        parts = [state[name] for name in entry.theirs]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        result[entry.ours] = entry.to_ours(tensor)
    return result


def from_ours(
    entries: Iterable[Entry], state: Mapping[str, Tensor], *, source: str = "our state_dict"
) -> dict[str, Tensor]:
    """Translate our names to theirs; the inverse of `to_ours`, exactly.

    Args:
        entries: The table.
        state: Our tensors.
        source: What they are, for errors.

    Returns:
        Their names -> tensors; unfused ones share memory with `state`.

    Raises:
        ValueError: If names are missing or not in the table.
    """
    entries = list(entries)
    check_names({entry.ours for entry in entries}, state, source)
    result = {}
    for entry in entries:
        tensor = entry.from_ours(state[entry.ours])
        if len(entry.theirs) == 1:
            result[entry.theirs[0]] = tensor
        else:  # cloned, because safetensors refuses to save views of one tensor
            parts = tensor.chunk(len(entry.theirs))
            result.update((name, part.clone()) for name, part in zip(entry.theirs, parts, strict=True))
    return result


def check_names(expected: Iterable[str], actual: Iterable[str], source: str) -> None:
    """Raise a ValueError that names what is missing and what was not expected."""
    expected, actual = set(expected), set(actual)
    missing, unexpected = sorted(expected - actual), sorted(actual - expected)
    if missing or unexpected:
        parts = [
            f"{label}: {_some(names)}" for label, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        raise ValueError(
            f"{source} does not fit the model configuration; {'; '.join(parts)}. "
            "Check its modality, depth, convolutions, head and layer scale"
        )


def _some(names: Sequence[str], most: int = 8) -> str:
    """The names, or the first of them and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
