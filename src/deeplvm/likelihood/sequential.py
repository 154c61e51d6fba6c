r"""Sequential Monte Carlo: chains that walk to the posterior, and are resampled on their way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.randomness import RowNoise
from deeplvm.core.results import RowEstimate
from deeplvm.inference.hmc import Point, adapted, transition
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Source, at_least, for_rows, latent_dimensions

_TARGET = 0.65  # of the acceptance, the optimum of Hamiltonian transitions in many dimensions
_GAIN = 0.3
_FIRST_LOOKS, _LOOKS = 10, 3  # transitions by which the step size is found at a temperature
_PILOT_CHAINS = 32
_SMALLEST = 1e-9  # step of a temperature


@dataclass(frozen=True, eq=False)
class SequentialEstimate(RowEstimate):
    r"""Log-likelihood of each row by sequential Monte Carlo; nats.

    ``log_px`` is a lower bound in expectation, ``log_px_stderr`` its Monte-Carlo standard error,
    from the first particle that each one descends from. Where few of these are left (``ess`` near
    one) it ends at 1 nat, whatever the error is: compare seeds then, or take more particles.

    Attributes:
        ess: Effective number of first particles that have descendants in the end, shape
            ``(rows,)``; of the weights, where nothing was resampled.
        ess_minimum: The smallest effective number of particles at any temperature, shape
            ``(rows,)``.
        resamplings: How often the row's particles were resampled, shape ``(rows,)``.
        acceptance: Mean probability of moving, shape ``(rows,)``; NaN without a transition.
        temperatures: How many densities each row passed, the last counted, shape ``(rows,)``.
        particles: Chains a row.
        steps: Leapfrog steps a transition.
        adaptive: Whether the temperatures were found by the chains that were counted.
    """

    ess: Tensor
    ess_minimum: Tensor
    resamplings: Tensor
    acceptance: Tensor
    temperatures: Tensor
    particles: int
    steps: int
    adaptive: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, means over rows; what is not a number is ``None``."""
        acceptance = self.acceptance[~self.acceptance.isnan()]
        return {
            **super().to_dict(),
            "particles": self.particles,
            "temperatures": float(self.temperatures.double().mean()),
            "leapfrog_steps": self.steps,
            "ess": float(self.ess.mean()),
            "ess_minimum": float(self.ess_minimum.min()),
            "resamplings": float(self.resamplings.mean()),
            "acceptance": float(acceptance.mean()) if len(acceptance) else None,
            "acceptance_minimum": float(acceptance.min()) if len(acceptance) else None,
            "adaptive": self.adaptive,
        }

    def __str__(self) -> str:
        return (
            f"{super().__str__()}, {self.particles:,} chains, "
            f"{float(self.temperatures.double().mean()):.0f} temperatures, resampled "
            f"{float(self.resamplings.mean()):.1f} times; effective first particles "
            f"{float(self.ess.mean()):.1f}, acceptance {float(self.acceptance.nanmean()):.2f}"
        )


