"""What features are worth: extraction, probes with their standard errors, plots."""

from d2v_fast.evaluation.features import extract, prepare
from d2v_fast.evaluation.probe import (
    knn_accuracy,
    knn_correct,
    logistic_accuracy,
    logistic_correct,
    standard_error,
)

__all__ = [
    "extract",
    "knn_accuracy",
    "knn_correct",
    "logistic_accuracy",
    "logistic_correct",
    "prepare",
    "standard_error",
]
