"""Fast and exact data2vec pretraining for speech, images, text and signals.

Names are imported when they are first used, so that `d2v-fast --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v_fast import ops, presets
    from d2v_fast.batch import Batch
    from d2v_fast.config import Config
    from d2v_fast.data import ArraySource, DataSource
    from d2v_fast.evaluation.embed import embed
    from d2v_fast.evaluation.probing import probe
    from d2v_fast.exporting import export
    from d2v_fast.finetuning.finetune import finetune
    from d2v_fast.finetuning.loading import evaluate, load, predict
    from d2v_fast.models import Data2Vec
    from d2v_fast.presets import preset
    from d2v_fast.run.reader import Run
    from d2v_fast.training.pretraining import pretrain
    from d2v_fast.training.trainer import Data2VecTrainer

__version__ = "0.1.0"

__all__ = [
    "ArraySource",
    "Batch",
    "Config",
    "Data2Vec",
    "Data2VecTrainer",
    "DataSource",
    "Run",
    "__version__",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "load",
    "ops",
    "predict",
    "preset",
    "presets",
    "pretrain",
    "probe",
]

_HOMES = {
    "ArraySource": "d2v_fast.data",
    "Batch": "d2v_fast.batch",
    "Config": "d2v_fast.config",
    "Data2Vec": "d2v_fast.models",
    "Data2VecTrainer": "d2v_fast.training.trainer",
    "DataSource": "d2v_fast.data",
    "Run": "d2v_fast.run.reader",
    "embed": "d2v_fast.evaluation.embed",
    "export": "d2v_fast.exporting",
    "finetune": "d2v_fast.finetuning.finetune",
    "evaluate": "d2v_fast.finetuning.loading",
    "load": "d2v_fast.finetuning.loading",
    "predict": "d2v_fast.finetuning.loading",
    "preset": "d2v_fast.presets",
    "pretrain": "d2v_fast.training.pretraining",
    "probe": "d2v_fast.evaluation.probing",
}
_MODULES = (
    "ops",
    "presets",
    "models",
    "data",
    "masking",
    "evaluation",
    "finetuning",
    "interop",
    "reference",
    "rng",
    "training",
)
_NOT_BUILT = (
    "d2v_fast's compiled kernels are missing. Importing the source tree is not enough: install the package with "
    "`pip install .` (or `pip install -e .` to work on it) from the folder that holds pyproject.toml."
)

if find_spec("d2v_fast._C") is None:
    raise ImportError(_NOT_BUILT)


def __getattr__(name: str) -> Any:
    if name == "_C":
        # `from d2v_fast import _C` comes here. torch first: its OpenMP runtime must be the one that the kernels share.
        importlib.import_module("torch")
        return importlib.import_module("d2v_fast._C")
    if name in _MODULES:
        return importlib.import_module(f"d2v_fast.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'd2v_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
