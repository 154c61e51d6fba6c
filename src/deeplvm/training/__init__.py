"""Training: the loop, its schedules and phases, checkpoints and model files."""

from __future__ import annotations

from deeplvm.training import schedules
from deeplvm.training.batches import ByFactor, Dataset, Streams, Tensors
from deeplvm.training.callbacks import Callback, History, TensorBoard
from deeplvm.training.checkpoint import CheckpointError, load_model_into, save_model
from deeplvm.training.failures import NonFiniteError, TrainingInterrupted
from deeplvm.training.loop import fit
from deeplvm.training.options import Machine, Optimization, Saving, Stopping, unfolded
from deeplvm.training.phases import Phase
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

__all__ = [
    "ByFactor",
    "Callback",
    "CheckpointError",
    "Dataset",
    "History",
    "Machine",
    "NonFiniteError",
    "Optimization",
    "Phase",
    "Saving",
    "Schedule",
    "Stopping",
    "Streams",
    "TensorBoard",
    "Tensors",
    "TrainingInterrupted",
    "constant",
    "cosine",
    "cyclical",
    "exponential",
    "fit",
    "linear",
    "load_model_into",
    "logistic",
    "save_model",
    "schedules",
    "tripling",
    "unfolded",
    "warm_up",
]
