"""Downstream tasks: an encoder is trained on with labels, and what comes out is decoded and measured."""

from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.finetune import Finetuning, finetune
from d2v_fast.finetuning.predict import Finetuned, load
from d2v_fast.finetuning.predictions import Evaluation, Predictions
from d2v_fast.finetuning.recipes import RECIPES
from d2v_fast.finetuning.sets import LabelledData

__all__ = [
    "RECIPES",
    "Evaluation",
    "FinetuneConfig",
    "Finetuned",
    "Finetuning",
    "LabelledData",
    "Predictions",
    "finetune",
    "load",
]
