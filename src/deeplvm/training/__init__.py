"""Training: the loop, its schedules and phases, checkpoints and model files."""

from __future__ import annotations

from deeplvm.learning.aggressive import aggressive
from deeplvm.learning.wake_sleep import dream, reweighted_wake_sleep, wake_sleep
from deeplvm.training import schedules
from deeplvm.training.batches import Source, Tensors
from deeplvm.training.callbacks import Callback, History, TensorBoard
from deeplvm.training.checkpoint import CheckpointError, load_model_into, save_model
from deeplvm.training.failures import NonFiniteError, TrainingInterrupted
from deeplvm.training.loop import fit
from deeplvm.training.schedules import (
    Schedule,
    constant,
    cosine,
    cyclical,
    exponential,
    linear,
    logistic,
    tripling,
    warm_up,
)
from deeplvm.training.step import Phase

__all__ = [
    "Callback",
    "CheckpointError",
    "History",
    "NonFiniteError",
    "Phase",
    "Schedule",
    "Source",
    "TensorBoard",
    "Tensors",
    "TrainingInterrupted",
    "aggressive",
    "constant",
    "cosine",
    "cyclical",
    "dream",
    "exponential",
    "fit",
    "linear",
    "load_model_into",
    "logistic",
    "reweighted_wake_sleep",
    "save_model",
    "schedules",
    "tripling",
    "wake_sleep",
    "warm_up",
]
