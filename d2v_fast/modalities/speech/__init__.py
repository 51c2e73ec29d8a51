"""Speech: waveforms."""

from d2v_fast import registry
from d2v_fast.modalities.speech.modality import Speech

registry.register(Speech())
