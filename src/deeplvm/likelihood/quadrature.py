r"""Gauss–Hermite quadrature: :math:`\log p(x)` to many digits for one or two latent dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, latent_dimensions
from deeplvm.inference.tempering import effective
from deeplvm.randomness import RowNoise
from deeplvm.results import RowEstimate

_DIMENSIONS = 2
_MOST_POINTS = 160  # the weights of more are lost below the smallest number
_NUMBERS = 2**14  # pairs of a row and a node that go through p at once
_DRAWS = 512  # of the prior, and as many of q, to find where the posterior is
_STEPS = 40  # of the centre and the scale, at most
_LOOK_POINTS = 32  # nodes a dimension in these
# Effective nodes a dimension below which such a step is tempered; 32 nodes around a Gaussian that
# they fit have 6.4.
_CARRIED = 4.0
_CARRIED_DRAWS = 20.0


@dataclass(frozen=True, eq=False)
class QuadratureEstimate(
    RowEstimate, also="dimensions largest_error", without="free_mean free_covariance"
):
    r"""Log-likelihood of each row by quadrature; nats.

    ``log_px_stderr`` is the distance to the result of half as many points, which is not random
    and mostly far larger than the error of the full number.

    Attributes:
        free_mean: Posterior mean of the latents as free numbers (a positive latent as its
            logarithm), shape ``(rows, D)``.
        free_covariance: Their posterior covariance, shape ``(rows, D, D)``.
        points: Nodes a dimension.
    """

    free_mean: Tensor
    free_covariance: Tensor
    points: int

    @property
    def largest_error(self) -> float:
        """The largest of ``log_px_stderr``: a row to look at where it is not small."""
        return float(self.log_px_stderr.max())

    @property
    def dimensions(self) -> int:
        """D, of the latents together."""
        return self.free_mean.shape[1]

    def __str__(self) -> str:
        nodes = f"{self.points}" if self.dimensions == 1 else f"{self.points} × {self.points}"
        return (
            f"{super().__str__()}, {nodes} Gauss–Hermite nodes; half as many differ by at most "
            f"{self.largest_error:.1e}"
        )


def quadrature_likelihood(
    model: LatentVariableModel, data: NamedRows | Rows, points: int = 64, *, seed: int = 0
) -> QuadratureEstimate:
    r""":math:`\log \int p(x, z)\,dz` of every row by nodes around its own posterior.

    .. math:: p(x) = \int \frac{p(x, u)}{N(u; m, C)}\, N(u; m, C)\, du
              \approx \sum_j w_j\, \frac{p(x, u_j)}{N(u_j; m, C)}, \quad u_j = m + L t_j

    with the nodes and weights of Gauss–Hermite :math:`(t_j, w_j)`, :math:`C = L L^T`, u the
    latents without constraints. m and C are the posterior's own moments: first from draws of the
    prior and of q, then from the nodes themselves, until they
    stay. A step of which too few nodes
    carry the weight is tempered, so that a posterior much narrower than the prior is found too.

    Exact for a Gaussian posterior, and correct to many digits for smooth densities. For networks
    with corners (ReLU) the error falls slowly; ``log_px_stderr`` shows it. Two modes far apart
    need many points, and a mode that neither the prior's nor q's draws meet is not seen.

    Applications of a Method for the Efficient Computation of Posterior Distributions (Naylor &
    Smith, 1982), https://doi.org/10.2307/2347995; A Note on Gauss–Hermite Quadrature (Liu &
    Pierce, 1994), https://doi.org/10.1093/biomet/81.3.624

    Args:
        model, data: As of every estimate: :mod:`deeplvm.inference.rows`.
        points: Nodes a dimension, 4 to 160; the cost is its square for two dimensions.
        seed: Of the draws by which the posterior is found; torch's own random state is left as it
            was.

    Raises:
        ValueError: If the latents have more than two dimensions or are discrete, or ``points`` is
            out of range.

    Examples:
        A decoder of one latent, W = (1, 2), noise variance 0.5, at x = (1, 1):

        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> decoder = Gaussian(2, MLP(1), scale=0.5**0.5)
        >>> _ = decoder.head.layer.weight.data.copy_(torch.tensor([[1.0], [2.0]]))
        >>> _ = decoder.head.layer.bias.data.zero_()
        >>> p = Joint({"z": StandardNormal(1), "x | z": decoder})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> estimate = quadrature_likelihood(model, {"x": torch.ones(1, 2)})
        >>> round(estimate.mean, 4), round(float(estimate.free_mean), 4)
        (-2.7073, 0.5455)
    """
    at_least(4, points=points)
    if points > _MOST_POINTS:
        raise ValueError(f"points is at most {_MOST_POINTS}, found {points}.")

    dimensions = latent_dimensions(model, data)
    if dimensions > _DIMENSIONS:
        raise ValueError(
            f"Quadrature is for one or two latent dimensions, and the latents have {dimensions}: "
            f"use sequential_monte_carlo or annealed_importance_sampling, or importance_sampling "
            f"where q is good."
        )

    def evaluate(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        return _integrate(LatentSpace(model, given, missing, noise=noise), points)

    batch_size = max(1, _NUMBERS // max(points, _LOOK_POINTS) ** dimensions)
    joined = for_rows(model, data, evaluate, batch_size=batch_size, seed=seed, apart=True)
    return QuadratureEstimate(**joined, points=points)


class _Normal(NamedTuple):
    """Mean and covariance of each row: ``(rows, D)`` and ``(rows, D, D)``, float64."""

    mean: Tensor
    covariance: Tensor


def _integrate(space: LatentSpace, points: int) -> dict[str, Tensor]:
    around = _first(space)
    moving = torch.ones_like(around.mean[:, 0], dtype=torch.bool)
    for _ in range(_STEPS):
        nodes, log_weight = _nodes(space, around, _LOOK_POINTS)
        found = _moments(nodes, log_weight, _CARRIED**space.size, around.covariance)
        # each row stops by itself, whatever rows it is with
        apart = (found.covariance - around.covariance).abs() - 1e-3 * found.covariance.abs()
        still = moving & (apart > 0.0).flatten(1).any(1)
        around = _Normal(
            torch.where(moving[:, None], found.mean, around.mean),
            torch.where(moving[:, None, None], found.covariance, around.covariance),
        )
        moving = still
        if not bool(moving.any()):
            break
    nodes, log_weight = _nodes(space, around, points)
    _, log_fewer = _nodes(space, around, points // 2)
    log_px = log_weight.logsumexp(0)
    found = _plain_moments(nodes, log_weight)
    return {
        "log_px": log_px,
        "log_px_stderr": (log_px - log_fewer.logsumexp(0)).abs(),
        "free_mean": found.mean,
        "free_covariance": found.covariance,
    }


def _first(space: LatentSpace) -> _Normal:
    """Where the posterior is, by draws of the prior and of q, weighted."""
    draws = [space.prior(_DRAWS)]
    inferred = all([place.name in space.model.q.names for place in space.places])
    if inferred:
        draws.append(space.posterior(_DRAWS))
    free = torch.cat(draws)
    prior, likelihood = space.log_joint(free)
    proposal = prior
    if inferred:
        proposal = torch.logaddexp(prior, space.log_posterior(free))
    log_weight = _weights(prior + likelihood - proposal)
    wide = _plain_moments(free.double(), torch.zeros_like(log_weight))
    return _moments(free.double(), log_weight, _CARRIED_DRAWS, wide.covariance)


def _nodes(space: LatentSpace, around: _Normal, points: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(n, rows, D)`` and the logarithm of their parts of p(x), ``(n, rows)``."""
    t, w = np.polynomial.hermite_e.hermegauss(points)
    like = around.mean
    place = torch.as_tensor(t, device=like.device, dtype=like.dtype)
    log_w = torch.as_tensor(np.log(w / math.sqrt(2 * math.pi)), device=like.device)
    dimensions = like.shape[-1]
    grid = torch.cartesian_prod(*[place] * dimensions).reshape(-1, 1, dimensions)
    log_grid = torch.cartesian_prod(*[log_w] * dimensions).reshape(-1, dimensions).sum(-1)
    normal = MultivariateNormal(like, around.covariance)
    nodes = like + (normal.scale_tril @ grid.unsqueeze(-1)).squeeze(-1)
    prior, likelihood = space.log_joint(nodes.to(space.dtype))
    log_joint = _weights(prior + likelihood)
    return nodes, log_grid.unsqueeze(-1) + log_joint - normal.log_prob(nodes)


