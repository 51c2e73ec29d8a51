"""The modalities: everything that belongs to one kind of input stands in its own room.

A modality of one's own derives from `Modality` and is made known by `register`; examples/own_modality.py brings one.
"""

from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.opening import check_engine, modality_of, open_data, open_loader
from d2v_fast.registry import get, names, register

__all__ = ["Modality", "check_engine", "get", "modality_of", "names", "open_data", "open_loader", "register"]
