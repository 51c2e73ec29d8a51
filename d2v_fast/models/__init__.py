"""Encoders and the student-teacher pair."""

from d2v_fast.models.data2vec import Data2Vec, Data2VecOutput, Student
from d2v_fast.models.encoder import Encoder, Layers
from d2v_fast.models.registry import build_encoder, token_count
from d2v_fast.models.speech import SpeechEncoder
from d2v_fast.models.text import TextEncoder
from d2v_fast.models.vision import VisionEncoder

__all__ = [
    "Data2Vec",
    "Data2VecOutput",
    "Encoder",
    "Layers",
    "SpeechEncoder",
    "Student",
    "TextEncoder",
    "VisionEncoder",
    "build_encoder",
    "token_count",
]