def _weights(log_weight: Tensor) -> Tensor:
    """In float64; nothing where the density overflowed, NaN where it did at every node."""
    broken = log_weight.isnan()
    hidden = broken & ~broken.all(0)
    return torch.where(hidden, -torch.inf, log_weight.double())


def _moments(free: Tensor, log_weight: Tensor, wanted: float, before: Tensor) -> _Normal:
    r"""Moments under weights :math:`w^\tau`, the largest :math:`\tau \le 1` that enough carry.

    ``before`` is a covariance that the result may not fall far below in one step.
    """
    highest = log_weight.amax(0)
    # a row without any weight has moments too, so that the others go on
    log_weight = torch.where(highest.isfinite(), log_weight - highest, 0.0)
    low, high = torch.full_like(log_weight[0], 1e-9), torch.ones_like(log_weight[0])
    for _ in range(40):
        middle = (low * high).sqrt()
        fits = effective(log_weight * middle) >= wanted
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    power = torch.where(effective(log_weight) >= wanted, 1.0, low)
    found = _plain_moments(free, log_weight * power)
    return _Normal(found.mean, found.covariance + 1e-6 * before)


def _plain_moments(free: Tensor, log_weight: Tensor) -> _Normal:
    weight = log_weight.softmax(0).unsqueeze(-1)
    mean = (weight * free).sum(0)
    apart = free - mean
    covariance = torch.einsum("nrd,nre->rde", weight * apart, apart)
    return _Normal(mean, covariance)
