"""Whole numbers as what continuous values are rounded down to: dequantization as a latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.heads import (
    MeanAndStd,
    Network,
    Shape,
    event_shape_of,
    optional_units,
    standardised,
)
from deeplvm.core.trace import draw_with_log_prob

_NONE = Size()


class RoundedDown(nn.Module):
    r"""The whole number below a continuous value.

    .. math:: p(x | v) = 1 \text{ where } x = \lfloor v \rfloor \text{, else } 0, \qquad
              P(x) = \int_{[x, x + 1)^D} p(v)\, dv

    With a density of v it gives whole numbers a probability, of which a q(v | x) that stays in
    the cell of x gives a lower bound; see :class:`Dequantized`.

    Args:
        shape: the event shape.
        levels: how many whole numbers there are, 0 to levels - 1: what lies beyond counts as the
            nearest. Without it they have no end.
        noisy: whether x is the whole number and noise of U[0, 1), which has the density 1 in its
            cell.

    Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture
    Design (Ho et al., 2019), https://arxiv.org/abs/1902.00275

    Examples:
        >>> RoundedDown(2, levels=4)(torch.tensor([1.5, 7.0])).sample()
        tensor([1., 3.])
    """

    def __init__(self, shape: Shape, levels: int | None = None, *, noisy: bool = False) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "RoundedDown")
        self.levels, self.noisy = levels, noisy

    accepts_missing = True  # it reads v as it is, not as a flow shows it to networks

    def forward(self, value: Tensor) -> Rounded:
        """The distribution given v, of v's shape."""
        return Rounded(value, len(self.event_shape), self.levels, noisy=self.noisy)


class Rounded(Distribution):
    """What :class:`RoundedDown` returns: all its mass is at one value, or in one cell.

    A value on the edge of two cells, to which single precision may round a draw, is in both.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False
    in_cells = True  # chains of v ask: its density is 1 or 0

    def __init__(
        self, value: Tensor, event_dims: int, levels: int | None = None, *, noisy: bool = False
    ) -> None:
        self.value, self.event_dims, self.levels, self.noisy = value, event_dims, levels, noisy
        cut = value.dim() - event_dims
        super().__init__(value.shape[:cut], value.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        base = constraints.real if self.noisy else constraints.nonnegative_integer
        return constraints.independent(base, self.event_dims)

    def expand(self, batch_shape: Any, _instance: object = None) -> Rounded:
        value = self.value.expand(Size(batch_shape) + self.event_shape)
        return Rounded(value, self.event_dims, self.levels, noisy=self.noisy)

    @property
    def mode(self) -> Tensor:
        last = None if self.levels is None else self.levels - 1
        return self.value.floor().clamp(None if last is None else 0, last)

    @property
    def mean(self) -> Tensor:
        return self.mode + 0.5 if self.noisy else self.mode

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.value, 1 / 12 if self.noisy else 0.0)

    def sample(self, sample_shape: Any = _NONE) -> Tensor:
        whole = self.mode.expand(self._extended_shape(sample_shape))
        return whole + torch.rand_like(whole) if self.noisy else whole

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.floor() if self.noisy else value
        inside = (value <= self.value) & (self.value <= value + 1)
        if self.levels is not None:
            inside = inside | (value == self.mode)
        there = inside.flatten(-self.event_dims).all(-1) if self.event_dims else inside
        return torch.where(there, 0.0, -torch.inf).to(self.value.dtype)


class Dequantized(nn.Module):
    r"""A continuous value in the cell of a whole number, :math:`v = x + u` with u in [0, 1).

    The noise u is uniform; or :math:`u = \sigma(y)` with :math:`y \sim q(y | x)`, a conditional
    that learns where in its cell a value had best lie (variational dequantization):

    .. math:: \log q(v | x) = \log q(y | x) - \sum_i \log u_i (1 - u_i)

    Args:
        shape: the event shape.
        noise: q(y | x), such as a flow; uniform noise without one.
        units: mean and standard deviation of x, in units of which ``noise`` sees it.
        noisy: whether x has noise already, which is taken off first.

    Shape:
        x of shape ``(batch, *event)``, without missing elements.

    Examples:
        >>> cell = Dequantized(2)(torch.tensor([[3.0, 0.0]]))
        >>> cell.log_prob(torch.tensor([[3.5, 0.25], [3.5, 1.25]]))
        tensor([0., -inf])
    """

    def __init__(
        self,
        shape: Shape,
        noise: Network = None,
        *,
        units: MeanAndStd | None = None,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Dequantized")
        self.noise, self.noisy = noise, noisy
        self.units = optional_units(units, self.event_shape, "Dequantized")

    def forward(self, x: Tensor) -> Cell:
        """The distribution given x."""
        x = x.floor() if self.noisy else x
        noise = None if self.noise is None else self.noise(standardised(self.units, x))
        return Cell(x, noise, len(self.event_shape))


class Cell(Distribution):
    """What :class:`Dequantized` returns.

    Args:
        low: x, shape ``(*batch, *event)``.
        noise: Of y, batch shape ``(*batch)``; none where u is uniform.
        event_dims: How many of the last dimensions are the event.
        batch_shape: The batch shape, where it is larger than that of x.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = True

    def __init__(
        self,
        low: Tensor,
        noise: Distribution | None,
        event_dims: int,
        batch_shape: Size | None = None,
    ) -> None:
        self.low, self.noise, self.event_dims = low, noise, event_dims
        cut = low.dim() - event_dims
        shape = low.shape[:cut] if batch_shape is None else batch_shape
        super().__init__(shape, low.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, self.event_dims)

    def expand(self, batch_shape: Any, _instance: object = None) -> Cell:
        shape = Size(batch_shape)
        noise = None if self.noise is None else self.noise.expand(shape)
        return Cell(self.low, noise, self.event_dims, shape)

    @property
    def mean(self) -> Tensor:
        if self.noise is not None:
            raise NotImplementedError
        return (self.low + 0.5).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Any = _NONE) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = _NONE) -> tuple[Tensor, Tensor]:
        """A draw and its log-density, nats."""
        if self.noise is None:
            shape = self._extended_shape(sample_shape)
            unit = torch.rand(shape, dtype=self.low.dtype, device=self.low.device)
            return self.low + unit, unit.new_zeros(shape[: len(shape) - self.event_dims])
        y, log_prob = draw_with_log_prob(self.noise.expand(Size(sample_shape) + self.batch_shape))
        return self.low + torch.sigmoid(y), log_prob - self._log_slope(y)

    def log_prob(self, value: Tensor) -> Tensor:
        unit = value - self.low
        inside = self._all((unit >= 0) & (unit <= 1))
        if self.noise is None:
            return torch.where(inside, 0.0, -torch.inf).to(value.dtype)
        y = torch.logit(unit, torch.finfo(value.dtype).eps)
        return torch.where(inside, self.noise.log_prob(y) - self._log_slope(y), -torch.inf)

    def _log_slope(self, y: Tensor) -> Tensor:
        each = logsigmoid(y) + logsigmoid(-y)
        return each.flatten(-self.event_dims).sum(-1) if self.event_dims else each

    def _all(self, true: Tensor) -> Tensor:
        return true.flatten(-self.event_dims).all(-1) if self.event_dims else true
