r"""Hamiltonian Monte Carlo transitions of many chains at once, one a particle and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deeplvm.randomness import AMBIENT, Noise


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

    def log_density(self, beta: Tensor | float) -> Tensor:
        r""":math:`(1 - \beta) \log f_0 + \beta \log f_1`, one :math:`\beta` or one a row."""
        found = (1.0 - beta) * self.start + beta * self.end
        # at an end the other density has no say, even where it is zero
        return torch.where(torch.as_tensor(beta == 1.0, device=found.device), self.end, found)

    def slope(self, beta: Tensor | float) -> Tensor:
        r""":math:`\nabla \log f_\beta`."""
        if isinstance(beta, Tensor):
            beta = beta.unsqueeze(-1).to(self.free)
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
    evaluate: Evaluate,
    point: Point,
    beta: Tensor | float,
    step_size: Tensor,
    steps: int,
    noise: Noise = AMBIENT,
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
        beta: Of the density, one or of each row.
        step_size: Their mean, shape ``(rows,)`` or broadcastable to ``(particles, rows)``.
        steps: L.
        noise: Where random numbers come from.
    """
    size = (step_size * (0.5 + noise.uniform_like(point.start))).unsqueeze(-1)
    momentum = noise.normal_like(point.free)
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
    accepted = noise.uniform_like(probability) < probability
    return Moved(there.where(accepted, point), probability)


TARGET = 0.8
"""Acceptance that step sizes aim at, as in Stan; 0.65, the optimum of one long chain in many
dimensions, is at the edge of stability in few."""
_GAIN = 0.3


def adapted(step_size: Tensor, probability: Tensor, gain: float = _GAIN) -> Tensor:
    r"""Step sizes after a look at their chains' acceptance.

    .. math:: \log \epsilon \leftarrow \log \epsilon + g\, (\bar a - a^*)

    Args:
        step_size: :math:`\epsilon` of each row, ``(rows,)``, or of each chain.
        probability: Of moving, shape ``(particles, rows)``.
        gain: g.
    """
    seen = probability if step_size.dim() == probability.dim() else probability.mean(0)
    return step_size * (gain * (seen - TARGET)).exp().to(step_size)


_FIRST, _LAST = 0.15, 0.1  # of warm-up, in which only the step size is sought
_WINDOW = 25  # draws of the first window of scales; each next one is twice as long


class DualAveraging:
    r"""A step size for each row, whose acceptance tends to a target.

    .. math:: \log \epsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma} \frac{1}{t + t_0}
              \sum_{i \le t} (a^* - a_i)

    with :math:`\gamma = 0.05`, :math:`t_0 = 10`, and at the end the weighted mean of
    :math:`\log \epsilon_t` with weights :math:`t^{-0.75}`.

    The No-U-Turn Sampler (Hoffman & Gelman, 2014), section 3.2, https://arxiv.org/abs/1111.4246

    Args:
        step_size: To begin with, shape ``(rows,)``.
        target: :math:`a^*`.
    """

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: Tensor) -> None:
        """Forget what was seen; larger steps are tried first."""
        self.step_size = step_size
        self.centre = (10.0 * step_size).log()
        self.error = torch.zeros_like(step_size)
        self.mean = torch.zeros_like(step_size)
        self.count = 0

    def update(self, acceptance: Tensor) -> None:
        """Another look: the mean acceptance of each row's chains, shape ``(rows,)``."""
        self.count += 1
        rate = 1.0 / (self.count + 10.0)
        self.error = (1.0 - rate) * self.error + rate * (self.target - acceptance)
        log_size = self.centre - self.count**0.5 / 0.05 * self.error
        weight = self.count**-0.75
        self.mean = weight * log_size + (1.0 - weight) * self.mean
        self.step_size = log_size.exp()

    @property
    def averaged(self) -> Tensor:
        """The step size to keep, shape ``(rows,)``."""
        return self.mean.exp() if self.count else self.step_size


class Spread:
    """Mean and variance of what chains passed through, one of each row and dimension (Welford).

    Args:
        free: The first places, shape ``(chains, rows, D)``, for the shape alone.
    """

    def __init__(self, free: Tensor) -> None:
        self.count, self.mean, self.squares = (
            0,
            torch.zeros_like(free[0]),
            torch.zeros_like(free[0]),
        )

    def add(self, free: Tensor) -> None:
        """One more place of every chain."""
        for each in free:
            self.count += 1
            change = each - self.mean
            self.mean = self.mean + change / self.count
            self.squares = self.squares + change * (each - self.mean)

    def scale(self, before: Tensor) -> Tensor:
        """Standard deviations ``(rows, D)``, drawn a little to those before (as in Stan)."""
        share = self.count / (self.count + 5.0)
        variance = self.squares / max(1, self.count - 1)
        scale = (share * variance + (1.0 - share) * 1e-3 * before.square()).sqrt()
        return torch.where(torch.isfinite(scale) & (scale > 0), scale, before)


def windows(warmup: int) -> tuple[int, list[int]]:
    """After which transition of warm-up scales are looked for, and after which they are renewed.

    >>> windows(300)
    (45, [70, 120, 270])
    """
    last = max(int(_LAST * warmup), min(_WINDOW, warmup // 3))
    start, stop = int(_FIRST * warmup), warmup - last
    ends, length, at = [], _WINDOW, start
    while at + length <= stop:
        # the last window takes what is left, rather than leave a short one
        at = stop if at + 3 * length > stop else at + length
        ends.append(at)
        length *= 2
    return start, ends
