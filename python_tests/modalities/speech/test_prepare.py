"""A whole clip as the encoder wants it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2v_fast import presets, registry
from d2v_fast.errors import SampleError

CONFIG = presets.speech_tiny()


def prepare(clip):
    return registry.get("speech").prepare(clip, CONFIG.inputs, CONFIG.model.embedding, name="a.wav")


def test_whole_clips_are_normalised_then_cut_where_no_frame_looks():
    clip = np.random.default_rng(0).normal(size=4321).astype(np.float32) + 3
    found = prepare(clip)
    expected = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-5)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)
    assert 0 < len(clip) - len(found) < 320
    torch.testing.assert_close(prepare(torch.from_numpy(clip)), found)


def test_int16_is_the_same_sound():
    clip = (np.sin(np.arange(4000)) * 20000).astype(np.int16)
    torch.testing.assert_close(prepare(clip), prepare(clip / np.float32(32768)))


def test_a_clip_too_short_for_a_frame_says_how_long_it_is():
    least = CONFIG.model.embedding.receptive_field
    assert len(prepare(np.ones(least, np.float32))) == least
    with pytest.raises(SampleError, match=rf"a\.wav: has 100 samples; the first frame of this model needs {least}"):
        prepare(np.ones(100, np.float32))


@pytest.mark.parametrize("clip", [np.ones((4000, 2), np.float32), np.ones(4000, np.int32), np.full(4000, np.nan)])
def test_what_is_no_clip_is_named(clip):
    with pytest.raises(SampleError, match=r"a\.wav: "):
        prepare(clip)
