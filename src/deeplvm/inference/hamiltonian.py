r"""Hamiltonian Monte Carlo transitions of many chains at once, one a particle and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Point(NamedTuple):
    r"""Where chains stand: free numbers u, two log-densities, and their gradients.

    The density that a transition leaves as it is, is
    :math:`f_\beta = f_0^{1 - \beta} f_1^\beta`; both ends are kept apart, so that another
    :math:`\beta` costs no evaluation.

    Attributes:
        free: u, shape ``(particles, rows, D)``.
        start: :math:`\log f_0(u)`, shape ``(particles, rows)``, nats.
        end: :math:`\log f_1(u)`.
        start_slope: :math:`\nabla \log f_0`, of the shape of u.
        end_slope: :math:`\nabla \log f_1`.
    """

    free: Tensor
    start: Tensor
    end: Tensor
    start_slope: Tensor
    end_slope: Tensor

    def log_density(self, beta: float) -> Tensor:
        r""":math:`(1 - \beta) \log f_0 + \beta \log f_1`."""
        return (1.0 - beta) * self.start + beta * self.end

    def slope(self, beta: float) -> Tensor:
        r""":math:`\nabla \log f_\beta`."""
        return torch.lerp(self.start_slope, self.end_slope, beta)

    def where(self, chosen: Tensor, other: Point) -> Point:
        """This point where ``chosen``, shape ``(particles, rows)``, the other elsewhere."""
        wide = chosen.unsqueeze(-1)
        return Point(
            torch.where(wide, self.free, other.free),
            torch.where(chosen, self.start, other.start),
            torch.where(chosen, self.end, other.end),
            torch.where(wide, self.start_slope, other.start_slope),
            torch.where(wide, self.end_slope, other.end_slope),
        )


# u -> the point there
Evaluate = Callable[[Tensor], Point]


class Moved(NamedTuple):
    """Where chains are after a transition, and with what probability each would have moved.

    Attributes:
        point: The new one, or the old where the move was refused.
        probability: Of moving, shape ``(particles, rows)``.
    """

    point: Point
    probability: Tensor


def transition(
    evaluate: Evaluate, point: Point, beta: float, step_size: Tensor, steps: int
) -> Moved:
    r"""One Hamiltonian transition, which leaves :math:`f_\beta` as it is.

    A momentum :math:`v \sim N(0, I)`, L leapfrog steps, and acceptance with probability
    :math:`\min(1, e^{H - H'})`, :math:`H = -\log f_\beta(u) + \tfrac12 |v|^2`. It is reversible.
    It costs L evaluations. Each chain takes steps of its own, uniform between half and one and a
    half of the size given: with one length for all, a chain may return to where it began.

    MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901

    Args:
        evaluate: The point at free numbers.
        point: Where the chains stand.
        beta: Of the density.
        step_size: Their mean, shape ``(rows,)`` or broadcastable to ``(particles, rows)``.
        steps: L.
    """
    size = (step_size * (0.5 + torch.rand_like(point.start))).unsqueeze(-1)
    momentum = torch.randn_like(point.free)
    before = point.log_density(beta) - 0.5 * momentum.square().sum(-1)
    there, free = point, point.free
    momentum = momentum + 0.5 * size * there.slope(beta)
    for step in range(steps):
        free = free + size * momentum
        there = evaluate(free)
        half = 0.5 if step == steps - 1 else 1.0
        momentum = momentum + half * size * there.slope(beta)
    after = there.log_density(beta) - 0.5 * momentum.square().sum(-1)
    # a chain that left the numbers (an infinite slope) stays where it was
    change = torch.nan_to_num(after - before, nan=-torch.inf, posinf=-torch.inf)
    probability = change.clamp(max=0.0).exp()
    accepted = torch.rand_like(probability) < probability
    return Moved(there.where(accepted, point), probability)


def adapted(step_size: Tensor, probability: Tensor, target: float, gain: float) -> Tensor:
    r"""The step size of each row after a look at its chains' acceptance.

    .. math:: \log \epsilon \leftarrow \log \epsilon + g\, (\bar a - a^*)

    Args:
        step_size: :math:`\epsilon`, shape ``(rows,)``.
        probability: Of moving, shape ``(particles, rows)``.
        target: :math:`a^*`.
        gain: g.
    """
    return step_size * (gain * (probability.mean(0) - target)).exp()
