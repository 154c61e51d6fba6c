"""Inference beyond one pass of an encoder: posteriors refined row by row."""

from deeplvm.inference.refinement import Refined, localised, refine
from deeplvm.inference.semi_amortised import SemiAmortised

__all__ = ["Refined", "SemiAmortised", "localised", "refine"]
