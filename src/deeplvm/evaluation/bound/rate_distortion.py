r"""Rate and distortion of a model, and the curve of what its prior and likelihood allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.pairwise import reads_of
from deeplvm.evaluation.latents.posterior_means import is_discrete
from deeplvm.gradients import Draw, Sampled
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.rows import Names, Tensors, at_least, for_rows, redrawn, rows_of
from deeplvm.inference.tempering import Chains, Population, Walk
from deeplvm.randomness import RowNoise
from deeplvm.results import Record, shown_mean

BETAS = (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0)


@dataclass(frozen=True, eq=False)
class TemperedPoint(Record, means="ess"):
    r"""A point of the curve, from :math:`p_\beta(z|x) \propto p(z)\, p(x|z)^\beta`; nats.

    Attributes:
        beta: The inverse temperature; the slope of the curve here is :math:`-\beta`.
        rate: :math:`KL(p_\beta(z|x) \| p(z))` of each row, shape ``(rows,)``: in expectation no
            lower than the lowest rate at this distortion.
        distortion: :math:`-E_{p_\beta} \log p(x|z)`, shape ``(rows,)``.
        ess: Effective number of chains, shape ``(rows,)``.
    """

    beta: float
    rate: Tensor
    distortion: Tensor
    ess: Tensor


@dataclass(frozen=True, eq=False)
class RateDistortion(Record, also="elbo rows"):
    r"""Rate R and distortion D of q, nats a row; :math:`-L(q) = R + D`.

    Attributes:
        rate: :math:`KL(q(z|x) \| p(z))` of each row, shape ``(rows,)``.
        distortion: :math:`-E_q \log p(x|z)` of each row, shape ``(rows,)``.
        curve: Points of the curve, by rising :math:`\beta`; of the first rows only, if it was
            asked for fewer.
        particles: Draws a row for q, and chains a row for the curve.
        temperatures: Densities of the walk.
    """

    rate: Tensor
    distortion: Tensor
    curve: tuple[TemperedPoint, ...]
    particles: int
    temperatures: int

    header: ClassVar = ("", "rate", "distortion", "rate + distortion")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.rate)

    @property
    def elbo(self) -> Tensor:
        r""":math:`-(R + D)` of each row, shape ``(rows,)``."""
        return -(self.rate + self.distortion)

    def table(self) -> list[tuple[str, ...]]:
        points = [("q", self.rate, self.distortion)]
        points += [(f"β = {p.beta:g}", p.rate, p.distortion) for p in self.curve]
        return [(name, shown_mean(r), shown_mean(d), shown_mean(r + d)) for name, r, d in points]

    def notes(self) -> list[str]:
        return [f"nats a row, ± one standard error over {self.rows:,} rows"]


def rate_distortion(
    model: LatentVariableModel,
    data: NamedRows,
    *,
    betas: Sequence[float] = BETAS,
    particles: int = 16,
    temperatures: int = 300,
    steps: int = 5,
    batch_size: int = 100,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> RateDistortion:
    r"""Where the model is in the plane of rate and distortion, and where it could be.

    The rate is what the latents cost, the distortion what is lost with them. For p(z) and p(x|z)
    as they are, no q is below the curve of the tempered posteriors
    :math:`p_\beta(z|x) \propto p(z)\, p(x|z)^\beta`. Its slope is :math:`-\beta`; at
    :math:`\beta = 1` it touches the line :math:`R + D = -\log p(x)`, and the model's own point is
    on :math:`R + D = -L(q)`, above by :math:`KL(q(z|x) \| p(z|x))`.

    Chains start in the prior and walk through rising :math:`\beta` by Hamiltonian transitions,
    whose step sizes a pilot run finds. With weights :math:`w` and their mean :math:`\hat Z_\beta`,

    .. math:: \hat D_\beta = -\frac{\sum_k w_k \log p(x|z_k)}{\sum_k w_k}, \qquad
              \hat R_\beta = -\log \hat Z_\beta - \beta \hat D_\beta .

    In expectation this point is on or above the curve, whatever the walk: it is that of the
    distribution from which weighted chains are picked, whose rate :math:`\hat R` exceeds. Slower
    walks come nearer. One walk gives all points.

    Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464; Evaluating Lossy
    Compression Rates of Deep Generative Models (Huang et al., 2020),
    https://arxiv.org/abs/2008.06653

    Args:
        betas: Where the curve is wanted; none for the model's own point alone, which any model
            has.
        particles: Draws a row, and chains a row.
        temperatures: Densities of the walk, at least; dense near the prior.
        steps: Leapfrog steps a transition: the walk costs ``temperatures * steps`` gradients a
            chain.
        draw: How a latent is drawn from q.

    Raises:
        ValueError: If a curve is wanted and a latent is discrete, shared, or has a prior that
            reads an observed name; or a number is below its least.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z": StandardNormal(1)}))
        >>> found = rate_distortion(model, {"x": torch.ones(3, 2)}, betas=[1.0], temperatures=20)
        >>> float(found.rate.mean()), len(found.curve)
        (0.0, 1)
    """
    at_least(1, particles=particles, temperatures=temperatures, steps=steps)
    if any([not 0 < beta < math.inf for beta in betas]):
        raise ValueError(f"betas are above 0, found {list(betas)}.")
    rows, every = rows_of(model, data, omit=redrawn(draw)), sorted(set(betas))

    def measure(given: Tensors, _: Names, noise: RowNoise) -> Tensors:
        evidence = model.evidence(
            given, particles=particles, draw=noise.draws(draw or (), draw),
            default=noise.of(Sampled()), missing=rows.missing, rows=rows.data_rows,
        )  # fmt: skip
        found = _own(evidence)
        if every:
            _refuse_curve(model, evidence)
            space = LatentSpace(model, given, rows.missing, noise=noise)
            found |= _points(Walk(space, "prior", steps), every, temperatures, particles)
        return {key: value.double().cpu() for key, value in found.items()}

    marked = [f"{what}/{beta}" for beta in betas for what in ("rate", "distortion")]
    joined = for_rows(
        model, rows, measure, batch_size=batch_size, seed=seed,
        finite=("rate", "distortion", *marked),
    )  # fmt: skip
    curve = [
        TemperedPoint(beta, *[joined[f"{key}/{beta}"] for key in ("rate", "distortion", "ess")])
        for beta in every
    ]
    return RateDistortion(
        joined["rate"], joined["distortion"], tuple(curve), particles, temperatures
    )


def _own(evidence: Evidence) -> dict[str, Tensor]:
    """Rate and distortion of q, each ``(batch,)``; the rate in closed form where there is one."""
    if not evidence.latents:
        raise ValueError("Everything is given: without a latent there is no rate.")
    rate = evidence.total([evidence.kl(name) for name in evidence.latents])
    distortion = evidence.total([-evidence.terms[name] for name in evidence.observed])
    return {"rate": evidence.expectation(rate), "distortion": evidence.expectation(distortion)}


def _refuse_curve(model: LatentVariableModel, evidence: Evidence) -> None:
    read = {name for each in evidence.latents for name in reads_of(model.p, evidence, each)}
    if guilty := sorted(read & set(evidence.observed)):
        raise ValueError(
            f"The prior of the latents reads {', '.join(guilty)}, which is observed, so chains "
            f"cannot start in it; ask for the model's own point alone, betas=()."
        )
    discrete = [name for name in evidence.latents if is_discrete(evidence.p[name])]
    if discrete:  # a sum over its values would be another, smaller rate than the one of q
        raise ValueError(
            f"{', '.join(discrete)}: a discrete latent has no chains that follow a gradient, so "
            f"no curve; ask for the model's own point alone, betas=()."
        )


def _points(
    walk: Walk, betas: list[float], temperatures: int, particles: int
) -> dict[str, Tensor]:
    """Rate, distortion and effective chains at every one of the betas, ``(rows,)``."""
    # Far from the prior a density changes as its temperature by a share: steps that grow with the
    # temperature. The fourth power does that, and begins gently.
    path = [betas[-1] * (t / temperatures) ** 4 for t in range(1, temperatures)]
    every = sorted({*path, *betas})
    found: dict[str, Tensor] = {}

    def visit(at: int, population: Population, chains: Chains) -> None:
        beta = every[at]
        if beta in betas:
            share = population.log_weight.exp()
            distortion = -(share * chains.change).sum(0)
            found[f"distortion/{beta}"] = distortion
            found[f"rate/{beta}"] = -population.log_px - beta * distortion
            found[f"ess/{beta}"] = population.ess

    walk.run(particles, walk.schedule(every, moves=True), "walk", visit=visit)
    return found
