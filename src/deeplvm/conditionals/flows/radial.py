"""Radial flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplvm.conditionals.flows.flow import Flow
from deeplvm.conditionals.flows.vectors import VectorTransform
from deeplvm.conditionals.heads import at_least, positive

# The smallest alpha, and the smallest slope of the radius as a step maps it.
_SMALLEST = 1e-3


def radial(value: Tensor, centre: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""One radial step, :math:`z' = z + \beta h(r) (z - z_0)`, and its log-determinant.

    .. math:: r = \|z - z_0\|, \quad h(r) = \frac{1}{\alpha + r}, \qquad
              \log|\det| = (d - 1) \log(1 + \beta h) + \log(1 + \beta h + \beta h' r)

    Args:
        value: z, shape ``(*leading, d)``.
        centre: :math:`z_0`, shape ``(*leading, d)``.
        alpha: positive, shape ``(*leading, 1)``.
        beta: above :math:`-\alpha`, shape ``(*leading, 1)``.

    Examples:
        >>> z, centre = torch.tensor([0.3, -0.8]), torch.tensor([0.1, 0.2])
        >>> z, log_det = radial(z, centre, torch.tensor([1.0]), torch.tensor([0.5]))
        >>> print(f"{z[0]:.6f} {z[1]:.6f} {log_det:.6f}")
        0.349510 -1.047549 0.336793
    """
    offset = value - centre
    radius = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    pull = beta / (alpha + radius)
    return value + pull * offset, _log_det(pull, radius, alpha, value.shape[-1])


def radial_inverse(
    value: Tensor, centre: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The z of a radial step, and the step's log-determinant there.

    Its radius is the root of :math:`r^2 + (\alpha + \beta - r') r - \alpha r' = 0` that is not
    negative.
    """
    offset = value - centre
    after = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    excess = after - alpha - beta
    larger = (excess.abs() + torch.sqrt(excess.square() + 4 * alpha * after)) / 2
    # the roots' product is -alpha r': the smaller one is had without cancellation
    radius = torch.where(excess > 0, larger, alpha * after / larger)
    pull = beta / (alpha + radius)
    return centre + offset / (1 + pull), _log_det(pull, radius, alpha, value.shape[-1])


def _log_det(pull: Tensor, radius: Tensor, alpha: Tensor, features: int) -> Tensor:
    # beta h + beta h' r = beta h (1 - r / (alpha + r))
    across, along = torch.log1p(pull), torch.log1p(pull * alpha / (alpha + radius))
    return ((features - 1) * across + along).squeeze(-1)


class Radial(VectorTransform):
    r"""A radial step whose :math:`z_0`, :math:`\alpha`, :math:`\beta` are raw numbers of its own.

    :math:`\beta = \alpha (g - 1)` with a positive g, the step's slope at its centre: so
    :math:`\beta > -\alpha`, and raw numbers of 0 make no step.

    Args:
        shape: the event shape, of d elements in all.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape)
        self.parameters_per_row = self.features + 2

    def _read(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centre, alpha, beta = context.split([self.features, 1, 1], -1)
        alpha = positive(alpha, _SMALLEST)
        return centre, alpha, alpha * (positive(beta, _SMALLEST, 1 - _SMALLEST) - 1)

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return radial(value, *self._read(context))

    def move_back(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return radial_inverse(value, *self._read(context))

    def start(self, raw: Tensor) -> None:
        """No step, around centres that differ from one transform to the next."""
        raw[: self.features].normal_()


class RadialFlow(Flow):
    r"""A Gaussian draw pulled to or pushed from points, one a step.

    .. math:: z_t = z_{t-1} + \beta_t h(\alpha_t, r_t) (z_{t-1} - z_{0,t}), \qquad
              r_t = \|z_{t-1} - z_{0,t}\|, \quad h(\alpha, r) = \frac{1}{\alpha + r}

    :math:`(z_0, \alpha, \beta)` of every step come from the network, row by row; :func:`radial`
    has the determinant. A step costs d operations. The inverse is in closed form, the root of a
    quadratic equation.

    Args:
        shape: the event shape, of d elements in all.
        network: maps the parents to features; without one all parameters are free.
        transforms: number of steps.
        minimum_scale: lower bound of the first draw's scale.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770

    Examples:
        >>> prior = RadialFlow(2, transforms=3)
        >>> prior().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        transforms: int = 8,
        minimum_scale: float = 1e-3,
        units: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        number = at_least(transforms, 1, type(self).__name__, "transforms")
        super().__init__(
            shape,
            network,
            [Radial(shape) for _ in range(number)],
            minimum_scale=minimum_scale,
            units=units,
        )
