"""Planar flow."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import softplus

from deeplvm.conditionals.flows.flow import Base, Flow
from deeplvm.conditionals.flows.vectors import VectorTransform, dot, solve_tanh_equation
from deeplvm.conditionals.heads import Network, Shape, positive
from deeplvm.registry import Count

# The paper's m(a) is zero here: an offset to a, so that a raw u of 0 makes no step at all.
NO_STEP = math.log(math.expm1(1.0))
# w^T u stays this far above -1, where the step would stop being invertible; m(a) goes below it
# for a < -14 only.
_MARGIN = 1e-6
# Below this squared length w has no direction to speak of.
_SHORT = 1e-8


def planar(value: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""One planar step, :math:`z' = z + u \tanh(w^T z + b)`, and its log-determinant.

    .. math:: \log|\det| = \log(1 + u^T w\, (1 - \tanh^2(w^T z + b)))

    Args:
        value: z, shape ``(*leading, d)``.
        u: shape ``(*leading, d)``, with :math:`w^T u > -1`; see :func:`invertible_direction`.
        w: shape ``(*leading, d)``.
        b: shape ``(*leading, 1)``.

    Examples:
        >>> z, u = torch.tensor([0.3, -0.8]), torch.tensor([0.7, -0.4])
        >>> z, log_det = planar(z, u, torch.tensor([1.2, 0.5]), torch.tensor([0.1]))
        >>> print(f"{z[0]:.6f} {z[1]:.6f} {log_det:.6f}")
        0.341950 -0.823971 0.493294
    """
    hidden = torch.tanh(dot(w, value) + b)
    return value + u * hidden, _log_det(u, w, hidden)


def planar_inverse(value: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""The z of :math:`z' = z + u \tanh(w^T z + b)`, and the step's log-determinant there.

    Along w it is the equation :math:`s + w^T u \tanh(s) = w^T z' + b` in
    :math:`s = w^T z + b`, and the step's length follows from s.
    """
    hidden = torch.tanh(solve_tanh_equation(dot(w, value) + b, inner_above_minus_one(u, w)))
    return value - u * hidden, _log_det(u, w, hidden)


def invertible_direction(u: Tensor, w: Tensor, offset: float = 0.0) -> Tensor:
    r"""The u nearest along w that makes a step invertible: :math:`w^T \hat u > -1`.

    .. math:: \hat u = u + (m(w^T u) - w^T u) \frac{w}{\|w\|^2}, \qquad
              m(a) = -1 + \log(1 + e^{a + \text{offset}})

    Args:
        u: shape ``(*leading, d)``.
        w: shape ``(*leading, d)``.
        offset: 0 in the paper; with :math:`\log(e - 1)` a u of 0 stays 0.
    """
    along = dot(w, u)
    wanted = softplus(along + offset).clamp_min(_MARGIN) - 1
    return u + (wanted - along) * w / dot(w, w).clamp_min(_SHORT)


def inner_above_minus_one(u: Tensor, w: Tensor) -> Tensor:
    """The inner product of w and an invertible u, which rounding must not carry to -1."""
    return dot(w, u).clamp_min(_MARGIN - 1)


def _log_det(u: Tensor, w: Tensor, hidden: Tensor) -> Tensor:
    return torch.log1p(inner_above_minus_one(u, w) * (1 - hidden.square())).squeeze(-1)


class Planar(VectorTransform):
    r"""A planar step whose u, w and b are raw numbers of its own, 2d + 1 a row.

    Args:
        shape: the event shape, of d elements in all.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.parameters_per_row = 2 * self.features + 1

    def _read(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, w, b = context.split([self.features, self.features, 1], -1)
        return invertible_direction(u, w, NO_STEP), w, b

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return planar(value, *self._read(context))

    def move_back(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return planar_inverse(value, *self._read(context))

    def start(self, raw: Tensor) -> None:
        """No step (u = 0), along directions that differ from one transform to the next."""
        w = raw[self.features : 2 * self.features].normal_()
        w /= w.norm().clamp_min(_SHORT)


class PlanarFlow(Flow):
    r"""A Gaussian draw moved by planar steps, each along one direction by one hidden unit.

    .. math:: z_t = z_{t-1} + \hat u_t \tanh(w_t^T z_{t-1} + b_t), \qquad
              \log|\det| = \log(1 + \hat u_t^T \psi_t), \quad
              \psi_t = (1 - \tanh^2(w_t^T z_{t-1} + b_t))\, w_t

    :math:`(u, w, b)` of every step come from the network, row by row, and
    :func:`invertible_direction` turns u into :math:`\hat u`. A step costs d operations and bends
    one direction, so many are needed where there are many dimensions; a Sylvester flow bends
    several at once. A value drawn elsewhere is scored by solving one scalar equation a step.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = PlanarFlow(2, MLP(6, 16), transforms=4)
        >>> z, log_q = posterior(torch.zeros(5, 6)).rsample_and_log_prob()
        >>> z.shape, log_q.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, transforms: Count = 8, **base: Unpack[Base]
    ) -> None:
        steps = self._steps(transforms, lambda _: Planar(shape))
        super().__init__(shape, network, steps, **base)


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
    return value + pull * offset, _radial_log_det(pull, radius, alpha, value.shape[-1])


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
    return centre + offset / (1 + pull), _radial_log_det(pull, radius, alpha, value.shape[-1])


def _radial_log_det(pull: Tensor, radius: Tensor, alpha: Tensor, features: int) -> Tensor:
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

    def __init__(self, shape: Shape) -> None:
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

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770

    Examples:
        >>> prior = RadialFlow(2, transforms=3)
        >>> prior().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, transforms: Count = 8, **base: Unpack[Base]
    ) -> None:
        steps = self._steps(transforms, lambda _: Radial(shape))
        super().__init__(shape, network, steps, **base)
