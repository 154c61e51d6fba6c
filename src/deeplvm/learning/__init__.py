"""Other ways to learn a model than by one encoder for all rows (monograph, appendix A.2)."""

from deeplvm.learning.bayes import (
    PosteriorPredictive,
    held,
    make_random,
    minus_divergence,
    posterior_predictive,
    posteriors,
)
from deeplvm.learning.exact_em import ExactEM, exact_em
from deeplvm.learning.maximum_a_posteriori import LogPrior, maximum_a_posteriori, named_parameters
from deeplvm.learning.monte_carlo_em import MonteCarloEM, monte_carlo_em
from deeplvm.learning.variational_em import VariationalEM, variational_em

__all__ = [
    "ExactEM",
    "LogPrior",
    "MonteCarloEM",
    "PosteriorPredictive",
    "VariationalEM",
    "exact_em",
    "held",
    "make_random",
    "maximum_a_posteriori",
    "minus_divergence",
    "monte_carlo_em",
    "named_parameters",
    "posterior_predictive",
    "posteriors",
    "variational_em",
]
