"""Other ways to learn a model than by one encoder for all rows (monograph, appendix A.2)."""

from deeplvm.learning.aggressive import aggressive
from deeplvm.learning.bayes import (
    PosteriorPredictive,
    held,
    make_random,
    minus_divergence,
    posterior_predictive,
    posteriors,
)
from deeplvm.learning.controlled import controlled
from deeplvm.learning.em import PersistentChains, exact_em, monte_carlo_em, variational_em
from deeplvm.learning.map import LogPrior, maximum_a_posteriori, named_parameters
from deeplvm.learning.natural_gradients import natural_gradients
from deeplvm.learning.stacked import stacked
from deeplvm.learning.wake_sleep import dream, reweighted_wake_sleep, wake_sleep

__all__ = [
    "LogPrior",
    "PersistentChains",
    "PosteriorPredictive",
    "aggressive",
    "controlled",
    "dream",
    "exact_em",
    "held",
    "make_random",
    "maximum_a_posteriori",
    "minus_divergence",
    "monte_carlo_em",
    "named_parameters",
    "natural_gradients",
    "posterior_predictive",
    "posteriors",
    "reweighted_wake_sleep",
    "stacked",
    "variational_em",
    "wake_sleep",
]
