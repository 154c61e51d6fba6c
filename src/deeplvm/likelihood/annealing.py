r"""Annealed importance sampling: :math:`\log p(x)` where plain importance weights are too uneven.

Chains walk from a density that can be drawn from to the posterior, by transitions that follow the
gradient; each carries a weight whose mean is :math:`p(x)`. Walked backwards from a draw of the
posterior, which simulated data come with, the same walk gives an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Names, Rows, Tensors, evaluation_of, for_rows, noise_of, redrawn
from deeplvm.inference.tempering import (
    Start,
    Temperatures,
    Walk,
    checked,
    effective,
    exactly,
    log_mean,
    relative_stderr,
)
from deeplvm.randomness import RowNoise
from deeplvm.results import Estimate, Record, RowEstimate


@dataclass(frozen=True, eq=False)
class AnnealedEstimate(
    RowEstimate,
    also="ess",
    without="log_weight step_size evaluations",
    means="ess acceptance",
    least="ess acceptance",
    keys={"steps": "leapfrog_steps"},
):
    r"""Log-likelihood of each row by annealed importance sampling; nats.

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``: a lower bound in expectation.
        log_px_stderr: Its Monte-Carlo error by the delta method, shape ``(rows,)``.
        log_weight: Log-weight of each chain, shape ``(rows, particles)``.
        acceptance: Mean probability of moving, shape ``(rows,)``; NaN where nothing moved.
        step_size: Leapfrog step size, mean over temperatures, shape ``(rows,)``.
        particles: Chains a row.
        temperatures: Densities between the ends, the last end counted.
        steps: Leapfrog steps a transition.
        evaluations: Of log p and its gradient, for each chain, pilot not counted.
        exact: Whether nothing was drawn: no latents, or all of them summed over.
    """

    log_weight: Tensor
    acceptance: Tensor
    step_size: Tensor
    particles: int
    temperatures: int
    steps: int
    evaluations: int
    exact: bool

    @property
    def ess(self) -> Tensor:
        """Effective number of chains, shape ``(rows,)``."""
        return effective(self.log_weight.T)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        r"""An interval for :math:`\log p(x)` of each row by its own chains; two of ``(rows,)``.

        Below, a t interval of the logarithm of the mean weight by the delta method. Above, that
        is too short where weights are uneven, as a few chains seldom hold a large one; there it
        reaches as far as Cox's interval does, if that is further, whose centre is
        :math:`m + s^2 / 2`, m and :math:`s^2` the mean and variance of the log-weights: right for
        a log-normal weight, which weights of a slow walk are. Log-weights with a long tail to
        the left have a larger :math:`s^2` than their weights tell, so at most
        :math:`2 \log(1 + c^2)` counts, c the weights' coefficient of variation.

        Where one chain has all the weight, no interval by the chains themselves holds what it
        says: see :attr:`ess`, and take more temperatures.

        Confidence Intervals for the Log-Normal Mean (Zhou & Gao, 1997), Cox's method,
        https://doi.org/10.1002/(SICI)1097-0258(19970415)16:7%3C783::AID-SIM488%3E3.0.CO;2-2

        Args:
            level: The share of such intervals that hold the truth.

        Raises:
            ValueError: If the level is not between 0 and 1, or there is one chain a row.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level is between 0 and 1, found {level}.")
        if self.exact:
            return self.log_px, self.log_px
        if self.particles < 2:
            raise ValueError("One chain a row says nothing of its error; take particles=16.")
        from scipy.special import stdtrit

        count, log_px = self.particles, self.log_px
        quantile = float(stdtrit(count - 1, 0.5 + level / 2))
        delta = quantile * self.log_px_stderr
        spread = self.log_weight.var(1)
        uneven = 2 * torch.log1p(count * self.log_px_stderr.square())
        variance = torch.minimum(spread, uneven)
        centre = torch.minimum(self.log_weight.mean(1) + spread / 2, log_px + variance / 2)
        width = quantile * (variance / count + variance.square() / (2 * (count - 1))).sqrt()
        # fmax: a weight of zero has no logarithm, and leaves the first interval alone
        return log_px - delta, torch.fmax(log_px + delta, centre + width)

    def __str__(self) -> str:
        value = super().__str__()
        if self.exact:
            return f"{value}, exact: every latent is summed over"
        return (
            f"{value}, {self.particles} chains, {self.temperatures:,} temperatures; "
            f"acceptance {float(self.acceptance.nanmean()):.2f}, effective chains "
            f"{float(self.ess.mean()):.1f}"
        )


