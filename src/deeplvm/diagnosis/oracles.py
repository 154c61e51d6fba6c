"""Small models whose answers are known: what an installation, and the tests, are held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP

#: A linear-Gaussian model of noise variance 0.5, and its log p(x) at x = (1, 1).
WEIGHT = ((1.0,), (2.0,))
LOG_PX = -2.707313885885
#: Of :func:`conjugate` at x = 1, by quadrature: E[L_K] by the number of particles K.
BOUNDS = {1: -1.918938533205, 2: -1.65347379, 5: -1.5573, 50: -1.5192}


class Function(nn.Module):
    """Any function of the parents that returns a distribution, of this event shape."""

    def __init__(self, function: Callable[..., Distribution], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.event_shape = torch.Size(shape)

    def forward(self, *parents: Tensor) -> Distribution:
        return self.function(*parents)


class ExactPosterior(nn.Module):
    """N(z; S W^T (x - b) / s2, S), S = (I + W^T W / s2)^-1, of the elements that are observed."""

    accepts_missing = True

    def __init__(self, weight: Tensor, bias: Tensor, variance: float) -> None:
        super().__init__()
        self.weight, self.bias, self.variance = weight, bias, variance
        self.event_shape = torch.Size([weight.shape[1]])

    def forward(self, x: Tensor) -> MultivariateNormal:
        known = (~x.isnan()).to(x.dtype)
        residual = torch.nan_to_num(x - self.bias) * known
        rows = known.unsqueeze(-1) * self.weight  # (B, D, L)
        precision = torch.eye(self.weight.shape[1]) + rows.mT @ rows / self.variance
        mean = torch.linalg.solve(
            precision, (residual @ self.weight / self.variance).unsqueeze(-1)
        )
        return MultivariateNormal(mean.squeeze(-1), precision_matrix=precision)


def linear(
    weight: Any = WEIGHT,
    noise: float = math.sqrt(0.5),
    q: nn.Module | None = None,
    bias: Tensor | None = None,
) -> LatentVariableModel:
    """p(z) = N(0, I), p(x | z) = N(W z + b, noise² I); q is far off, unless given."""
    weight = torch.as_tensor(weight)
    observed, latents = weight.shape
    likelihood = Gaussian(observed, MLP(latents), scale=noise)
    with torch.no_grad():
        layer: Any = likelihood.head.layer
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(observed) if bias is None else bias)
    p = Joint({"z": StandardNormal(latents), "x | z": likelihood})
    q = Gaussian(latents, MLP(observed)) if q is None else q
    return LatentVariableModel(p, Joint({"z | x": q}))


def marginal(
    weight: Any = WEIGHT, noise: float = math.sqrt(0.5), bias: Tensor | None = None
) -> MultivariateNormal:
    """p(x) of :func:`linear`."""
    weight = torch.as_tensor(weight)
    mean = torch.zeros(len(weight)) if bias is None else bias
    return MultivariateNormal(mean, weight @ weight.T + noise**2 * torch.eye(len(weight)))


def conjugate() -> LatentVariableModel:
    """The model z ~ N(0, 1), x | z ~ N(z, 1), q the prior; log p(x = 1) is that of N(0, 2)."""
    p = Joint({"z": Function(lambda: Normal(0.0, 1.0)), "x | z": Function(lambda z: Normal(z, 1))})
    return LatentVariableModel(p, Joint({"z": Function(lambda: Normal(torch.zeros(()), 1.0))}))


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


def log_joint(model: LatentVariableModel, x: Tensor) -> Tensor:
    """Of :func:`binary`: log p(x, z), every z a column, shape (rows, 2 ** latents)."""
    z = every(model.p["z"].event_shape[0])
    with torch.no_grad():
        joint = model.p({"z": z.repeat(len(x), 1), "x": x.repeat_interleave(len(z), 0)}).log_prob
    return joint.reshape(len(x), len(z))
