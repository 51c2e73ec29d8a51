"""From files to batches: sources that know every sample's size, a plan of pure functions, a loader of threads."""

from d2v_fast.data.config import InputsConfig, LoaderConfig, SpeechInputs, TextInputs, VisionInputs
from d2v_fast.data.engine import MaskMaker
from d2v_fast.data.errors import DataError, SampleError, TooManySkipped
from d2v_fast.data.loader import Loader
from d2v_fast.data.source import ArraySource, DataSource, Openable, open_source

__all__ = [
    "ArraySource",
    "DataError",
    "DataSource",
    "InputsConfig",
    "Loader",
    "LoaderConfig",
    "MaskMaker",
    "Openable",
    "SampleError",
    "SpeechInputs",
    "TextInputs",
    "TooManySkipped",
    "VisionInputs",
    "open_source",
]
