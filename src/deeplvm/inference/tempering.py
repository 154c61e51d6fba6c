r"""The walk of annealed importance sampling, from a density that is drawn from to the posterior.

Chains move along :math:`f_t = f_0^{1 - \beta_t}\, p(x, z)^{\beta_t}` by Hamiltonian transitions,
and each collects a weight on its way; the same walk goes backwards from a draw of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from deeplvm.gradients import Draw, Enumerated
from deeplvm.inference.hmc import Point, adapted, transition
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import at_least

Start = Literal["prior", "posterior"]
_TARGET = 0.8  # of the acceptance: higher than what is best for one long chain, see hamiltonian
_LENGTH = 0.5  # of a pilot's step, in standard deviations of the log-weight that it adds
_MOST = 200  # pilot temperatures
_CHAINS = 64  # of a pilot at least, all rows together; four a row
_GAIN = 0.5


class Walk:
    r"""From one end of the path to the other, and back.

    A pilot run chooses the temperatures, for all rows together, and the step sizes. With
    transitions that forget where they began, a log-weight has the variance
    :math:`\sum_t (\beta_t - \beta_{t-1})^2 v(\beta_t)`, :math:`v(\beta)` being that of
    :math:`\log p(x, z) - \log f_0(z)` under :math:`f_\beta`; it is least where every step has the
    same length :math:`(\beta_t - \beta_{t-1}) \sqrt{v}`. A schedule that is the same for all data
    takes its first steps far too long where the data say much.

    Annealing Between Distributions by Averaging Moments (Grosse, Maddison & Salakhutdinov, 2013),
    section 3, https://papers.nips.cc/paper/2013/hash/fb60d411a5c5b72b2e7d3527cfc84fd0-Abstract.html

    Args:
        space: The latents of some rows, at least one of them continuous.
        start: The density at the first end.
        temperatures: How many steps there are between them.
        steps: Leapfrog steps a transition.

    Attributes:
        betas: :math:`\beta_0 = 0 < \dots < \beta_T = 1`.
        sizes: Step size of each inner temperature and row, shape ``(T - 1, rows)``; one row of
            sizes if there is none.
    """

    def __init__(self, space: LatentSpace, start: Start, temperatures: int, steps: int) -> None:
        self.space, self.start, self.steps = space, start, steps
        points, sizes = self._pilot()
        at = torch.linspace(0, len(points) - 1, temperatures + 1, dtype=torch.float64)
        below = at.long().clamp(max=len(points) - 2)
        found = torch.lerp(points[below], points[below + 1], at - below)
        self.betas = [0.0, *found[1:-1].tolist(), 1.0]
        nearest = at[1:-1].round().long() if temperatures > 1 else torch.ones(1).long()
        self.sizes = sizes[nearest.clamp(max=len(sizes) - 1).to(sizes.device)]

    def forward(self, particles: int) -> dict[str, Tensor]:
        """Log-weights ``(particles, rows)``, and acceptance and step sizes of each row."""
        point = self._evaluate(self._first(particles))
        log_weight = torch.zeros_like(point.start, dtype=torch.float64)
        accepted = torch.zeros_like(log_weight[0])
        for t in range(1, len(self.betas)):
            log_weight += (self.betas[t] - self.betas[t - 1]) * (point.end - point.start).double()
            if t < len(self.betas) - 1:
                size = self.sizes[t - 1]
                point, moved = transition(self._evaluate, point, self.betas[t], size, self.steps)
                accepted += moved.double().mean(0)
        return self._found(log_weight, accepted)

    def backward(self, exact: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""The same from exact draws of the posterior, whose weights have the mean :math:`1/p(x)`.

        The log-weights returned are those of the way there: their negatives are to be averaged.
        """
        point = self._evaluate(self.space.free_of(exact))
        log_weight = torch.zeros_like(point.start, dtype=torch.float64)
        accepted = torch.zeros_like(log_weight[0])
        for t in range(len(self.betas) - 1, 0, -1):
            log_weight += (self.betas[t] - self.betas[t - 1]) * (point.end - point.start).double()
            if t > 1:
                size, beta = self.sizes[t - 2], self.betas[t - 1]
                point, moved = transition(self._evaluate, point, beta, size, self.steps)
                accepted += moved.double().mean(0)
        return self._found(log_weight, accepted)

    def _found(self, log_weight: Tensor, accepted: Tensor) -> dict[str, Tensor]:
        transitions = len(self.betas) - 2
        return {
            "log_weight": log_weight,
            "acceptance": accepted / transitions if transitions else accepted * math.nan,
            "step_size": self.sizes.double().mean(0),
        }

    def _pilot(self) -> tuple[Tensor, Tensor]:
        """Temperatures a certain length apart, and at each of them a step size for each row."""
        point = self._evaluate(self._first(max(4, -(-_CHAINS // self.space.rows))))
        size = 0.5 * torch.ones_like(point.start[0]) / max(1.0, self.space.size**0.25)
        betas, sizes = [0.0], []
        for _ in range(10):  # at the first density, until the step size fits it
            point, moved = transition(self._evaluate, point, 0.0, size, self.steps)
            size = adapted(size, moved, _TARGET, _GAIN)
        while betas[-1] < 1.0:
            sizes.append(size)
            spread = (point.end - point.start).var(0).nanmean().sqrt().item()
            least = (1.0 - betas[-1]) / max(1, _MOST - len(betas))
            step = _LENGTH / spread if spread > 0 else 1.0
            if len(betas) > _MOST // 2:  # so that it ends
                step = max(step, least)
            betas.append(min(1.0, betas[-1] + step))
            for _ in range(2):
                point, moved = transition(self._evaluate, point, betas[-1], size, self.steps)
                size = adapted(size, moved, _TARGET, _GAIN)
        return torch.tensor(betas, dtype=torch.float64), torch.stack([*sizes, size])

    def _first(self, particles: int) -> Tensor:
        draw = self.space.prior if self.start == "prior" else self.space.posterior
        return draw(particles)

    def _evaluate(self, free: Tensor) -> Point:
        """Both log-densities and their gradients: one pass there and one back through p(x | z)."""
        with torch.enable_grad():
            free = free.detach().requires_grad_()
            prior, likelihood = self.space.log_joint(free)
            if self.start == "prior":
                slope = _slope(prior, free, again=True)
                begin, end = prior.detach(), (prior + likelihood).detach()
                end_slope = slope + _slope(likelihood, free)
            else:
                density, joint = self.space.log_posterior(free), prior + likelihood
                begin, end = density.detach(), joint.detach()
                slope, end_slope = _slope(density, free), _slope(joint, free)
        return Point(free.detach(), begin, end, slope, end_slope)


def _slope(log_density: Tensor, free: Tensor, *, again: bool = False) -> Tensor:
    if not log_density.requires_grad:  # x that owes nothing to z
        return torch.zeros_like(free)
    (slope,) = torch.autograd.grad(
        log_density.sum(), free, retain_graph=again, materialize_grads=True
    )
    return slope


def log_mean(log_weight: Tensor) -> Tensor:
    """The log of the mean over the first dimension, which holds the chains."""
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def relative_stderr(log_weight: Tensor) -> Tensor:
    """Standard error of the mean weight over the mean; NaN for one chain."""
    count = len(log_weight)
    relative = (log_weight - log_mean(log_weight)).exp()
    spread = relative.std(0) if count > 1 else torch.full_like(relative[0], math.nan)
    return spread / math.sqrt(count)


def effective(log_weight: Tensor) -> Tensor:
    r"""Effective number of chains, :math:`(\sum w)^2 / \sum w^2`."""
    return (2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)).exp()


def exactly(space: LatentSpace) -> dict[str, Tensor]:
    """What a walk returns, where there is nothing to walk in: log p(x) as a sum over values."""
    prior, likelihood = space.log_joint(space.nowhere())
    log_px = (prior + likelihood).double()  # (1, rows)
    nothing = torch.full_like(log_px[0], torch.nan)
    return {"log_weight": log_px, "acceptance": nothing, "step_size": nothing}


def check(start: Start, draw: Mapping[str, Draw] | None, **numbers: int | None) -> None:
    """Refuse what is no walk."""
    at_least(1, **numbers)
    if start not in ("prior", "posterior"):
        raise ValueError(f"start is 'prior' or 'posterior', not {start!r}.")
    for name, way in (draw or {}).items():
        if not isinstance(way, Enumerated):
            raise ValueError(
                f"{name!r} is to be drawn by {type(way).__name__}; here chains draw what is "
                f"continuous, and draw is for discrete latents: {{{name!r}: Enumerated()}}."
            )
