"""Small models whose answers are known, for the tests of several folders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma, Independent, MultivariateNormal, Poisson

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.networks import MLP

#: TB1: a linear-Gaussian model of noise variance 0.5, and its log p(x) at x = (1, 1).
WEIGHT = ((1.0,), (2.0,))
LOG_PX = -2.707313885885


class Function(nn.Module):
    """Any function of the parents that returns a distribution, of this event shape."""

    def __init__(self, function: Callable[..., Distribution], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.event_shape = torch.Size(shape)

    def forward(self, *parents: Tensor) -> Distribution:
        return self.function(*parents)


def linear(
    weight: Any = WEIGHT, noise: float = math.sqrt(0.5), q: nn.Module | None = None
) -> LatentVariableModel:
    """p(z) = N(0, I), p(x | z) = N(W z, noise² I); q is far from the posterior, unless given."""
    weight = torch.as_tensor(weight)
    observed, latents = weight.shape
    likelihood = Gaussian(observed, MLP(latents), scale=noise)
    with torch.no_grad():
        layer: Any = likelihood.head.layer
        layer.weight.copy_(weight)
        layer.bias.zero_()
    p = Joint({"z": StandardNormal(latents), "x | z": likelihood})
    q = Gaussian(latents, MLP(observed)) if q is None else q
    return LatentVariableModel(p, Joint({"z | x": q}))


def marginal(weight: Any = WEIGHT, noise: float = math.sqrt(0.5)) -> MultivariateNormal:
    """p(x) of :func:`linear`."""
    weight = torch.as_tensor(weight)
    size = len(weight)
    return MultivariateNormal(torch.zeros(size), weight @ weight.T + noise**2 * torch.eye(size))


def counts(size: int = 1) -> LatentVariableModel:
    """Counts of a rate that is Gamma(3, 1/2): each is negative binomial(3, 1/3)."""
    rate = Independent(Gamma(torch.tensor([3.0]), torch.tensor([0.5])), 1)

    def of(rate: Tensor) -> Distribution:
        return Independent(Poisson(rate.expand(*rate.shape[:-1], size)), 1)

    p = Joint({"rate": Function(lambda: rate, 1), "x | rate": Function(of, size)})
    return LatentVariableModel(p, Joint({"rate | x": Function(lambda _: rate, 1)}))


def binary(latents: int, observed: int = 5) -> LatentVariableModel:
    """Binary z with free logits, binary x, and an encoder that knows nothing."""
    torch.manual_seed(3)
    prior = Bernoulli(latents)
    with torch.no_grad():
        prior.head.free.copy_(torch.randn(1, latents))
    p = Joint({"z": prior, "x | z": Bernoulli(observed, MLP(latents, 8))})
    return LatentVariableModel(p, Joint({"z | x": Bernoulli(latents, MLP(observed, 8))}))


def every(length: int) -> Tensor:
    """All binary vectors, shape (2 ** length, length)."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=length)))
