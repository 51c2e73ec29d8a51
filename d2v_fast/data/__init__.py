"""From files to batches: sources that know every sample's size, a plan of pure functions, a loader of threads."""

import importlib
from typing import Any

_HOMES = {
    "InputsConfig": "d2v_fast.data.config",
    "LoaderConfig": "d2v_fast.data.config",
    "MaskMaker": "d2v_fast.data.engines.engine",
    "Loader": "d2v_fast.data.loader",
    "ArraySource": "d2v_fast.data.source",
    "DataSource": "d2v_fast.data.source",
    "Openable": "d2v_fast.data.source",
    "open_source": "d2v_fast.data.source",
    "DataError": "d2v_fast.errors",
    "SampleError": "d2v_fast.errors",
    "TooManySkipped": "d2v_fast.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(name)
