"""Evaluation: what a model learned, in numbers with errors."""

from deeplvm.evaluation.bound.gaps import InferenceGaps, inference_gaps
from deeplvm.evaluation.bound.gradient_variance import (
    GradientNoise,
    GradientVariance,
    variance_of_gradient,
)
from deeplvm.evaluation.latents.latent_use import LatentUse, latent_use
from deeplvm.evaluation.likelihood.annealing import (
    AnnealedEstimate,
    Sandwich,
    annealed_importance_sampling,
    sandwich,
)
from deeplvm.evaluation.likelihood.bits import BitsPerDimension, bits_per_dimension
from deeplvm.evaluation.likelihood.importance import (
    CurvePoint,
    ImportanceEstimate,
    importance_sampling,
)
from deeplvm.evaluation.likelihood.pareto import pareto_k
from deeplvm.evaluation.summary import Evaluation, evaluate

__all__ = [
    "AnnealedEstimate",
    "BitsPerDimension",
    "CurvePoint",
    "Evaluation",
    "GradientNoise",
    "GradientVariance",
    "ImportanceEstimate",
    "InferenceGaps",
    "LatentUse",
    "Sandwich",
    "annealed_importance_sampling",
    "bits_per_dimension",
    "evaluate",
    "importance_sampling",
    "inference_gaps",
    "latent_use",
    "pareto_k",
    "sandwich",
    "variance_of_gradient",
]
