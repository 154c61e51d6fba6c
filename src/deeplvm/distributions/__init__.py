"""Distributions that torch lacks, or computes without the accuracy or the speed needed here."""

from deeplvm.distributions.bernoulli import Bernoulli
from deeplvm.distributions.beta import Beta
from deeplvm.distributions.concrete import Concrete
from deeplvm.distributions.continuous_bernoulli import ContinuousBernoulli
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.dirichlet import Dirichlet
from deeplvm.distributions.discretized_logistic import DiscretizedLogistic
from deeplvm.distributions.divergences import remember
from deeplvm.distributions.full_covariance_normal import FullCovarianceNormal
from deeplvm.distributions.gamma import Gamma
from deeplvm.distributions.logistic import Logistic
from deeplvm.distributions.low_rank_normal import LowRankNormal, LowRankPrecisionNormal
from deeplvm.distributions.mixture import Mixture, NormalMixture
from deeplvm.distributions.multinomial import Multinomial
from deeplvm.distributions.negative_binomial import NegativeBinomial
from deeplvm.distributions.one_hot_categorical import OneHotCategorical
from deeplvm.distributions.ordinal import Ordinal, cumulative_logits
from deeplvm.distributions.poisson import Poisson
from deeplvm.distributions.student_t import StudentT
from deeplvm.distributions.von_mises_fisher import UniformSphere, VonMisesFisher

__all__ = [
    "Bernoulli",
    "Beta",
    "Concrete",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "Dirichlet",
    "DiscretizedLogistic",
    "FullCovarianceNormal",
    "Gamma",
    "Logistic",
    "LowRankNormal",
    "LowRankPrecisionNormal",
    "Mixture",
    "Multinomial",
    "NegativeBinomial",
    "NormalMixture",
    "OneHotCategorical",
    "Ordinal",
    "Poisson",
    "StudentT",
    "UniformSphere",
    "VonMisesFisher",
    "cumulative_logits",
]

remember()  # after the last registration
