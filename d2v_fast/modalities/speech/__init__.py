"""Speech: waveforms."""

from d2v_fast import registry
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.speech.modality import Speech

registry.register(Speech())

__all__ = ["Speech", "SpeechEmbedding", "SpeechInputs"]
