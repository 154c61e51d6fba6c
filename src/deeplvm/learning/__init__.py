"""Other ways to learn a model than by one encoder for all rows (monograph, appendix A.2)."""

from deeplvm.learning.bayes import (
    PosteriorPredictive,
    held,
    make_random,
    minus_divergence,
    posterior_predictive,
    posteriors,
)
from deeplvm.learning.em import (
    ExactEM,
    MonteCarloEM,
    VariationalEM,
    exact_em,
    monte_carlo_em,
    variational_em,
)
from deeplvm.learning.map import LogPrior, maximum_a_posteriori, named_parameters

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
