"""Distributions that torch lacks, or computes without the accuracy or the speed needed here."""

from deeplvm.distributions.counts import (
    Multinomial,
    NegativeBinomial,
    OfTotal,
    Poisson,
    ZeroInflated,
)
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.discrete import (
    Bernoulli,
    DiscretizedLogistic,
    LevelCategorical,
    OneHotCategorical,
    Ordinal,
    cumulative_logits,
)
from deeplvm.distributions.divergences import remember
from deeplvm.distributions.graph import InnerProductGraph
from deeplvm.distributions.mixture import Mixture, NormalMixture
from deeplvm.distributions.multivariate_normal import (
    FullCovarianceNormal,
    LowRankNormal,
    LowRankPrecisionNormal,
)
from deeplvm.distributions.pixels import CoupledLogisticMixture, DiscretizedLogisticMixture
from deeplvm.distributions.real import Gamma, Logistic, StudentT
from deeplvm.distributions.simplex import Concrete, Dirichlet
from deeplvm.distributions.unit_interval import Beta, ContinuousBernoulli
from deeplvm.distributions.von_mises_fisher import UniformSphere, VonMisesFisher

__all__ = [
    "Bernoulli",
    "Beta",
    "Concrete",
    "ContinuousBernoulli",
    "CoupledLogisticMixture",
    "DiagonalNormal",
    "Dirichlet",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FullCovarianceNormal",
    "Gamma",
    "InnerProductGraph",
    "LevelCategorical",
    "Logistic",
    "LowRankNormal",
    "LowRankPrecisionNormal",
    "Mixture",
    "Multinomial",
    "NegativeBinomial",
    "NormalMixture",
    "OfTotal",
    "OneHotCategorical",
    "Ordinal",
    "Poisson",
    "StudentT",
    "UniformSphere",
    "VonMisesFisher",
    "ZeroInflated",
    "cumulative_logits",
]

remember()  # after the last registration
