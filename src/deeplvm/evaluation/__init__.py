"""Evaluation: what a model learned, in numbers with errors."""

from deeplvm.evaluation.bound.gaps import InferenceGaps, inference_gaps
from deeplvm.evaluation.bound.generalisation import GeneralisationGap, generalisation_gap
from deeplvm.evaluation.bound.gradient_variance import (
    GradientNoise,
    GradientVariance,
    variance_of_gradient,
)
from deeplvm.evaluation.bound.rate_distortion import RateDistortion, rate_distortion
from deeplvm.evaluation.bound.surgery import ElboSurgery, elbo_surgery
from deeplvm.evaluation.latents.aggregate import (
    AggregateAgainstPrior,
    AggregateTests,
    aggregate_against_prior,
)
from deeplvm.evaluation.latents.disentanglement.scores import Disentanglement, disentanglement
from deeplvm.evaluation.latents.holes import Holes, holes
from deeplvm.evaluation.latents.latent_use import LatentUse, latent_use
from deeplvm.evaluation.latents.mutual_information import MutualInformation, mutual_information
from deeplvm.evaluation.latents.probes import Probes, probes
from deeplvm.evaluation.likelihood.annealing import (
    AnnealedEstimate,
    Sandwich,
    annealed_importance_sampling,
    sandwich,
)
from deeplvm.evaluation.likelihood.bits import BitsPerDimension, bits_per_dimension
from deeplvm.evaluation.likelihood.convergence import Convergence, convergence
from deeplvm.evaluation.likelihood.exact import (
    ExactLikelihood,
    ExactPosterior,
    exact_likelihood,
    exact_posterior,
)
from deeplvm.evaluation.likelihood.filtering import FilterEstimate, particle_filter
from deeplvm.evaluation.likelihood.harmonic import (
    FittedMixture,
    HarmonicEstimate,
    harmonic_likelihood,
)
from deeplvm.evaluation.likelihood.importance import (
    CurvePoint,
    ImportanceEstimate,
    importance_sampling,
)
from deeplvm.evaluation.likelihood.pareto import pareto_k
from deeplvm.evaluation.likelihood.quadrature import QuadratureEstimate, quadrature_likelihood
from deeplvm.evaluation.likelihood.sequential import SequentialEstimate, sequential_monte_carlo
from deeplvm.evaluation.samples.calibration import Calibration, calibration
from deeplvm.evaluation.samples.distances import (
    FrechetEstimate,
    KernelEstimate,
    frechet_distance,
    kernel_distance,
)
from deeplvm.evaluation.samples.features import FeatureMap, features_of
from deeplvm.evaluation.samples.manifolds import ManifoldEstimate, manifold_estimate
from deeplvm.evaluation.samples.memorisation import Memorisation, memorisation
from deeplvm.evaluation.samples.out_of_distribution import (
    Detection,
    OutOfDistribution,
    out_of_distribution,
)
from deeplvm.evaluation.samples.predictive_checks import Check, PredictiveChecks, predictive_checks
from deeplvm.evaluation.samples.quality import SampleQuality, sample_quality
from deeplvm.evaluation.summary import Evaluation, evaluate

__all__ = [
    "AggregateAgainstPrior",
    "AggregateTests",
    "AnnealedEstimate",
    "BitsPerDimension",
    "Calibration",
    "Check",
    "Convergence",
    "CurvePoint",
    "Detection",
    "Disentanglement",
    "ElboSurgery",
    "Evaluation",
    "ExactLikelihood",
    "ExactPosterior",
    "FeatureMap",
    "FilterEstimate",
    "FittedMixture",
    "FrechetEstimate",
    "GeneralisationGap",
    "GradientNoise",
    "GradientVariance",
    "HarmonicEstimate",
    "Holes",
    "ImportanceEstimate",
    "InferenceGaps",
    "KernelEstimate",
    "LatentUse",
    "ManifoldEstimate",
    "Memorisation",
    "MutualInformation",
    "OutOfDistribution",
    "PredictiveChecks",
    "Probes",
    "QuadratureEstimate",
    "RateDistortion",
    "SampleQuality",
    "Sandwich",
    "SequentialEstimate",
    "aggregate_against_prior",
    "annealed_importance_sampling",
    "bits_per_dimension",
    "calibration",
    "convergence",
    "disentanglement",
    "elbo_surgery",
    "evaluate",
    "exact_likelihood",
    "exact_posterior",
    "features_of",
    "frechet_distance",
    "generalisation_gap",
    "harmonic_likelihood",
    "holes",
    "importance_sampling",
    "inference_gaps",
    "kernel_distance",
    "latent_use",
    "manifold_estimate",
    "memorisation",
    "mutual_information",
    "out_of_distribution",
    "pareto_k",
    "particle_filter",
    "predictive_checks",
    "probes",
    "quadrature_likelihood",
    "rate_distortion",
    "sample_quality",
    "sandwich",
    "sequential_monte_carlo",
    "variance_of_gradient",
]
