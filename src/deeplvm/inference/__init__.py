"""Inference beyond one pass of an encoder: posteriors refined row by row, and chains."""

from deeplvm.inference.chains import PosteriorDraws, sample_posterior
from deeplvm.inference.convergence_of_chains import (
    bulk_effective_size,
    rank_normalised_split_rhat,
    tail_effective_size,
)
from deeplvm.inference.refinement import Refined, localised, refine
from deeplvm.inference.semi_amortised import SemiAmortised

__all__ = [
    "PosteriorDraws",
    "Refined",
    "SemiAmortised",
    "bulk_effective_size",
    "localised",
    "rank_normalised_split_rhat",
    "refine",
    "sample_posterior",
    "tail_effective_size",
]
