"""The modalities: everything that belongs to one kind of input stands in its own room.

A modality of one's own derives from `Modality` and is made known by `register`; examples/own_modality.py brings one.
What it is made of can be imported from here.
"""

from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.protocol import Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import MaskMaker
from d2v_fast.errors import DataError, SampleError
from d2v_fast.masking import MaskConfig, Masks
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.opening import check_engine, index_anew, modality_of, open_data, open_loader
from d2v_fast.modalities.whole import WholeSampling
from d2v_fast.models.config import EmbeddingConfig, ModelConfig
from d2v_fast.models.encoder import Encoder
from d2v_fast.registry import get, names, register

__all__ = [
    "DataError",
    "DataSource",
    "EmbeddingConfig",
    "Encoder",
    "InputsConfig",
    "LoaderConfig",
    "MaskConfig",
    "MaskMaker",
    "Masks",
    "Modality",
    "ModelConfig",
    "SampleError",
    "Sampling",
    "WholeSampling",
    "check_engine",
    "get",
    "index_anew",
    "modality_of",
    "names",
    "open_data",
    "open_loader",
    "register",
]
