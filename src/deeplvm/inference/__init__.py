"""Inference beyond one pass of an encoder: posteriors refined row by row, and chains."""

from deeplvm.inference.beam_search import beam_search
from deeplvm.inference.classes import ClassProbabilities, class_probabilities
from deeplvm.inference.completion import Completed, complete
from deeplvm.inference.compression import Lossy, lossy_reconstructions
from deeplvm.inference.conversion import converted
from deeplvm.inference.diagnostics import (
    bulk_effective_size,
    pareto_k,
    rank_normalised_split_rhat,
    tail_effective_size,
)
from deeplvm.inference.embedding import embed
from deeplvm.inference.imputation import Imputation, impute
from deeplvm.inference.interpolation import Between, codes_between, decoded
from deeplvm.inference.latent_search import (
    Climbed,
    climb,
    expected_improvement,
    improve,
    predicted,
    visited,
)
from deeplvm.inference.posterior import PosteriorDraws, sample_posterior
from deeplvm.inference.refinement import Refined, localised, refine
from deeplvm.inference.semi_amortised import SemiAmortised
from deeplvm.inference.stochastic_regression import Regressed, stochastic_regression
from deeplvm.inference.temperature import Tempered, sample_at

__all__ = [
    "Between",
    "ClassProbabilities",
    "Climbed",
    "Completed",
    "Imputation",
    "Lossy",
    "PosteriorDraws",
    "Refined",
    "Regressed",
    "SemiAmortised",
    "Tempered",
    "beam_search",
    "bulk_effective_size",
    "class_probabilities",
    "climb",
    "codes_between",
    "complete",
    "converted",
    "decoded",
    "embed",
    "expected_improvement",
    "improve",
    "impute",
    "localised",
    "lossy_reconstructions",
    "pareto_k",
    "predicted",
    "rank_normalised_split_rhat",
    "refine",
    "sample_at",
    "sample_posterior",
    "stochastic_regression",
    "tail_effective_size",
    "visited",
]
