"""Spectrograms: log-mel energies of sound, or matrices of frames and bins."""

from d2v_fast import registry
from d2v_fast.modalities.spectrogram.modality import Spectrograms

registry.register(Spectrograms())
