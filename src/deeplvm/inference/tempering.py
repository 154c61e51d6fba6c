r"""One walk from a density that is drawn from to the posterior, for every estimator that takes it.

Particles move along :math:`f_t = f_0^{1 - \beta_t}\, p(x, z)^{\beta_t}` by Hamiltonian
transitions, and each collects a weight on its way. Annealed importance sampling is this walk
without resampling, sequential Monte Carlo the one with it, and the curve of rates and distortions
is read off on the way. A pilot of particles of its own finds temperatures and step sizes, for each
row by itself, so that no row depends on those it is evaluated with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from deeplvm.gradients import Draw, Enumerated
from deeplvm.inference.hmc import Evaluate, Point, adapted, transition
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import at_least
from deeplvm.randomness import AMBIENT, Noise

Start = Literal["prior", "posterior"]
# A number of densities, or the temperatures themselves.
Temperatures = int | Sequence[float]

_FIRST_LOOKS, _LOOKS = 10, 3  # transitions by which the step size is found at a temperature
_PILOT_PARTICLES = 8  # of each row, where temperatures are spaced by the spread of a weight
_LENGTH = 0.5  # of a pilot's step, in standard deviations of the log-weight that it adds
_MOST = 200  # pilot temperatures
_SMALLEST = 1e-9  # step of a temperature


def density(
    space: LatentSpace, start: Start | None = None, scale: Tensor | None = None
) -> Evaluate:
    r""":math:`\log f_0` and :math:`\log p(x, z)` at free numbers, with their gradients.

    A particle thrown out of the numbers has no density, and stands at zero until its move is
    refused. A density that is NaN stays so: an estimate made of it is refused.

    Args:
        space: The latents of some rows.
        start: What :math:`f_0` is; left out it is :math:`p(x, z)` too, for chains that stay there.
        scale: Of the numbers, broadcastable to ``(particles, rows, D)``: u = scale times them.
    """

    def evaluate(free: Tensor) -> Point:
        lost = ~free.isfinite().all(-1)
        with torch.enable_grad():
            free = free.detach().masked_fill(lost.unsqueeze(-1), 0.0).requires_grad_()
            at = free if scale is None else scale * free
            prior, likelihood = space.log_joint(at)
            begin = prior if start == "prior" else None
            begin = space.log_posterior(at) if start == "posterior" else begin
            # one pass there, and one back through p(x | z)
            slope = _slope(prior, free, again=True)
            end_slope = slope + _slope(likelihood, free, again=start == "posterior")
            if start == "posterior":
                slope = _slope(begin, free)
        end = prior + likelihood
        begin, end = [
            each.detach().masked_fill(lost, -torch.inf)
            for each in (end if begin is None else begin, end)
        ]
        return Point(free.detach(), begin, end, slope if start else end_slope, end_slope)

    return evaluate


def _slope(log_density: Any, free: Tensor, *, again: bool = False) -> Tensor:
    if not log_density.requires_grad:  # x that owes nothing to z
        return torch.zeros_like(free)
    (slope,) = torch.autograd.grad(
        log_density.sum(), free, retain_graph=again, materialize_grads=True
    )
    return slope


class Chains:
    """Chains of some rows: where they stand, and the step sizes with which they move.

    Args:
        space: The latents of the rows.
        free: Where they begin, shape ``(particles, rows, D)``.
        steps: Leapfrog steps a transition.
        start: The density at the other end, see :func:`density`.
        noise: Of the rows; that of the space if left out.

    Attributes:
        point: Where they stand.
        size: Step size of each row, ``(rows,)``, or of each chain.
    """

    def __init__(
        self,
        space: LatentSpace,
        free: Tensor,
        steps: int,
        start: Start | None = None,
        noise: Any = None,
    ) -> None:
        self.evaluate, self.steps = density(space, start), steps
        self.noise = space.noise if noise is None else noise
        self.point = self.evaluate(free)
        self.size = torch.full_like(self.point.start[0], 0.5 / max(1.0, space.size**0.25))

    @property
    def change(self) -> Tensor:
        """What a step of the temperature by one adds to a log-weight, ``(particles, rows)``."""
        return (self.point.end - self.point.start).double()

    def move(self, beta: Tensor | float = 1.0, *, adapt: bool = False) -> Tensor:
        """One transition; the probabilities with which it moved, ``(particles, rows)``."""
        self.point, probability = transition(
            self.evaluate, self.point, beta, self.size, self.steps, self.noise
        )
        if adapt:
            self.size = adapted(self.size, probability)
        return probability

    def take(self, index: Tensor) -> None:
        """Each continues another, ``(particles, rows)``."""
        self.point = Point(
            *[
                each.gather(0, index if each.dim() == 2 else index.unsqueeze(-1).expand_as(each))
                for each in self.point
            ]
        )


class Ladder(NamedTuple):
    """Temperatures, and step sizes at each; the last is 1, or where the walk ends.

    Attributes:
        betas: Shape ``(T, rows)``; a row that has arrived stays at its last.
        sizes: Shape ``(T, rows)``.
    """

    betas: Tensor
    sizes: Tensor


# population, what a step by one adds, where each row stands -> where it goes
Pace = Callable[["Population", Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Walk:
    """Runs of particles of some rows between two densities.

    Attributes:
        space: The latents of the rows.
        start: Where particles begin.
        steps: Leapfrog steps a transition.
    """

    space: LatentSpace
    start: Start
    steps: int

    def run(
        self,
        particles: int,
        way: Ladder | Tensor | Pace,
        what: str,
        *,
        resample_below: float = 0.0,
        visit: Callable[[int, Population, Chains], None] | None = None,
    ) -> tuple[dict[str, Tensor], Ladder]:
        """From the first density to the last; quantities of each row, and the way it took.

        Args:
            particles: How many, of each row.
            way: A schedule to keep to; or temperatures ``(T, rows)`` or a pace to find them by,
                and then step sizes are found on the way too.
            what: Name of the run, which decides its random numbers.
            resample_below: Share of effective particles below which a row is resampled; 0 never.
            visit: Called after the move at each temperature, the last too; without it there is
                no move there.
        """
        noise = self.space.noise.apart(what)
        draw = self.space.prior if self.start == "prior" else self.space.posterior
        chains = Chains(self.space, draw(particles, noise), self.steps, self.start, noise)
        population = Population(*chains.point.start.shape, device=chains.point.start.device)
        beta = torch.zeros_like(population.log_px)
        betas: list[Tensor] = []
        sizes: list[Tensor] = []
        accepted, moves, count = torch.zeros_like(beta), torch.zeros_like(beta), beta
        known = way.betas if isinstance(way, Ladder) else way
        while True:
            t, change = len(betas), chains.change
            after = known[t] if isinstance(known, Tensor) else known(population, change, beta)
            count = count + (after > beta)
            population.weigh((after - beta) * change)
            betas.append(after)
            last = t + 1 == len(known) if isinstance(known, Tensor) else bool((after >= 1.0).all())
            going = after > beta if last else after < 1.0
            beta = after
            if resample_below and not last:
                chains.take(population.resample(resample_below, noise, going))
            if isinstance(way, Ladder):
                chains.size = way.sizes[t].to(chains.size)
            else:  # at the last one too: it is the first of a row that gets there at once
                for _ in range(_LOOKS if t else _FIRST_LOOKS):
                    chains.move(beta, adapt=True)
            sizes.append(chains.size)
            if last and visit is None:
                break
            probability = chains.move(beta).double().mean(0)
            accepted, moves = accepted + torch.where(going, probability, 0.0), moves + going
            if visit is not None:
                visit(t, population, chains)
            if last:
                break
        schedule = Ladder(torch.stack(betas), torch.stack(sizes))
        found = {
            **population.result(),
            "log_weight": population.total,
            "acceptance": accepted / moves,
            "temperatures": count,
            "step_size": schedule.sizes.double().mean(0),
        }
        return found, schedule

    def back(self, exact: Mapping[str, Tensor], way: Ladder) -> dict[str, Tensor]:
        r"""From exact draws of the posterior, whose weights have the mean :math:`1/p(x)`.

        The log-weights returned are those of the way there: their negatives are to be averaged.
        """
        noise = self.space.noise.apart("back")
        chains = Chains(self.space, self.space.free_of(exact), self.steps, self.start, noise)
        log_weight, accepted = torch.zeros_like(chains.change), 0.0
        edges = torch.cat([torch.zeros_like(way.betas[:1]), way.betas])
        for t in range(len(way.betas), 0, -1):
            log_weight = log_weight + (edges[t] - edges[t - 1]) * chains.change
            if t > 1:
                chains.size = way.sizes[t - 2].to(chains.size)
                accepted = accepted + chains.move(edges[t - 1]).double().mean(0)
        transitions = len(way.betas) - 1
        rate = accepted / transitions if transitions else torch.full_like(log_weight[0], math.nan)
        return {"log_weight": log_weight, "acceptance": torch.as_tensor(rate)}

    def schedule(self, temperatures: Temperatures, *, moves: bool = False) -> Ladder:
        r"""The temperatures of each row, and the step sizes there, by a pilot run.

        A number of them is spaced so that every step has the same length. With transitions that
        forget where they began, a log-weight has the variance
        :math:`\sum_t (\beta_t - \beta_{t-1})^2 v(\beta_t)`, :math:`v(\beta)` being that of
        :math:`\log p(x, z) - \log f_0(z)` under :math:`f_\beta`; it is least where every step
        has the same length :math:`(\beta_t - \beta_{t-1}) \sqrt{v}`. A schedule that is the same
        for all data takes its first steps far too long where the data say much.

        Annealing Between Distributions by Averaging Moments (Grosse, Maddison & Salakhutdinov,
        2013), section 3,
        https://papers.nips.cc/paper/2013/hash/fb60d411a5c5b72b2e7d3527cfc84fd0-Abstract.html

        Args:
            temperatures: How many, or themselves.
            moves: Whether there is a move at the last one too.
        """
        if not isinstance(temperatures, int):
            visit = (lambda *_: None) if moves else None
            return self.run(_PILOT_PARTICLES, self.given(temperatures), "pilot", visit=visit)[1]
        pilot = self._evenly_spaced
        points = torch.cat([torch.zeros_like(pilot.betas[:1]), pilot.betas])
        sizes = torch.cat([pilot.sizes[:1], pilot.sizes])
        arrived = (points < 1.0).sum(0)  # the step with which each row arrives
        share = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64, device=points.device)
        at = share[1:, None] * arrived
        below = torch.minimum(at.long(), arrived - 1)
        betas = torch.lerp(points.gather(0, below), points.gather(0, below + 1), at - below)
        betas[-1] = 1.0
        nearest = torch.minimum(at.round().long(), (arrived - 1).clamp(min=1))
        return Ladder(betas, sizes.gather(0, nearest))

    @cached_property
    def _evenly_spaced(self) -> Ladder:
        """The pilot's own way, which any number of temperatures is read off."""
        return self.run(_PILOT_PARTICLES, _evenly(), "pilot")[1]

    def given(self, temperatures: Sequence[float]) -> Tensor:
        """Temperatures that are the same for all rows, shape ``(T, rows)``."""
        betas = torch.tensor(temperatures, dtype=torch.float64, device=self.space.device)
        return betas.unsqueeze(-1).expand(-1, self.space.rows)


