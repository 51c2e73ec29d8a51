"""How much sound there is, and how long the clips are."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.modalities import signals
from d2v_fast.modalities.drawing import Histogram
from d2v_fast.modalities.speech.clips import Clips
from d2v_fast.modalities.speech.config import SpeechInputs


def describe(source: DataSource, inputs: SpeechInputs) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about the clips whose length is known; there is at least one."""
    sizes = np.asarray(source.sizes)
    rates = source.rates if isinstance(source, Clips) else None
    return signals.describe(sizes[sizes > 0] / inputs.sample_rate, inputs, rates, hours_of="sound")
