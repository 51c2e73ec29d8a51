"""From files to batches: sources that know every sample's size, a plan of pure functions, a loader of threads."""

from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.loader import Loader
from d2v_fast.data.source import ArraySource, DataSource, Openable, open_source
from d2v_fast.data.stages import MaskMaker, Stage, label_stage, mask_stage
from d2v_fast.errors import DataError, SampleError, TooManySkipped

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
    "Stage",
    "TooManySkipped",
    "label_stage",
    "mask_stage",
    "open_source",
]
