"""Samples that are used whole."""

import numpy as np
import pytest
import torch

from d2v_fast.data import SampleError
from d2v_fast.modalities import WholeSampling
from d2v_fast.modalities.text.sampling import TokenSampling

SIZES = np.array([3, 2, 4])


def rows(sampling, samples, sizes=SIZES):
    details = sampling.draw(sizes, np.arange(len(sizes)), sampling.longest(4, None), 0, 0)
    shape, dtype = sampling.rows(details, len(sizes))
    out = torch.full(shape, 9, dtype=dtype)
    for row, sample in enumerate(samples):
        sampling.write(out[row], sample, details, row, sizes[row], f"sample {row}")
    return out, details.lengths


def test_rows_are_filled_up_to_the_longest():
    samples = [np.full((n, 2), n, np.float32) for n in SIZES]
    sampling = WholeSampling(lambda sample, name: torch.as_tensor(sample) * 2, entry=(2,), fill=-1)
    out, lengths = rows(sampling, samples)
    assert out.shape == (3, 4, 2)
    assert lengths.tolist() == [3, 2, 4]
    for row, n in enumerate(SIZES):
        assert (out[row, :n] == 2 * n).all()
        assert (out[row, n:] == -1).all()


def test_full_rows_have_no_lengths():
    _, lengths = rows(WholeSampling(lambda sample, name: sample), [torch.zeros(3)] * 2, np.array([3, 3]))
    assert lengths is None


def test_an_unreadable_sample_counts_as_one_of_middling_length():
    assert WholeSampling(lambda sample, name: sample).known(np.array([3, 0, 5, 4])).tolist() == [3, 4, 5, 4]


def test_a_sample_of_another_length_than_the_source_said():
    with pytest.raises(SampleError, match=r"sample 0: is \[5\], but the source said \[3\]"):
        rows(WholeSampling(lambda sample, name: sample), [torch.zeros(5)])


def test_tokens():
    out, _ = rows(TokenSampling(pad_id=1), [np.arange(5, 5 + n, dtype=np.uint16) for n in SIZES])
    assert out.dtype == torch.int64
    assert out.tolist() == [[5, 6, 7, 1], [5, 6, 1, 1], [5, 6, 7, 8]]
    with pytest.raises(SampleError, match=r"is \[1\], but the source said \[3\]"):
        rows(TokenSampling(pad_id=1), [np.array([5])])
