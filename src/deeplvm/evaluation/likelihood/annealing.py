r"""Annealed importance sampling: :math:`\log p(x)` where plain importance weights are too uneven.

Chains walk from a density that can be drawn from to the posterior, by transitions that follow the
gradient; each carries a weight whose mean is :math:`p(x)`. Walked backwards from a draw of the
posterior, which simulated data come with, the same walk gives an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from deeplvm.evaluation.batches import batches_of, evaluating
from deeplvm.evaluation.numbers import finite, number, stderr_of
from deeplvm.inference.hamiltonian import Point, adapted, transition
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.model import LatentVariableModel
from deeplvm.processes import processes

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

Start = Literal["prior", "posterior"]
_TARGET = 0.65  # of the acceptance, the optimum of Hamiltonian transitions in many dimensions
_PILOT = 100  # temperatures at which step sizes are found
_PILOT_CHAINS = 4
_GAIN = 0.3


@dataclass(frozen=True, eq=False)
class AnnealedEstimate:
    r"""Log-likelihood of each row by annealed importance sampling; nats.

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``: a lower bound in expectation.
        log_px_stderr: Its Monte-Carlo standard error by the delta method, shape ``(rows,)``.
        ess: Effective number of chains, shape ``(rows,)``.
        acceptance: Mean probability of moving, shape ``(rows,)``.
        step_size: Leapfrog step size, mean over temperatures, shape ``(rows,)``.
        particles: Chains a row.
        temperatures: Densities between the ends, the last end counted.
        steps: Leapfrog steps a transition.
        evaluations: Of log p and its gradient, for each chain, pilot not counted.
    """

    log_px: Tensor
    log_px_stderr: Tensor
    ess: Tensor
    acceptance: Tensor
    step_size: Tensor
    particles: int
    temperatures: int
    steps: int
    evaluations: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.log_px)

    @property
    def mean(self) -> float:
        """Mean of ``log_px`` over rows."""
        return float(self.log_px.mean())

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`mean` over rows."""
        return stderr_of(self.log_px)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, means over rows; what is not a number is ``None``."""
        return {
            "value": finite(self.mean),
            "stderr": finite(self.stderr),
            "monte_carlo_stderr": finite(
                float(self.log_px_stderr.square().sum().sqrt() / self.rows)
            ),
            "particles": self.particles,
            "temperatures": self.temperatures,
            "leapfrog_steps": self.steps,
            "rows": self.rows,
            "ess": float(self.ess.mean()),
            "ess_minimum": float(self.ess.min()),
            "acceptance": float(self.acceptance.mean()),
            "acceptance_minimum": float(self.acceptance.min()),
        }

    def __str__(self) -> str:
        return (
            f"log p(x)  {number(self.mean, self.stderr)} nats a row over {self.rows:,} rows, "
            f"{self.particles} chains, {self.temperatures:,} temperatures; acceptance "
            f"{float(self.acceptance.mean()):.2f}"
        )


def schedule(temperatures: int, steepness: float = 4.0) -> list[float]:
    r""":math:`\beta_0 = 0 < \dots < \beta_T = 1`, dense at both ends (a logistic curve).

    On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273

    >>> [round(beta, 3) for beta in schedule(4)]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    raw = [
        1.0 / (1.0 + math.exp(-steepness * (2.0 * t / temperatures - 1.0)))
        for t in range(temperatures + 1)
    ]
    inner = [(each - raw[0]) / (raw[-1] - raw[0]) for each in raw[1:-1]]
    return [0.0, *inner, 1.0]


