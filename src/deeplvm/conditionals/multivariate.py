"""Gaussians of correlated elements."""

from __future__ import annotations

from collections.abc import Callable

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
    raw_of,
    standardised,
)
from deeplvm.distributions.multivariate_normal import (
    FullCovarianceNormal,
    LowRankNormal,
    MultivariateNormal,
)

_STEP = 0.1  # of an element of L', in units of its row's scale


class Correlated(nn.Module):
    r"""A Gaussian of d elements that go together; a structure of covariance is a subclass.

    Args:
        shape: the event shape, of d elements in all.
        network: maps the parents to features; ``None`` for free parameters.
        covariance: ``"network"``, or ``"global"`` for one covariance shared by all rows.
        own: how many raw numbers a covariance has.
        minimum_scale: the lower bound of :math:`\sigma`, in standardised units.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.
    """

    def __init__(
        self,
        shape: Shape,
        network: Network,
        covariance: str,
        own: int,
        minimum_scale: float,
        units: MeanAndStd | None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if covariance not in ("network", "global"):
            raise ValueError(
                f"{owner} expects covariance 'network' or 'global', found {covariance!r}; for a "
                "diagonal one use Gaussian."
            )
        self.event_shape = event_shape_of(shape, owner)
        self.minimum_scale = minimum_scale
        inside = covariance == "network"
        outputs = self.event_shape.numel() + own * inside
        self.head = Head(network, Size((outputs,)), 1, owner)
        self.free = None if inside else nn.Parameter(torch.zeros(own))
        self.units = optional_units(units, self.event_shape, owner)

    @property
    def affine(self) -> bool:
        """Whether its mean is affine in the parents, and its covariance the same for all."""
        return self.head.affine and self.free is not None

    def _split(self, parents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The mean ``(*particles, batch, *event)``, flat scales, and the rest, all raw numbers."""
        (raw,) = self.head.each(*parents)
        elements = self.event_shape.numel()
        loc, own = raw[..., :elements], raw[..., elements:] if self.free is None else self.free
        loc = loc.reshape(*loc.shape[:-1], *self.event_shape)
        return loc, own[..., :elements], own[..., elements:]

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)


class FullCovarianceGaussian(Correlated):
    r"""Gaussian :math:`N(\mu, L L^T)` with :math:`L = L_{mask} \odot L' + \mathrm{diag}(\sigma)`.

    The mask has ones strictly below the diagonal, and row i of L' is :math:`\sigma_i / 10` times
    raw numbers: a step of the optimiser moves hundreds of them at once, which would drown the
    small scales of a posterior otherwise. They and :math:`(\mu, \sigma)` come from the network, or
    all but :math:`\mu` are learned once for all rows. A head of d squared outputs, and scoring
    costs d squared a row: for some hundreds of elements at most.

    Arguments and shapes are those of :class:`Correlated`.

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
        elements = event_shape_of(shape, "FullCovarianceGaussian").numel()
        own = elements + elements * elements  # sigma and L'
        super().__init__(shape, network, covariance, own, minimum_scale, units)

    def forward(self, *parents: Tensor) -> FullCovarianceNormal:
        loc, factor = self.standard(*parents)
        if self.units is not None:
            loc = self.units.mean + self.units.std * loc
            factor = self.units.std.reshape(-1, 1) * factor
        return FullCovarianceNormal(loc, factor, len(self.event_shape))

    def standard(self, *parents: Tensor) -> tuple[Tensor, Tensor]:
        """The mean ``(*particles, batch, *event)`` and L ``(..., d, d)`` in standardised units."""
        elements = self.event_shape.numel()
        loc, raw, below = self._split(parents)
        below = below.reshape(*below.shape[:-1], elements, elements)
        scale = positive(raw, self.minimum_scale)
        return loc, torch.diag_embed(scale) + scale.unsqueeze(-1) * (_STEP * below.tril(-1))

    def raw(self, factor: Tensor) -> Tensor:
        """The raw numbers ``(d + d d,)`` that stand for L, of no smaller scales than the least."""
        scale = factor.diagonal()
        below = (factor / (_STEP * scale.unsqueeze(-1))).tril(-1)
        return torch.cat([raw_of((scale - self.minimum_scale).clamp(min=1e-12)), below.flatten()])


class LowRankGaussian(Correlated):
    r"""Gaussian with covariance :math:`W W^T + \mathrm{diag}(\sigma^2)`.

    Linear in the number of elements, so fit for a likelihood of many elements whose errors go
    together, or for a posterior between the diagonal and the full one.

    Args:
        rank: the number of columns of W.
        family: ``LowRankNormal``; ``LowRankPrecisionNormal`` makes the precision
            :math:`\mathrm{diag}(\sigma^{-2}) + W W^T` instead, as Rezende et al. do.

    Further arguments and shapes are those of :class:`Correlated`.

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
        if rank < 1:
            raise ValueError(
                f"LowRankGaussian expects a rank of at least 1, found {rank}; for none use "
                "Gaussian."
            )
        elements = event_shape_of(shape, "LowRankGaussian").numel()
        own = elements * (1 + rank)
        super().__init__(shape, network, covariance, own, minimum_scale, units)
        self.rank, self.family = rank, family
        if self.free is not None:
            # W = 0 is a saddle: its gradient vanishes there
            nn.init.normal_(self.free[elements:], std=0.1)
        elif network is None:
            nn.init.normal_(self.head.free.data[0, 2 * elements :], std=0.1)

    def forward(self, *parents: Tensor) -> MultivariateNormal:
        loc, raw, flat = self._split(parents)
        factor = flat.reshape(*flat.shape[:-1], -1, self.rank)
        scale = positive(raw, self.minimum_scale)
        if self.units is not None:
            std = self.units.std.reshape(-1)
            loc, scale = self.units.mean + self.units.std * loc, std * scale
            inverse = self.family is not LowRankNormal
            factor = factor / std.unsqueeze(-1) if inverse else factor * std.unsqueeze(-1)
        return self.family(loc, factor, scale, len(self.event_shape))