def sequential_monte_carlo(
    model: LatentVariableModel,
    data: Source,
    particles: int = 64,
    temperatures: Sequence[float] | None = None,
    *,
    steps: int = 10,
    start: Literal["prior", "posterior"] = "prior",
    keep: float = 0.9,
    adaptive: bool = False,
    resample_below: float = 0.5,
    batch_size: int = 100,
    seed: int = 0,
) -> SequentialEstimate:
    r""":math:`\log p(x)` of every row by resampled chains from the prior, or q, to the posterior.

    Along :math:`f_t = f_0^{1 - \beta_t}\, p(x, z)^{\beta_t}`, as in annealed importance sampling,
    particles of normalised weights W are weighted, resampled (systematically, each row by itself)
    where their effective number is small, and moved by a Hamiltonian transition:

    .. math:: \hat p(x) = \prod_t \sum_k W_{t-1}^k\,
              \left(\frac{p(x, z_{t-1}^k)}{f_0(z_{t-1}^k)}\right)^{\beta_t - \beta_{t-1}}

    Resampling takes chains from where they are lost to where they count, so far fewer
    temperatures are needed than without.

    By default a pilot run finds temperatures and step sizes, which stay fixed for the particles
    that count: the mean of :math:`\hat p(x)` is exactly p(x). With ``adaptive`` the particles
    that count find them on their way, which saves the pilot and biases :math:`\hat p(x)` a
    little, by O(1/particles).

    Sequential Monte Carlo Samplers (Del Moral, Doucet & Jasra, 2006),
    https://doi.org/10.1111/j.1467-9868.2006.00553.x; temperatures by the conditional effective
    number of particles from Toward Automatic Model Comparison (Zhou, Johansen & Aston, 2016),
    https://arxiv.org/abs/1303.3123; the standard error from A General Theory of Particle
    Filters in Hidden Markov Models (Chan & Lai, 2013), https://arxiv.org/abs/1312.5114

    Args:
        model: Evaluated in ``eval()`` mode; left as it was. Its latents are continuous.
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``, NaN where one is
            missing.
        particles: K, chains a row.
        temperatures: :math:`\beta_1 < \dots < \beta_T = 1`; found if left out.
        steps: Leapfrog steps a transition.
        start: Where chains begin: ``"prior"`` owes nothing to q, ``"posterior"`` needs fewer
            temperatures where q is good.
        keep: How much of the effective number of particles one temperature may leave, in (0, 1),
            in the row of a batch where it leaves least; nearer to one takes more temperatures.
        adaptive: Whether the particles that count find temperatures and step sizes.
        resample_below: Share of effective particles below which a row is resampled; 0 never.
        batch_size: Rows at a time; they share their temperatures.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If no latent is continuous, or an argument is out of its range.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> sequential_monte_carlo(model, {"x": torch.zeros(3, 2)}, 8).log_px.shape
        torch.Size([3])
    """
    at_least(1, particles=particles, steps=steps)
    betas = _checked(start, keep, temperatures, adaptive=adaptive)
    if latent_dimensions(model, data) == 0:
        raise ValueError("No latent is continuous: exact_likelihood sums over discrete ones.")

    def evaluate(
        given: dict[str, Tensor], missing: frozenset[str], noise: RowNoise
    ) -> dict[str, Tensor]:
        space = LatentSpace(model, given, missing, noise=noise)
        sampler = _Sampler(space, start, steps, keep, resample_below)
        if adaptive:
            return sampler.run(particles, Plan())[0]
        _, plan = sampler.run(_PILOT_CHAINS, Plan(betas))
        return sampler.run(particles, plan)[0]

    joined = for_rows(model, data, evaluate, batch_size=batch_size, seed=seed)
    return SequentialEstimate(**joined, particles=particles, steps=steps, adaptive=adaptive)


class Plan(NamedTuple):
    """What a run keeps to: temperatures, and step sizes ``(rows,)`` at all but the last.

    What is left out is found on the way.
    """

    betas: tuple[float, ...] = ()
    sizes: tuple[Tensor, ...] = ()


@dataclass
class _Sampler:
    """Runs of chains for some rows."""

    space: LatentSpace
    start: str
    steps: int
    keep: float
    resample_below: float

    def run(self, particles: int, plan: Plan) -> tuple[dict[str, Tensor], Plan]:
        """Quantities of each row, shape ``(rows,)``, and the plan that this run followed."""
        first = self.space.prior if self.start == "prior" else self.space.posterior
        point = self._evaluate(first(particles))
        population = Population(*point.start.shape, device=point.start.device)
        size = 0.5 * torch.ones_like(point.start[0]) / max(1.0, self.space.size**0.25)
        betas, sizes, moved = [0.0], [], []
        while betas[-1] < 1.0:
            change = (point.end - point.start).double()
            done = len(betas) - 1
            beta = plan.betas[done] if plan.betas else self._next(population, change, betas[-1])
            population.weigh((beta - betas[-1]) * change)
            betas.append(beta)
            if beta == 1.0:
                break
            point = _taken(point, population.resample(self.resample_below))
            if not plan.sizes:
                for _ in range(_FIRST_LOOKS if done == 0 else _LOOKS):
                    point, probability = transition(self._evaluate, point, beta, size, self.steps)
                    size = adapted(size, probability, _TARGET, _GAIN)
            sizes.append(plan.sizes[done] if plan.sizes else size)
            point, probability = transition(self._evaluate, point, beta, sizes[-1], self.steps)
            moved.append(probability.double().mean(0))
        found = population.result()
        count = torch.full_like(found["log_px"], len(betas) - 1)
        acceptance = torch.stack(moved).mean(0) if moved else torch.full_like(count, math.nan)
        used = Plan(tuple(betas[1:]), tuple(sizes))
        return {**found, "acceptance": acceptance, "temperatures": count}, used

    def _next(self, population: Population, change: Tensor, beta: float) -> float:
        """The next temperature: the farthest that keeps enough effective particles."""
        if self._kept(population, change, 1.0 - beta) >= self.keep:
            return 1.0
        low, high = math.log(_SMALLEST), math.log(1.0 - beta)
        for _ in range(40):
            middle = 0.5 * (low + high)
            if self._kept(population, change, math.exp(middle)) >= self.keep:
                low = middle
            else:
                high = middle
        return min(1.0, beta + math.exp(low))

    @staticmethod
    def _kept(population: Population, change: Tensor, step: float) -> float:
        r"""The least :math:`(\sum W v)^2 / \sum W v^2` of any row, where particles live."""
        alive = change > -torch.inf
        log_weight = torch.where(alive, population.log_weight, -torch.inf)
        rise = torch.where(alive, step * change, 0.0)
        share = log_weight.logsumexp(0)
        mean, square = (log_weight + rise).logsumexp(0), (log_weight + 2 * rise).logsumexp(0)
        kept = (2 * mean - square - share).exp()
        return float(torch.where(kept.isnan(), 1.0, kept).min())

    def _evaluate(self, free: Tensor) -> Point:
        """Both log-densities and their gradients."""
        # a chain thrown out of the numbers stands at zero until its move is refused
        lost = ~free.isfinite().all(-1)
        with torch.enable_grad():
            free = free.detach().masked_fill(lost.unsqueeze(-1), 0.0).requires_grad_()
            prior, likelihood = self.space.log_joint(free)
            end = prior + likelihood
            begin = prior if self.start == "prior" else self.space.log_posterior(free)
            (slope,) = torch.autograd.grad(begin.sum(), free, retain_graph=True)
            (end_slope,) = torch.autograd.grad(end.sum(), free)
        begin, end = [each.detach().masked_fill(lost, -torch.inf) for each in (begin, end)]
        return Point(free.detach(), begin, end, slope, end_slope)


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

    def weigh(self, log_weight: Tensor) -> Tensor:
        r"""Multiply the weights; returns :math:`\log \sum_k W^k w^k`, shape ``(rows,)``."""
        joined = self.log_weight + log_weight.double()
        mean = joined.logsumexp(0)
        self.log_px = self.log_px + mean
        # where no particle is left, all go on, to no effect
        self.log_weight = torch.where(mean.isneginf(), -math.log(self.particles), joined - mean)
        self._lowest = torch.minimum(self._lowest, self.ess)
        return mean

    def resample(self, below: float) -> Tensor:
        """Which particle each continues, ``(particles, rows)``; itself in rows that are even.

        Systematic resampling: one uniform number a row, and as many copies of each particle as
        K W says, rounded up or down.
        """
        weight = self.log_weight.exp()
        uniform = torch.rand(weight.shape[1], dtype=weight.dtype, device=weight.device)
        chosen = self.ess < below * self.particles
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


def _taken(point: Point, index: Tensor) -> Point:
    """The points that particles continue, by :meth:`Population.resample`."""
    wide = index.unsqueeze(-1).expand_as(point.free)
    return Point(
        point.free.gather(0, wide),
        point.start.gather(0, index),
        point.end.gather(0, index),
        point.start_slope.gather(0, wide),
        point.end_slope.gather(0, wide),
    )


def _checked(
    start: str, keep: float, temperatures: Sequence[float] | None, *, adaptive: bool
) -> tuple[float, ...]:
    if start not in ("prior", "posterior"):
        raise ValueError(f"start is 'prior' or 'posterior', not {start!r}.")
    if not 0.0 < keep < 1.0:
        raise ValueError(f"keep is between 0 and 1, found {keep}.")
    if temperatures is None:
        return ()
    if adaptive:
        raise ValueError("adaptive finds the temperatures, so give none.")
    betas = tuple(float(each) for each in temperatures)
    rising = all([a < b for a, b in zip((0.0, *betas), betas, strict=False)])
    if not betas or betas[-1] != 1.0 or not rising:
        raise ValueError(
            f"temperatures rise from above 0 to 1, which is the last; found {list(temperatures)}."
        )
    return betas
