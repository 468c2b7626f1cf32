"""Evaluation with labels: metrics, statistics and the methods they are computed for."""

from .evaluate import Evaluator, Protocol
from .methods import gather_methods
from .outputs import EvaluationWriter
from .sources import StoredResults
from .subjects import SubjectReader
from .tracking import MLflowTracking

__all__ = [
    "EvaluationWriter",
    "Evaluator",
    "MLflowTracking",
    "Protocol",
    "StoredResults",
    "SubjectReader",
    "gather_methods",
]
