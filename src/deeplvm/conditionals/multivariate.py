"""Gaussians of correlated elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import (
    Head,
    MeanAndStd,
    Network,
    Shape,
    event_shape_of,
    optional_units,
    positive,
    standardised,
)
from deeplvm.distributions.full_covariance_normal import FullCovarianceNormal
from deeplvm.distributions.low_rank_normal import LowRankNormal
from deeplvm.distributions.multivariate_normal import MultivariateNormal

_STEP = 0.1  # of an element of L', in units of its row's scale


class FullCovarianceGaussian(nn.Module):
    r"""Gaussian :math:`N(\mu, L L^T)` with :math:`L = L_{mask} \odot L' + \mathrm{diag}(\sigma)`.

    The mask has ones strictly below the diagonal, and row i of L' is :math:`\sigma_i / 10` times
    raw numbers: a step of the optimiser moves hundreds of them at once, which would drown the
    small scales of a posterior otherwise. They and :math:`(\mu, \sigma)` come from the network, or
    all but :math:`\mu` are learned once for all rows. A head of d squared outputs, and scoring
    costs d squared a row: for some hundreds of elements at most.

    Args:
        shape: the event shape, of d elements in all.
        network: maps the parents to features; ``None`` for free parameters.
        covariance: ``"network"``, or ``"global"`` for one covariance shared by all rows.
        minimum_scale: the lower bound of :math:`\sigma`, in standardised units.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1,
    https://arxiv.org/abs/1906.02691

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = FullCovarianceGaussian(2, MLP(3, 8))
        >>> posterior(torch.zeros(5, 3)).covariance_matrix.shape
        torch.Size([5, 2, 2])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        covariance: str = "network",
        minimum_scale: float = 1e-3,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__()
        owner = "FullCovarianceGaussian"
        self.event_shape = event_shape_of(shape, owner)
        self.minimum_scale = minimum_scale
        elements = self.event_shape.numel()
        own = elements + elements * elements  # sigma and L'
        self.head, self.free = _heads(network, covariance, elements, own, owner)
        self.units = optional_units(units, self.event_shape, owner)

    def forward(self, *parents: Tensor) -> FullCovarianceNormal:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        elements = self.event_shape.numel()
        loc, raw, below = _split(self.head, self.free, parents, [elements, elements**2])
        below = below.reshape(*below.shape[:-1], elements, elements)
        scale = positive(raw, self.minimum_scale)
        factor = torch.diag_embed(scale) + scale.unsqueeze(-1) * (_STEP * below.tril(-1))
        loc = loc.reshape(*loc.shape[:-1], *self.event_shape)
        if self.units is not None:
            loc = self.units.mean + self.units.std * loc
            factor = self.units.std.reshape(-1, 1) * factor
        return FullCovarianceNormal(loc, factor, len(self.event_shape))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)


class LowRankGaussian(nn.Module):
    r"""Gaussian with covariance :math:`W W^T + \mathrm{diag}(\sigma^2)`.

    Linear in the number of elements, so fit for a likelihood of many elements whose errors go
    together, or for a posterior between the diagonal and the full one.

    Args:
        shape: the event shape, of d elements in all.
        network: maps the parents to features; ``None`` for free parameters.
        rank: the number of columns of W.
        covariance: ``"network"``, or ``"global"`` for one covariance shared by all rows.
        family: ``LowRankNormal``; ``LowRankPrecisionNormal`` makes the precision
            :math:`\mathrm{diag}(\sigma^{-2}) + W W^T` instead, as Rezende et al. do.
        minimum_scale: the lower bound of :math:`\sigma`, in standardised units.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et
    al., 2014), https://arxiv.org/abs/1401.4082

    Examples:
        >>> from deeplvm.networks import MLP
        >>> likelihood = LowRankGaussian(784, MLP(20, 50), rank=3)
        >>> likelihood(torch.zeros(5, 20)).log_prob(torch.zeros(5, 784)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        rank: int = 1,
        covariance: str = "network",
        family: Callable[..., MultivariateNormal] = LowRankNormal,
        minimum_scale: float = 1e-3,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__()
        owner = "LowRankGaussian"
        self.event_shape = event_shape_of(shape, owner)
        if rank < 1:
            raise ValueError(
                f"{owner} expects a rank of at least 1, found {rank}; for none use Gaussian."
            )
        self.rank = rank
        self.family = family
        self.minimum_scale = minimum_scale
        elements = self.event_shape.numel()
        self.head, self.free = _heads(network, covariance, elements, elements * (1 + rank), owner)
        self.units = optional_units(units, self.event_shape, owner)
        if self.free is not None:
            # W = 0 is a saddle: its gradient vanishes there
            nn.init.normal_(self.free[elements:], std=0.1)
        elif network is None:
            nn.init.normal_(self.head.free.data[0, 2 * elements :], std=0.1)

    def forward(self, *parents: Tensor) -> MultivariateNormal:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        elements = self.event_shape.numel()
        loc, raw, flat = _split(self.head, self.free, parents, [elements, elements * self.rank])
        factor = flat.reshape(*flat.shape[:-1], elements, self.rank)
        scale = positive(raw, self.minimum_scale)
        loc = loc.reshape(*loc.shape[:-1], *self.event_shape)
        if self.units is not None:
            std = self.units.std.reshape(-1)
            loc, scale = self.units.mean + self.units.std * loc, std * scale
            inverse = self.family is not LowRankNormal
            factor = factor / std.unsqueeze(-1) if inverse else factor * std.unsqueeze(-1)
        return self.family(loc, factor, scale, len(self.event_shape))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)


def _heads(
    network: nn.Module | None, covariance: str, elements: int, own: int, owner: str
) -> tuple[Head, nn.Parameter | None]:
    """A head for the mean and, where they come from the network, the covariance's parameters."""
    if covariance == "network":
        return Head(network, Size((elements + own,)), 1, owner), None
    if covariance == "global":
        return Head(network, Size((elements,)), 1, owner), nn.Parameter(torch.zeros(own))
    raise ValueError(
        f"{owner} expects covariance 'network' or 'global', found {covariance!r}; for a diagonal "
        "one use Gaussian."
    )


def _split(
    head: Head, free: nn.Parameter | None, parents: tuple[Tensor, ...], sizes: list[int]
) -> Sequence[Tensor]:
    """The mean, the raw scales and the rest, each ``(*particles, batch, size)``."""
    (raw,) = head.each(*parents)
    elements = sizes[0]
    if free is None:
        return raw.split([elements, *sizes], -1)
    return raw, *free.split(sizes)