def _evenly() -> Pace:
    """Steps of one length, in standard deviations of the log-weight that they add."""
    steps = 0

    def pace(_: Population, change: Tensor, beta: Tensor) -> Tensor:
        nonlocal steps
        # of the particles that have a density; where none has, the walk is over
        there = change.isfinite()
        count = there.sum(0)
        mean = torch.where(there, change, 0.0).sum(0) / count
        variance = torch.where(there, change - mean, 0.0).square().sum(0) / (count - 1)
        step = torch.where(count > 1, _LENGTH / variance.sqrt(), 1.0)
        if steps > _MOST // 2:  # so that it ends
            step = torch.maximum(step, (1.0 - beta) / max(1, _MOST - steps))
        steps += 1
        return (beta + step).clamp(max=1.0)

    return pace


def keeping(share: float) -> Pace:
    r"""The farthest temperature that keeps enough effective particles, in each row.

    :math:`(\sum_k W_k v_k)^2 / \sum_k W_k v_k^2` of the weights W and what they would be
    multiplied by is not below the share of particles.
    """

    def kept(population: Population, change: Tensor, step: Tensor) -> Tensor:
        alive = change > -torch.inf
        log_weight = torch.where(alive, population.log_weight, -torch.inf)
        rise = torch.where(alive, step * change, 0.0)
        total = log_weight.logsumexp(0)
        mean, square = (log_weight + rise).logsumexp(0), (log_weight + 2 * rise).logsumexp(0)
        found = (2 * mean - square - total).exp()
        return torch.where(found.isnan(), 1.0, found)

    def pace(population: Population, change: Tensor, beta: Tensor) -> Tensor:
        left = 1.0 - beta
        low, high = torch.full_like(left, math.log(_SMALLEST)), left.log()
        for _ in range(40):
            middle = 0.5 * (low + high)
            enough = kept(population, change, middle.exp()) >= share
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        whole = kept(population, change, left) >= share
        return torch.where(whole, 1.0, (beta + low.exp()).clamp(max=1.0))

    return pace


class Population:
    r"""Weighted particles of some rows, and the product of mean weights that they collected.

    Attributes:
        log_weight: Logarithms of the normalised weights W, shape ``(particles, rows)``.
        log_px: :math:`\log \prod_t \sum_k W_{t-1}^k w_t^k` so far, shape ``(rows,)``.
    """

    def __init__(self, particles: int, rows: int, device: torch.device | None = None) -> None:
        self.particles = particles
        options: Any = {"dtype": torch.float64, "device": device}
        self.log_weight = torch.full((particles, rows), -math.log(particles), **options)
        self.log_px = torch.zeros(rows, **options)
        self._own = torch.arange(particles, device=device).unsqueeze(-1).expand(particles, rows)
        self._first = self._own  # which first particle each descends from
        self._resamplings = torch.zeros(rows, **options)
        self._lowest = torch.full((rows,), float(particles), **options)

    @property
    def ess(self) -> Tensor:
        r"""Effective number :math:`1 / \sum W^2`, shape ``(rows,)``."""
        return (-(2 * self.log_weight).logsumexp(0)).exp()

    @property
    def total(self) -> Tensor:
        """Log-weights whose mean weight is the estimate, ``(particles, rows)``."""
        return self.log_weight + self.log_px + math.log(self.particles)

    def weigh(self, log_weight: Tensor) -> Tensor:
        r"""Multiply the weights; returns :math:`\log \sum_k W^k w^k`, shape ``(rows,)``."""
        joined = self.log_weight + log_weight.double()
        mean = joined.logsumexp(0)
        self.log_px = self.log_px + mean
        # where no particle is left, all go on, to no effect
        self.log_weight = torch.where(mean.isneginf(), -math.log(self.particles), joined - mean)
        self._lowest = torch.minimum(self._lowest, self.ess)
        return mean

    def resample(
        self, below: float, noise: Noise = AMBIENT, going: Tensor | None = None
    ) -> Tensor:
        """Which particle each continues, ``(particles, rows)``; itself in rows that are even.

        Systematic resampling: one uniform number a row, and as many copies of each particle as
        K W says, rounded up or down.

        Args:
            below: Share of effective particles below which a row is resampled.
            noise: Of the rows.
            going: Rows that are not there yet; all.
        """
        weight = self.log_weight.exp()
        uniform = noise.uniform_like(weight[0])
        chosen = self.ess < below * self.particles
        chosen = chosen if going is None else chosen & going
        if not bool(chosen.any()):
            return self._own
        place = (self._own + uniform) / self.particles
        total = weight.cumsum(0)
        index = torch.searchsorted((total / total[-1]).T.contiguous(), place.T.contiguous()).T
        index = torch.where(chosen, index.clamp(max=self.particles - 1), self._own)
        self._first = self._first.gather(0, index)
        self.log_weight = torch.where(chosen, -math.log(self.particles), self.log_weight)
        self._resamplings = self._resamplings + chosen
        return index

    def result(self) -> dict[str, Tensor]:
        r"""Quantities of each row, shape ``(rows,)``.

        With :math:`S_e` the weight of all descendants of the first particle e, the relative
        variance of the estimate is estimated by :math:`(K \sum_e S_e^2 - 1) / (K - 1)`: that of
        independent weights where nothing was resampled, and a little more than the truth where it
        was, as systematic draws vary less.
        """
        count = self.particles
        shares = torch.zeros_like(self.log_weight)
        shares = shares.scatter_add(0, self._first, self.log_weight.exp())
        together = shares.square().sum(0)
        relative = (count * together - 1) / (count - 1) if count > 1 else together * math.nan
        return {
            "log_px": self.log_px,
            "log_px_stderr": relative.clamp(min=0).sqrt(),
            "ess": 1 / together,
            "ess_minimum": self._lowest,
            "resamplings": self._resamplings,
        }


def log_mean(log_weight: Tensor) -> Tensor:
    """The log of the mean over the first dimension, which holds the particles."""
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def relative_stderr(log_weight: Tensor) -> Tensor:
    """Standard error of the mean weight over the mean; NaN for one particle."""
    count = len(log_weight)
    relative = (log_weight - log_mean(log_weight)).exp()
    spread = relative.std(0) if count > 1 else torch.full_like(relative[0], math.nan)
    return spread / math.sqrt(count)


def effective(log_weight: Tensor) -> Tensor:
    r"""Effective number of particles, :math:`(\sum w)^2 / \sum w^2`."""
    return (2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)).exp()


def exactly(space: LatentSpace) -> dict[str, Tensor]:
    """What a walk returns, where there is nothing to walk in: log p(x) as a sum over values."""
    prior, likelihood = space.log_joint(space.nowhere())
    log_px = (prior + likelihood).double()  # (1, rows)
    nothing = torch.full_like(log_px[0], torch.nan)
    return {"log_weight": log_px, "acceptance": nothing, "step_size": nothing}


def checked(
    start: Start,
    temperatures: Temperatures | None,
    draw: Mapping[str, Draw] | None = None,
    *,
    end: float | None = 1.0,
    **numbers: int | None,
) -> Temperatures | None:
    """The temperatures of a walk, refused with the rest of it if they make no sense.

    Args:
        start: Where particles begin.
        temperatures: How many densities, or the rising temperatures themselves.
        draw: Ways of drawing, of discrete latents alone.
        end: The last temperature.
        numbers: What is at least one.

    Raises:
        ValueError: If something is out of its range.
    """
    at_least(1, **numbers)
    if start not in ("prior", "posterior"):
        raise ValueError(f"start is 'prior' or 'posterior', not {start!r}.")
    for name, way in (draw or {}).items():
        if not isinstance(way, Enumerated):
            raise ValueError(
                f"{name!r} is to be drawn by {type(way).__name__}; here chains draw what is "
                f"continuous, and draw is for discrete latents: {{{name!r}: Enumerated()}}."
            )
    if temperatures is None or isinstance(temperatures, int):
        at_least(1, temperatures=temperatures)
        return temperatures
    betas = tuple([float(each) for each in temperatures])
    rising = all([a < b for a, b in zip((0.0, *betas), betas, strict=False)])
    if not betas or not rising or (end is not None and betas[-1] != end):
        raise ValueError(
            f"temperatures are a number of them, or rise from above 0 to {end or 'the last'}, "
            f"which is the last; found {list(temperatures)}."
        )
    return betas
