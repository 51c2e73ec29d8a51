"""Vision: pictures."""

from d2v_fast import registry
from d2v_fast.modalities.vision.modality import Vision

registry.register(Vision())
