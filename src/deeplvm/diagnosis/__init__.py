"""What is wrong with a model, in words, and what to try."""

from deeplvm.diagnosis.diagnose import Diagnosis, diagnose
from deeplvm.diagnosis.rules import RULES, Rule
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Effort, Examination

__all__ = [
    "RULES",
    "CannotMeasure",
    "Diagnosis",
    "Effort",
    "Examination",
    "Rule",
    "Verdict",
    "diagnose",
]
