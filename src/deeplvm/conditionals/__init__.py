"""Conditionals: maps from parents to a distribution, each a factor of a joint."""

from deeplvm.conditionals.autoregressive import Autoregressive
from deeplvm.conditionals.bayesian import BayesianMixture, Topics, TopicShares
from deeplvm.conditionals.boltzmann import RestrictedBoltzmannMachine
from deeplvm.conditionals.classes import LatentClasses
from deeplvm.conditionals.collapse import BatchNormalisedGaussian, CommittedGaussian
from deeplvm.conditionals.columns import Columns
from deeplvm.conditionals.concrete import BinaryConcrete, Concrete
from deeplvm.conditionals.conjugate import ClassPosterior, MemberPosterior
from deeplvm.conditionals.counts import Multinomial, NegativeBinomial, Poisson
from deeplvm.conditionals.dequantization import Dequantized, RoundedDown
from deeplvm.conditionals.discrete import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    OneHot,
    Ordinal,
)
from deeplvm.conditionals.gaussian import Gaussian, MeanField, StandardNormal
from deeplvm.conditionals.gaussian_process import GaussianProcess
from deeplvm.conditionals.graph import InnerProduct
from deeplvm.conditionals.hamiltonian import Hamiltonian
from deeplvm.conditionals.linear_gaussian import KalmanSmoother, LinearGaussian
from deeplvm.conditionals.local import Local
from deeplvm.conditionals.log_density import BagOfWords, LogDensity
from deeplvm.conditionals.masks import SelfMasking, ValueAndMask, WithMask
from deeplvm.conditionals.mixture import GaussianMixture, Mixture, MixtureDensity, Stratified
from deeplvm.conditionals.multivariate import FullCovarianceGaussian, LowRankGaussian
from deeplvm.conditionals.present import IfPresent, Presence
from deeplvm.conditionals.products import MixtureOfExperts, PrecisionWeighted, ProductOfExperts
from deeplvm.conditionals.real import Gamma, Laplace, StudentT
from deeplvm.conditionals.resampled import Resampled
from deeplvm.conditionals.simplex import Dirichlet
from deeplvm.conditionals.sphere import UniformSphere, VonMisesFisher
from deeplvm.conditionals.spiked import Spiked
from deeplvm.conditionals.tokens import Tokens
from deeplvm.conditionals.transitions import (
    GatedTransition,
    LinearisedTransition,
    ResidualGaussian,
)
from deeplvm.conditionals.unit_interval import Beta, ContinuousBernoulli
from deeplvm.conditionals.vamp import VampPrior

__all__ = [
    "Autoregressive",
    "BagOfWords",
    "BatchNormalisedGaussian",
    "BayesianMixture",
    "Bernoulli",
    "Beta",
    "BinaryConcrete",
    "Categorical",
    "ClassPosterior",
    "Columns",
    "CommittedGaussian",
    "Concrete",
    "ContinuousBernoulli",
    "Dequantized",
    "Dirichlet",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FullCovarianceGaussian",
    "Gamma",
    "GatedTransition",
    "Gaussian",
    "GaussianMixture",
    "GaussianProcess",
    "Hamiltonian",
    "IfPresent",
    "InnerProduct",
    "KalmanSmoother",
    "Laplace",
    "LatentClasses",
    "LinearGaussian",
    "LinearisedTransition",
    "Local",
    "LogDensity",
    "LowRankGaussian",
    "MeanField",
    "MemberPosterior",
    "Mixture",
    "MixtureDensity",
    "MixtureOfExperts",
    "Multinomial",
    "NegativeBinomial",
    "OneHot",
    "Ordinal",
    "Poisson",
    "PrecisionWeighted",
    "Presence",
    "ProductOfExperts",
    "Resampled",
    "ResidualGaussian",
    "RestrictedBoltzmannMachine",
    "RoundedDown",
    "SelfMasking",
    "Spiked",
    "StandardNormal",
    "Stratified",
    "StudentT",
    "Tokens",
    "TopicShares",
    "Topics",
    "UniformSphere",
    "ValueAndMask",
    "VampPrior",
    "VonMisesFisher",
    "WithMask",
]
