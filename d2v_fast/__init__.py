"""Fast and exact data2vec pretraining for speech, images and text."""

import torch  # noqa: F401  (first: its OpenMP runtime must be the one that the kernels share)

try:
    from d2v_fast import _C  # noqa: F401
except ImportError as error:
    raise ImportError(
        "d2v_fast's compiled kernels are missing. Importing the source tree is not enough: install the package with "
        "`pip install .` (or `pip install -e .` to work on it) from the folder that holds pyproject.toml."
    ) from error

__version__ = "0.1.0"
