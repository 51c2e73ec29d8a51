"""What features are worth: extraction, probes with their standard errors, retrieval."""

from d2v_fast.evaluation.during import ProbeDuring
from d2v_fast.evaluation.embedded import Embedded, read_embedded
from d2v_fast.evaluation.features import extract
from d2v_fast.evaluation.judging import Comparison, Probing, Score
from d2v_fast.evaluation.knn import knn_accuracy, knn_correct
from d2v_fast.evaluation.linear import logistic_accuracy, logistic_correct
from d2v_fast.evaluation.probe import standard_error
from d2v_fast.evaluation.probing import retrieve
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
