"""Evaluation: what a model learned, in numbers with errors.

Every function takes a model, which it evaluates in ``eval()`` mode and leaves as it was, like
torch's random state; and rows: ``data.test[:100]``, or named tensors of shape ``(rows, *event)``,
NaN where an element is missing. ``seed`` decides every draw: the same seed, the same numbers.
"""

from deeplvm.evaluation.bound.gaps import InferenceGaps, inference_gaps
from deeplvm.evaluation.bound.generalisation import GeneralisationGap, generalisation_gap
from deeplvm.evaluation.bound.gradient_variance import (
    GradientNoise,
    GradientVariance,
    variance_of_gradient,
)
from deeplvm.evaluation.bound.rate_distortion import RateDistortion, rate_distortion
from deeplvm.evaluation.bound.surgery import ElboSurgery, elbo_surgery
from deeplvm.evaluation.comparison import Comparison, Difference, compare, difference
from deeplvm.evaluation.count_rates import DifferentialRates, denoised, differential_rates
from deeplvm.evaluation.counting import ObjectCounts, counting, object_counts
from deeplvm.evaluation.disentanglement.scores import Disentanglement, disentanglement
from deeplvm.evaluation.latents.aggregate import (
    AggregateAgainstPrior,
    AggregateTests,
    aggregate_against_prior,
)
from deeplvm.evaluation.latents.latent_use import LatentUse, latent_use
from deeplvm.evaluation.latents.mutual_information import MutualInformation, mutual_information
from deeplvm.evaluation.latents.prior_holes import Holes, holes
from deeplvm.evaluation.latents.probes import Probes, probes
from deeplvm.evaluation.molecules import Generated, generated, generated_of
from deeplvm.evaluation.predictive.calibration import Calibration, calibration
from deeplvm.evaluation.predictive.checks import Check, PredictiveChecks, predictive_checks
from deeplvm.evaluation.predictive.classification import Classification, classification
from deeplvm.evaluation.predictive.out_of_distribution import (
    Detection,
    OutOfDistribution,
    out_of_distribution,
)
from deeplvm.evaluation.samples.distances import (
    FrechetEstimate,
    KernelEstimate,
    frechet_distance,
    kernel_distance,
)
from deeplvm.evaluation.samples.features import FeatureMap, features_of
from deeplvm.evaluation.samples.memorisation import Memorisation, memorisation
from deeplvm.evaluation.samples.precision_recall import ManifoldEstimate, manifold_estimate
from deeplvm.evaluation.samples.quality import SampleQuality, sample_quality
from deeplvm.evaluation.samples.synthetic import SyntheticRows, synthetic_rows
from deeplvm.evaluation.summary import Annealing, Evaluation, Synthetic, evaluate
from deeplvm.evaluation.topics import Perplexity, Topics, perplexity, topics_of

__all__ = [
    "AggregateAgainstPrior",
    "AggregateTests",
    "Annealing",
    "Calibration",
    "Check",
    "Classification",
    "Comparison",
    "Detection",
    "Difference",
    "DifferentialRates",
    "Disentanglement",
    "ElboSurgery",
    "Evaluation",
    "FeatureMap",
    "FrechetEstimate",
    "GeneralisationGap",
    "Generated",
    "GradientNoise",
    "GradientVariance",
    "Holes",
    "InferenceGaps",
    "KernelEstimate",
    "LatentUse",
    "ManifoldEstimate",
    "Memorisation",
    "MutualInformation",
    "ObjectCounts",
    "OutOfDistribution",
    "Perplexity",
    "PredictiveChecks",
    "Probes",
    "RateDistortion",
    "SampleQuality",
    "Synthetic",
    "SyntheticRows",
    "Topics",
    "aggregate_against_prior",
    "calibration",
    "classification",
    "compare",
    "counting",
    "denoised",
    "difference",
    "differential_rates",
    "disentanglement",
    "elbo_surgery",
    "evaluate",
    "features_of",
    "frechet_distance",
    "generalisation_gap",
    "generated",
    "generated_of",
    "holes",
    "inference_gaps",
    "kernel_distance",
    "latent_use",
    "manifold_estimate",
    "memorisation",
    "mutual_information",
    "object_counts",
    "out_of_distribution",
    "perplexity",
    "predictive_checks",
    "probes",
    "rate_distortion",
    "sample_quality",
    "synthetic_rows",
    "topics_of",
    "variance_of_gradient",
]
