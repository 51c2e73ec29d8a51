"""Text: tokens."""

from d2v_fast import registry
from d2v_fast.modalities.text.modality import Text

registry.register(Text())