def annealed_importance_sampling(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 16,
    temperatures: Temperatures = 1_000,
    *,
    steps: int = 10,
    start: Start = "prior",
    draw: Mapping[str, Draw] | None = None,
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

    A discrete latent is summed over inside these densities, at the cost of p for each of its
    values; where all of them are discrete the result is exact, and there are no chains.

    Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008; for deep
    models On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273

    Args:
        model, data, batch_size, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        particles: Chains a row.
        temperatures: T, spaced by a pilot run; or :math:`\beta_1 < \dots < \beta_T = 1`
            themselves.
        steps: Leapfrog steps a transition.
        start: Where chains begin: ``"prior"`` owes nothing to q, ``"posterior"`` needs fewer
            temperatures where q is good.
        draw: ``{"y": Enumerated(most=...)}`` for a discrete latent of many values. A name given
            here is summed over even if the data have it.

    Raises:
        ValueError: If the values of a discrete latent cannot be listed, a latent is shared by all
            rows, or a number is below one.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> annealed_importance_sampling(model, {"x": torch.zeros(3, 2)}, 4, 20).log_px.shape
        torch.Size([3])
    """
    (found,) = annealed_curve(
        model, data, particles, [temperatures], steps=steps, start=start, draw=draw,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return found


def annealed_curve(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int,
    temperatures: Sequence[Temperatures],
    *,
    steps: int,
    start: Start,
    draw: Mapping[str, Draw] | None,
    seed: int,
    batch_size: int = 100,
) -> list[AnnealedEstimate]:
    """:func:`annealed_importance_sampling` with each of several temperatures, from one pilot.

    Each is to the last bit what it is by itself.
    """
    numbers = {"particles": particles, "steps": steps}
    several: list[Any] = [checked(start, each, draw, **numbers) for each in temperatures]

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        space = LatentSpace(model, given, missing, draw, noise)
        walk = Walk(space, start, steps)
        walks = [
            walk.run(particles, walk.schedule(betas), "walk")[0] if space.size else exactly(space)
            for betas in several
        ]
        for found in walks:
            found["log_px"] = log_mean(found["log_weight"])
            # a row in which nothing is left to draw may stand beside others
            found["log_weight"] = found["log_weight"].expand(particles, -1).T
        names = ("log_px", "log_weight", "acceptance", "step_size")
        joined = {name: torch.stack([found[name] for found in walks], 1) for name in names}
        return joined | {"exact": torch.full((space.rows,), not space.size)}

    joined = for_rows(
        model, data, measure, batch_size=batch_size, seed=seed, omit=redrawn(draw), apart=True
    )
    if exact := bool(joined.pop("exact").all()):
        joined["log_weight"] = joined["log_weight"][..., :1]
    estimates = []
    for number, betas in enumerate(several):
        own = {name: each[:, number].contiguous() for name, each in joined.items()}
        count = betas if isinstance(betas, int) else len(betas)
        estimates.append(
            AnnealedEstimate(
                **own,
                log_px_stderr=(
                    torch.zeros_like(own["log_px"])
                    if exact
                    else relative_stderr(own["log_weight"].T)
                ),
                particles=1 if exact else particles,
                temperatures=count,
                steps=steps,
                evaluations=1 if exact else 1 + (count - 1) * steps,
                exact=exact,
            )
        )
    return estimates


@dataclass(frozen=True, eq=False)
class Sandwich(
    Record,
    also="gap rows",
    without="lower_stderr upper_stderr",
    means="ess ess_back acceptance acceptance_back",
    keys={"steps": "leapfrog_steps"},
):
    r"""Both bounds on :math:`\log p(x)` of simulated rows; nats.

    Attributes:
        lower: From the prior (or q) to the posterior, shape ``(rows,)``.
        upper: From the exact posterior draw back, shape ``(rows,)``.
        lower_stderr: Monte-Carlo standard error of it by the delta method, shape ``(rows,)``.
        upper_stderr: The same of ``upper``: as if its chains, which all leave from the one draw,
            were independent.
        ess: Effective number of chains there, shape ``(rows,)``.
        ess_back: Effective number of chains on the way back, shape ``(rows,)``.
        acceptance: Mean probability of moving there, shape ``(rows,)``; NaN where nothing moved.
        acceptance_back: The same on the way back.
        particles: Chains a row, in each direction.
        temperatures: Densities between the ends, the last end counted.
        steps: Leapfrog steps a transition.
    """

    lower: Tensor
    upper: Tensor
    lower_stderr: Tensor
    upper_stderr: Tensor
    ess: Tensor
    ess_back: Tensor
    acceptance: Tensor
    acceptance_back: Tensor
    particles: int
    temperatures: int
    steps: int

    @property
    def gap(self) -> Estimate:
        """Mean difference: in expectation what both bounds together are away from the truth."""
        return Estimate.of(self.upper - self.lower)

    @property
    def rows(self) -> int:
        """How many rows were simulated."""
        return len(self.lower)

    def __str__(self) -> str:
        return (
            f"{float(self.lower.mean()):.4f} <= log p(x) <= {float(self.upper.mean()):.4f} nats a "
            f"row, a gap of {self.gap}, {len(self.lower)} simulated rows"
        )


def sandwich(
    model: LatentVariableModel,
    rows: int = 100,
    particles: int = 16,
    temperatures: Temperatures = 1_000,
    *,
    steps: int = 10,
    start: Start = "prior",
    draw: Mapping[str, Draw] | None = None,
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
        model: Whose likelihood is estimated.
        rows: How many rows are simulated.
        particles: Chains a row, in each direction.
        temperatures: As in :func:`annealed_importance_sampling`.
        steps: Leapfrog steps a transition.
        start: The other end of the walk.
        draw: As in :func:`annealed_importance_sampling`.
        given: Inputs of p, as many rows as simulated.
        seed: Same seed, same numbers.

    Raises:
        ValueError: As :func:`annealed_importance_sampling`.
    """
    betas: Any = checked(start, temperatures, draw, particles=particles, steps=steps, rows=rows)
    with evaluation_of(model, seed):
        inputs = dict(given or {})
        values = {
            name: site.value
            for name, site in model.sample(rows, inputs).items()
            if site.drawn and site.distribution is not None
        }
        latents = {name: values[name] for name in model.q.names if name in values}
        observed = {name: value for name, value in values.items() if name not in latents}
        known = observed | inputs
        device = next(iter(known.values())).device
        noise = noise_of(model, known, seed, device)
        space = LatentSpace(model, known, frozenset(), draw, noise)
        if space.size:
            walk = Walk(space, start, steps)
            schedule = walk.schedule(betas)
            there, _ = walk.run(particles, schedule, "walk")
            exact = {n: v.expand(particles, *v.shape) for n, v in latents.items()}
            back = walk.back(exact, schedule)
        else:
            there = back = exactly(space)
    lower, upper = there["log_weight"], -back["log_weight"]
    errors = [
        relative_stderr(each) if space.size else torch.zeros_like(each[0])
        for each in (lower, upper)
    ]
    return Sandwich(
        lower=log_mean(lower),
        upper=-log_mean(upper),
        lower_stderr=errors[0],
        upper_stderr=errors[1],
        ess=effective(lower),
        ess_back=effective(upper),
        acceptance=there["acceptance"],
        acceptance_back=back["acceptance"],
        particles=particles,
        temperatures=betas if isinstance(betas, int) else len(betas),
        steps=steps,
    )
