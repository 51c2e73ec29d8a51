"""Holding samples out: by a hash of their names or groups, and a look at what is on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from d2v_fast.data.arrays import plain
from d2v_fast.data.holding import hashes
from d2v_fast.data.labelled import Labelled
from d2v_fast.data.source import DataSource
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell

MOST_READ = 20_000
"""Samples that are read at most in the search for equal ones."""


def hold_out(labelled: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """Holds out a share of the samples that have a label: whole groups, where there are groups.

    Which ones is a pure function of the names: neither order nor seed matters. What training lacks and what is on both
    sides is told.

    Args:
        labelled: All samples.
        share: Above 0 and below 1. With groups, as many whole groups as have this share together, or a little more.

    Returns:
        Samples to train on, and samples held out.

    Raises:
        DataError: The share is out of range, or there are less than two samples or groups.
    """
    if not 0 < share < 1:
        raise DataError(f"the share to hold out is {share}; it is above 0 and below 1")
    usable = labelled.usable
    names = [labelled.source.name(i) for i in usable.tolist()]
    groups: Sequence[str] = names if labelled.groups is None else labelled.groups[usable].tolist()
    held = held_out(groups, share)
    train, test = labelled.take(usable[~held]), labelled.take(usable[held])
    compare(train, test)
    return train, test


def held_out(groups: Sequence[str], share: float) -> np.ndarray:
    """Which samples are held out, bool [N].

    Args:
        groups: [N], the group of each.
        share: As in `hold_out`.

    Raises:
        DataError: There are less than two groups.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DataError(f"nothing can be held out: there is only {len(sizes)} group for {len(groups)} samples")
    order = [name for _, name in sorted(zip(hashes(list(sizes)).tolist(), sizes, strict=True))]
    wanted, count, chosen = max(1, round(share * len(groups))), 0, set()
    for name in order[:-1]:
        if count >= wanted:
            break
        chosen.add(name)
        count += sizes[name]
    return np.array([name in chosen for name in groups])


def compare(train: Labelled, test: Labelled) -> None:
    """Tells what is wrong with a pair of sets: classes without training, groups or samples on both sides.

    Args:
        train: What is trained on.
        test: What is not.
    """
    for name, count in test.counts().items():
        if count and not train.counts().get(name):
            tell(f"the class {name!r} has {count} samples in validation and none in training: it cannot be learned")
    if train.groups is not None and test.groups is not None:
        both = sorted(set(train.groups.tolist()) & set(test.groups.tolist()))
        if both:
            tell(f"{len(both)} groups are on both sides of the split ({', '.join(both[:3])}): the result is too good")
    same = same_content(train.source, test.source)
    if same:
        shown = ", ".join(f"{train.source.name(i)} = {test.source.name(j)}" for i, j in same[:3])
        tell(f"{len(same)} samples of validation are in training, too ({shown}): leave them out")


def same_content(first: DataSource, second: DataSource) -> list[tuple[int, int]]:
    """Pairs of samples that are the same: one of each source, once for each sample of the second.

    Sizes are compared first; only samples whose size occurs on both sides are read, `MOST_READ` of them at most.
    """
    ours, theirs = _by_size(first), _by_size(second)
    sizes = sorted(ours.keys() & theirs.keys(), key=lambda size: len(ours[size]) + len(theirs[size]))
    pairs: list[tuple[int, int]] = []
    read = 0
    for size in sizes:
        if max(size) == 0:
            continue
        read += len(ours[size]) + len(theirs[size])
        if read > MOST_READ:
            tell(f"equal samples were searched among {MOST_READ:,} of the same size only")
            break
        known: dict[bytes, int] = {}
        for i in ours[size]:
            if (content := _content(first, i)) is not None:
                known.setdefault(content, i)
        pairs += [
            (known[content], j)
            for j in theirs[size]
            if (content := _content(second, j)) is not None and content in known
        ]
    return sorted(pairs, key=lambda pair: pair[1])


def _by_size(source: DataSource) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for i, size in enumerate(np.asarray(source.sizes).reshape(len(source), -1).tolist()):
        found.setdefault(tuple(size), []).append(i)
    return found


def _content(source: DataSource, index: int) -> bytes | None:
    """A hash of the sample; None if it cannot be read, which is told where it is used."""
    try:
        sample = source.read(index)
    except SampleError:
        return None
    array = np.ascontiguousarray(plain(sample) if isinstance(sample, Tensor) else sample)
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()
