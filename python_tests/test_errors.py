"""What an exception says about the sample that was being read."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from d2v_fast.errors import OwnFile, SampleError, failed, reading


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "reading it failed: MemoryError"),
        (AssertionError("a\nb"), "reading it failed: AssertionError: a"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (SampleError("other", "is bad"), "is bad"),
    ],
)
def test_reasons(error, reason):
    assert failed("x", error).reason == reason


def test_what_is_kept_of_a_failure_keeps_no_memory():
    class Large(np.ndarray):
        pass

    def fails():
        large = np.zeros(1000).view(Large)
        alive.append(weakref.ref(large))
        raise AssertionError(large.shape)

    alive, kept = [], []
    for wrap in (False, True):
        try:
            if wrap:
                with reading("x"):
                    fails()
            fails()
        except Exception as error:
            kept.append(failed("x", error))
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
    assert [str(error) for error in kept] == ["x: reading it failed: AssertionError: (1000,)"] * 2
    assert type(failed("x", OwnFile("x", "was written here"))) is OwnFile


def test_an_interrupt_is_no_failure_of_a_sample():
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt
