"""What features are worth: extraction, probes with their standard errors, retrieval."""

from d2v_fast.evaluation.features import extract
from d2v_fast.evaluation.probe import (
    knn_accuracy,
    knn_correct,
    logistic_accuracy,
    logistic_correct,
    standard_error,
)
from d2v_fast.evaluation.retrieval import ranks, recall

__all__ = [
    "extract",
    "knn_accuracy",
    "knn_correct",
    "logistic_accuracy",
    "logistic_correct",
    "ranks",
    "recall",
    "standard_error",
]
