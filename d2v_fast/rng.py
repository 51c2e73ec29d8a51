"""Counter-based random numbers: pure functions of a seed, a name, an epoch and ids, with the same bits everywhere.

The masks, the data plan and the noise of training all draw from here. The generator is described and implemented in
one place, `csrc/cpu/rng.h`. A `domain` is a name for what the numbers are for ("crop", "shuffle", ...): users of the
same seed with different domains get independent numbers.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import NDArray

from d2v_fast import _C

_WORD = 2**64 - 1


def uniform(seed: int, domain: str, epoch: int, ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Draws `count` uniform numbers for each id.

    A row depends on its id alone, not on the other ids, and asking for more numbers does not change the first ones.

    Args:
        seed: Of the run, 0 or more and below 2**63.
        domain: What the numbers are for.
        epoch: 0 or more.
        ids: Sample ids, integers [N].
        count: Numbers for each id.

    Returns:
        float64 [N, count] in [0, 1), multiples of 2**-53.

    Raises:
        ValueError: An argument is out of range, or `ids` is not a list of integers.
    """
    key = _key(seed, domain, epoch)
    ids = ids_array(ids, "ids")
    out = np.empty((len(ids), natural(count, "count")))
    _C.rng_uniform(key, ids, out.shape[1], out.ctypes.data)
    return out


def permutation(seed: int, domain: str, epoch: int, n: int) -> NDArray[np.int64]:
    """Draws a uniform random order of 0 ... n - 1 (Fisher-Yates), int64 [n].

    Raises:
        ValueError: An argument is out of range.
    """
    key = _key(seed, domain, epoch)
    out = np.empty(natural(n, "n"), dtype=np.int64)
    _C.rng_permutation(key, len(out), out.ctypes.data)
    return out


def derive(seed: int, *parts: int | str) -> int:
    """Makes a seed of 63 bits for another generator (torch.manual_seed), one for each list of parts.

    Raises:
        ValueError: The seed is negative or too large.
    """
    words = [_C.rng_text(part) if isinstance(part, str) else operator.index(part) & _WORD for part in parts]
    key: int = _C.rng_key([natural(seed, "seed"), *words])
    return key >> 1


def natural(value: int, name: str) -> int:
    """The value as an int, if it is an integer in [0, 2**63); `name` is the argument's in the error."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, not {value!r}") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"{name} must be 0 or more and below 2**63, not {number}")
    return number


def ids_array(ids: object, name: str) -> NDArray[np.int64]:
    """Sample ids as a contiguous int64 array [N]; numpy arrays, CPU tensors and lists of integers are taken."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a list of integers, not {array.dtype} of shape {list(array.shape)}; pass int64 [N]"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _key(seed: int, domain: str, epoch: int) -> int:
    return int(_C.rng_key([natural(seed, "seed"), _C.rng_text(domain), natural(epoch, "epoch")]))
