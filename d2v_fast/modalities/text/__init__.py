"""Text: tokens."""

from d2v_fast import registry
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.text.modality import Text

registry.register(Text())

__all__ = ["Text", "TextEmbedding", "TextInputs"]
