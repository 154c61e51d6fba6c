"""Small models whose answers are known, for the tests of several folders."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Poisson

from deeplvm import Joint, LatentVariableModel
from deeplvm.diagnosis.oracles import (
    BOUNDS,
    LOG_PX,
    WEIGHT,
    ExactPosterior,
    Function,
    binary,
    every,
    linear,
    log_joint,
    marginal,
)

__all__ = [
    "BOUNDS",
    "LOG_PX",
    "WEIGHT",
    "ExactPosterior",
    "Function",
    "binary",
    "counts",
    "every",
    "linear",
    "log_joint",
    "marginal",
]


def counts(size: int = 1) -> LatentVariableModel:
    """Counts of a rate that is Gamma(3, 1/2): each is negative binomial(3, 1/3)."""
    rate = Independent(Gamma(torch.tensor([3.0]), torch.tensor([0.5])), 1)

    def of(rate: Tensor) -> Distribution:
        return Independent(Poisson(rate.expand(*rate.shape[:-1], size)), 1)

    p = Joint({"rate": Function(lambda: rate, 1), "x | rate": Function(of, size)})
    return LatentVariableModel(p, Joint({"rate | x": Function(lambda _: rate, 1)}))
