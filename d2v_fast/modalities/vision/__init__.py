"""Vision: pictures."""

from d2v_fast import registry
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.modalities.vision.modality import Vision

registry.register(Vision())

__all__ = ["Vision", "VisionEmbedding", "VisionInputs"]