def annealed_importance_sampling(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    particles: int = 16,
    temperatures: int = 1_000,
    *,
    steps: int = 10,
    start: Start = "prior",
    split: Split = "test",
    rows: int | None = None,
    batch_size: int = 100,
    seed: int = 0,
) -> AnnealedEstimate:
    r""":math:`\log p(x)` of every row by chains from the prior, or from q, to the posterior.

    Along :math:`f_t = f_0^{1 - \beta_t}\, p(x, z)^{\beta_t}`, with :math:`f_0 = p(z)` or
    :math:`q(z | x)`, a chain's weight is
    :math:`\prod_t (p(x, z_{t-1}) / f_0(z_{t-1}))^{\beta_t - \beta_{t-1}}`, whose mean is
    :math:`p(x)` whatever the transitions; the slower the walk, the less it varies. Transitions
    are Hamiltonian, with step sizes for each row and temperature that a pilot run finds and that
    then stay fixed, so that the estimate is exactly unbiased.

    Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008; for deep
    models On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273

    Args:
        model: Evaluated in ``eval()`` mode; left as it was. Its latents are continuous.
        data: Data, or named tensors of shape ``(rows, *event)``.
        particles: Chains a row.
        temperatures: T.
        steps: Leapfrog steps a transition.
        start: Where chains begin: ``"prior"`` owes nothing to q, ``"posterior"`` needs fewer
            temperatures where q is good.
        split: Which split of Data.
        rows: How many, from the first on; all.
        batch_size: Rows at a time.
        seed: Same seed, same numbers; torch's own random state is left as it was.

    Raises:
        ValueError: If a latent is discrete or a number is below one.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> annealed_importance_sampling(model, {"x": torch.zeros(3, 2)}, 4, 20).log_px.shape
        torch.Size([3])
    """
    _at_least_one(particles=particles, temperatures=temperatures, steps=steps, rows=rows)
    taken = batches_of(model, data, split)
    count = taken.rows if rows is None else min(rows, taken.rows)
    group = processes()
    starts = range(0, count, batch_size)
    parts = []
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.no_grad():
        for first in starts[group.part(len(starts))]:
            torch.manual_seed(seed + first)
            given = taken[slice(first, min(first + batch_size, count))]
            walk = Walk(LatentSpace(model, given, taken.missing), start, temperatures, steps)
            parts.append(walk.forward(particles))
    mine = {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}
    joined = group.gather(mine)
    return AnnealedEstimate(
        **joined,
        particles=particles,
        temperatures=temperatures,
        steps=steps,
        evaluations=1 + (temperatures - 1) * steps,
    )


