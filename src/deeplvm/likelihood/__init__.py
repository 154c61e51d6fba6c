"""How likely data are under a model: estimates of log p(x), with their errors."""

from deeplvm.likelihood.annealing import (
    AnnealedEstimate,
    Sandwich,
    annealed_importance_sampling,
    sandwich,
)
from deeplvm.likelihood.bits_per_dimension import BitsPerDimension, bits_per_dimension
from deeplvm.likelihood.convergence import Convergence, convergence
from deeplvm.likelihood.exact import (
    ExactLikelihood,
    ExactPosterior,
    exact_likelihood,
    exact_posterior,
)
from deeplvm.likelihood.forecast import Forecast, forecast
from deeplvm.likelihood.harmonic import FittedMixture, HarmonicEstimate, harmonic_likelihood
from deeplvm.likelihood.importance import (
    CurvePoint,
    Enough,
    ImportanceEstimate,
    enough_particles,
    importance_sampling,
)
from deeplvm.likelihood.particle_filter import FilterEstimate, particle_filter
from deeplvm.likelihood.quadrature import QuadratureEstimate, quadrature_likelihood
from deeplvm.likelihood.scores import (
    CellScores,
    Reference,
    RowScores,
    UsualSurprise,
    beside,
    score_cells,
    score_rows,
    tail_probability,
)
from deeplvm.likelihood.sequential import SequentialEstimate, sequential_monte_carlo

__all__ = [
    "AnnealedEstimate",
    "BitsPerDimension",
    "CellScores",
    "Convergence",
    "CurvePoint",
    "Enough",
    "ExactLikelihood",
    "ExactPosterior",
    "FilterEstimate",
    "FittedMixture",
    "Forecast",
    "HarmonicEstimate",
    "ImportanceEstimate",
    "QuadratureEstimate",
    "Reference",
    "RowScores",
    "Sandwich",
    "SequentialEstimate",
    "UsualSurprise",
    "annealed_importance_sampling",
    "beside",
    "bits_per_dimension",
    "convergence",
    "enough_particles",
    "exact_likelihood",
    "exact_posterior",
    "forecast",
    "harmonic_likelihood",
    "importance_sampling",
    "particle_filter",
    "quadrature_likelihood",
    "sandwich",
    "score_cells",
    "score_rows",
    "sequential_monte_carlo",
    "tail_probability",
]
