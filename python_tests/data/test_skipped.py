from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.data import ArraySource, DataError, SampleError, TooManySkipped
from d2v_fast.data.skipped import Known, Skipped


class Numbered(ArraySource):
    """Samples of which some are known to be broken."""

    def __init__(self, count, broken=()):
        super().__init__("vision", np.zeros((count, 2, 2), np.uint8), names=[f"{i}.png" for i in range(count)])
        self.sizes[list(broken)] = 0

    def read(self, index):
        if (self.sizes[index] == 0).any():
            raise SampleError(self.name(index), "is empty")
        return super().read(index)


def failures(*samples):
    return {i: SampleError(f"{i}.png", "is empty") for i in samples}


class Endless(Numbered):
    """A hundred thousand samples that nobody reads."""

    def __init__(self):
        super().__init__(1)
        self.sizes = np.full((100_000, 2), 2)


def skipped(count=None, most=0.01):
    source = Endless() if count is None else Numbered(count)
    return Skipped(source, Known.of(source.sizes, np.arange(len(source.sizes))), most)


def stops_at(counter, share, count=30_000):
    """The number of samples handed out when a run stops in which every 1/share-th is broken; None if it does not."""
    for i in range(count):
        try:
            counter.add(failures(i) if (i + 1) % round(1 / share) == 0 else {}, i + 1)
        except TooManySkipped:
            return i + 1
    return None


@pytest.mark.parametrize(("share", "stop"), [(0.005, None), (0.0095, None), (0.02, 5050), (0.5, 202), (1.0, 101)])
def test_a_run_stops_beyond_one_percent(share, stop):
    """A hundred and one of the first ten thousand are too many, however soon they come."""
    assert stops_at(skipped(), share) == stop


@pytest.mark.parametrize(
    ("most", "share", "stop"),
    [(0.0, 1 / 50, 50), (0.001, 1 / 50, 550), (0.1, 1 / 5, 5005), (0.1, 1 / 11, None), (1, 1, None)],
)
def test_the_share_is_a_setting(most, share, stop):
    assert stops_at(skipped(most=most), share) == stop


def test_a_few_broken_samples_stop_no_small_run():
    counter = skipped(20)
    for epoch in range(100):
        counter.add(failures(3, 7, 11), 20 * (epoch + 1))
    with pytest.raises(TooManySkipped, match=r"4 of 20 samples cannot be read, more than loader.max_skipped 0.01"):
        counter.add(failures(12), 2001)


def test_a_sample_counts_once_and_is_named_once(capsys):
    counter = skipped(2000)
    for i in range(20):
        counter.add(failures(i), 100 * (i + 1))
    for epoch in range(1, 50):
        counter.add(failures(*range(20)), 2000 * epoch)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"d2v-fast: skipped {i}.png: is empty" for i in range(20)]
    with pytest.raises(TooManySkipped, match="21 of 2000"):
        counter.add(failures(20), 10**6)


def test_the_error_names_the_first_and_the_remedy():
    counter = skipped(50)
    with pytest.raises(TooManySkipped) as error:
        counter.add(failures(9, 4, 30, 2, 7), 16)
    assert str(error.value) == (
        "5 of 50 samples cannot be read, more than loader.max_skipped 0.01 allows: 9.png: is empty; 4.png: is empty; "
        "30.png: is empty; and 2 more. If files are gone, put them back: the same command then continues the run. To "
        "go on without them, add --loader.max-skipped 0.2"
    )


def test_known_broken_samples_stop_before_anything_is_read():
    source = Numbered(100, broken=[5, 6, 7, 8])
    with pytest.raises(TooManySkipped, match=r"4 of 100 .*: 5.png: is empty; 6.png: .*; 7.png: .*; and 1 more"):
        Skipped(source, Known.of(source.sizes, np.arange(100)), 0.01)
    Skipped(source, Known.of(source.sizes, np.arange(100)), 0.04)
    Skipped(source, Known.of(source.sizes, np.arange(6, 100)), 0.01)
    with pytest.raises(TooManySkipped, match=r"1 of 6 .* 0 allows: 5.png: is empty\. If"):
        Skipped(source, Known.of(source.sizes, np.arange(6)), 0.0)


@pytest.mark.parametrize("most", [-0.1, 1.5])
def test_settings_that_make_no_sense(most):
    with pytest.raises(DataError, match=f"loader.max_skipped is {most}; it is a share"):
        skipped(5, most)