@dataclass(frozen=True, eq=False)
class Sandwich:
    r"""Both bounds on :math:`\log p(x)` of simulated rows; nats.

    Attributes:
        lower: From the prior (or q) to the posterior, shape ``(rows,)``.
        upper: From the exact posterior draw back, shape ``(rows,)``.
    """

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """Mean difference: at least how far both bounds together are from the truth."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_stderr(self) -> float:
        """Standard error of it over rows."""
        return stderr_of(self.upper - self.lower)

    def __str__(self) -> str:
        return (
            f"{float(self.lower.mean()):.4f} <= log p(x) <= {float(self.upper.mean()):.4f} nats a "
            f"row, a gap of {number(self.gap, self.gap_stderr)}, {len(self.lower)} simulated rows"
        )


def sandwich(
    model: LatentVariableModel,
    rows: int = 100,
    particles: int = 16,
    temperatures: int = 1_000,
    *,
    steps: int = 10,
    start: Start = "prior",
    given: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Sandwich:
    r"""Bidirectional Monte Carlo: how far annealing is from the truth, on data of the model's own.

    Rows :math:`z, x \sim p` come with a draw of their exact posterior. Walking back from it gives
    weights whose mean is :math:`1 / p(x)`, so an upper bound on :math:`\log p(x)` in expectation;
    the walk there gives the lower one. Both are as far off on average as their gap at most.

    Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani &
    Adams, 2015), https://arxiv.org/abs/1511.02543

    Args:
        model: Whose likelihood is estimated; its latents are continuous.
        rows: How many rows are simulated.
        particles: Chains a row, in each direction.
        temperatures: Densities between the ends.
        steps: Leapfrog steps a transition.
        start: The other end of the walk.
        given: Inputs of p, as many rows as simulated.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If a latent is discrete or a number is below one.
    """
    _at_least_one(particles=particles, temperatures=temperatures, steps=steps, rows=rows)
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.no_grad():
        trace = model.sample(rows, dict(given or {}))
        latents = {name for name in model.q.names if name in model.p.names}
        values = {
            name: site.value
            for name, site in trace.items()
            if site.drawn and site.distribution is not None
        }
        observed = {name: value for name, value in values.items() if name not in latents}
        space = LatentSpace(model, {**observed, **dict(given or {})}, frozenset())
        walk = Walk(space, start, temperatures, steps)
        lower = walk.forward(particles)["log_px"]
        exact = {n: v.expand(particles, *v.shape) for n, v in values.items() if n in latents}
        upper = walk.backward(exact)
    return Sandwich(lower, upper)


class Walk:
    """From one end of the path to the other, and back.

    Args:
        space: The latents of some rows.
        start: The density at the first end.
        temperatures: How many steps there are between them.
        steps: Leapfrog steps a transition.
    """

    def __init__(self, space: LatentSpace, start: Start, temperatures: int, steps: int) -> None:
        if start not in ("prior", "posterior"):
            raise ValueError(f"start is 'prior' or 'posterior', not {start!r}.")
        self.space, self.start, self.steps = space, start, steps
        self.betas = schedule(temperatures)
        self.sizes = self._pilot()  # (temperatures, rows)

    def forward(self, particles: int) -> dict[str, Tensor]:
        """Quantities of each row, shape ``(rows,)``."""
        point = self._evaluate(self._first(particles))
        log_weight = torch.zeros_like(point.start, dtype=torch.float64)
        accepted = torch.zeros(point.start.shape[-1:], dtype=torch.float64)
        for t in range(1, len(self.betas)):
            log_weight += (self.betas[t] - self.betas[t - 1]) * (point.end - point.start).double()
            if t < len(self.betas) - 1:
                size = self.sizes[t - 1]
                point, moved = transition(self._evaluate, point, self.betas[t], size, self.steps)
                accepted += moved.double().mean(0).to(accepted)
        count = max(1, len(self.betas) - 2)
        return summed(log_weight) | {
            "acceptance": accepted / count,
            "step_size": self.sizes.double().mean(0),
        }

    def backward(self, exact: Mapping[str, Tensor]) -> Tensor:
        """The upper bound of each row from exact draws of the posterior, shape ``(rows,)``."""
        point = self._evaluate(self.space.free_of(exact))
        log_weight = torch.zeros_like(point.start, dtype=torch.float64)
        for t in range(len(self.betas) - 1, 0, -1):
            log_weight += (self.betas[t] - self.betas[t - 1]) * (point.end - point.start).double()
            if t > 1:
                size = self.sizes[t - 2]
                point, _ = transition(self._evaluate, point, self.betas[t - 1], size, self.steps)
        return math.log(len(log_weight)) - torch.logsumexp(-log_weight, 0)

    def _pilot(self) -> Tensor:
        """A step size for each temperature that has a transition, and each row."""
        inner = self.betas[1:-1]
        point = self._evaluate(self._first(_PILOT_CHAINS))
        size = 0.5 * torch.ones_like(point.start[0]) / max(1.0, self.space.size**0.25)
        if not inner:
            return size.unsqueeze(0)
        chosen = torch.linspace(0, len(inner) - 1, min(_PILOT, len(inner))).round().long()
        found = []
        for repeat in range(10):  # at the first density, until the step size fits it
            point, moved = transition(self._evaluate, point, inner[0], size, self.steps)
            size = adapted(size, moved, _TARGET, 2 * _GAIN if repeat < 5 else _GAIN)
        for index in chosen.tolist():
            point, moved = transition(self._evaluate, point, inner[index], size, self.steps)
            size = adapted(size, moved, _TARGET, _GAIN)
            found.append(size)
        known = torch.stack(found)
        nearest = torch.searchsorted(chosen.to(known.device), torch.arange(len(inner)))
        return known[nearest.clamp(max=len(known) - 1)]

    def _first(self, particles: int) -> Tensor:
        draw = self.space.prior if self.start == "prior" else self.space.posterior
        return draw(particles)

    def _evaluate(self, free: Tensor) -> Point:
        """Both log-densities and their gradients: one pass there and one back."""
        with torch.enable_grad():
            free = free.detach().requires_grad_()
            prior, likelihood = self.space.log_joint(free)
            if self.start == "prior":
                (slope,) = torch.autograd.grad(prior.sum(), free, retain_graph=True)
                (rest,) = torch.autograd.grad(likelihood.sum(), free)
                begin, end, end_slope = prior, prior + likelihood, slope + rest
            else:
                begin, end = self.space.log_posterior(free), prior + likelihood
                (slope,) = torch.autograd.grad(begin.sum(), free)
                (end_slope,) = torch.autograd.grad(end.sum(), free)
        return Point(free.detach(), begin.detach(), end.detach(), slope, end_slope)


def summed(log_weight: Tensor) -> dict[str, Tensor]:
    """The estimate of each row from its chains' log-weights ``(particles, rows)``."""
    count = len(log_weight)
    log_px = torch.logsumexp(log_weight, 0) - math.log(count)
    relative = (log_weight - log_px).exp()
    spread = relative.std(0) if count > 1 else torch.full_like(log_px, math.nan)
    return {
        "log_px": log_px,
        "log_px_stderr": spread / math.sqrt(count),
        "ess": relative.sum(0).square() / relative.square().sum(0),
    }


def _at_least_one(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is at least 1, found {value}.")
