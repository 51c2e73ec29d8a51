"""What features are worth: extraction, probes with their standard errors, retrieval."""

from d2v_fast.evaluation.during import ProbeDuring
from d2v_fast.evaluation.embedded import Embedded, read_embedded
from d2v_fast.evaluation.features import extract
from d2v_fast.evaluation.probe import (
    knn_accuracy,
    knn_correct,
    logistic_accuracy,
    logistic_correct,
    standard_error,
)
from d2v_fast.evaluation.probing import Comparison, Probing, Score, retrieve
from d2v_fast.evaluation.retrieval import ranks, recall

__all__ = [
    "Comparison",
    "Embedded",
    "ProbeDuring",
    "Probing",
    "Score",
    "extract",
    "knn_accuracy",
    "knn_correct",
    "logistic_accuracy",
    "logistic_correct",
    "ranks",
    "read_embedded",
    "recall",
    "retrieve",
    "standard_error",
]
