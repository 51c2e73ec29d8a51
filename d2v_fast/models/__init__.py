"""Encoders and the student-teacher pair, and their configuration."""

from d2v_fast.models.config import (
    DecoderConfig,
    EmbeddingConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
)
from d2v_fast.models.data2vec import Data2Vec, Data2VecOutput
from d2v_fast.models.encoder import Encoder, Layers
from d2v_fast.models.layer_drop import skipped_blocks
from d2v_fast.models.losses import Loss
from d2v_fast.models.protocol import build_encoder, token_count
from d2v_fast.models.student import Student

__all__ = [
    "Data2Vec",
    "Data2VecOutput",
    "DecoderConfig",
    "EmbeddingConfig",
    "Encoder",
    "HeadConfig",
    "Layers",
    "Loss",
    "LossConfig",
    "ModelConfig",
    "Student",
    "TargetConfig",
    "TeacherConfig",
    "TransformerConfig",
    "build_encoder",
    "skipped_blocks",
    "token_count",
]
