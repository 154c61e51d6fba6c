r"""What the latents are used for: divergence, active units, collapsed dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import Factored
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked
from deeplvm.core.trace import Site
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.posterior_means import full, mean_values
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows, redrawn, rows_of
from deeplvm.likelihood.chunks import rows_at_once
from deeplvm.randomness import evaluating
from deeplvm.results import Record, number, stderr_of

ACTIVE = 1e-2
"""A dimension whose posterior mean has a smaller variance over the data is not active."""
_BATCH = 256


@dataclass(frozen=True, eq=False)
class LatentUse(
    Record,
    also="dimensions active_units carrying",
    without="name",
    lists="kl_by_dimension variance",
    keys={"carrying": "dimensions_of_95_percent", "variance": "variance_of_posterior_mean"},
):
    r"""How one latent variable is used.

    Attributes:
        name: Its name.
        shape: Its shape in one row, ``(*right, *event)``; a discrete one as networks see it
            (one-hot). Of steps up to a length, that in one step.
        kl: :math:`E_x KL(q(z|x) \| p(z))`, mean over rows, nats; of a latent shared by all rows,
            1/N of the data's.
        kl_stderr: Standard error over rows.
        closed_form: Whether ``kl`` is the closed form, averaged over draws of its parents; a mean
            of sampled terms otherwise.
        kl_by_dimension: Mean over rows of each dimension's divergence, over all steps of a row,
            shape ``shape``; ``None`` where the distributions do not factorise over dimensions, or
            no closed form is known.
        variance: :math:`A_u = Var_x(E_q[u | x])`, over rows, or all steps of all rows, shape
            ``shape``; ``None`` for a latent shared by all rows, which has no rows to vary over.
    """

    name: str
    shape: tuple[int, ...]
    kl: float
    kl_stderr: float
    closed_form: bool
    kl_by_dimension: Tensor | None
    variance: Tensor | None

    @property
    def dimensions(self) -> int:
        """Number of dimensions."""
        return math.prod(self.shape)

    @property
    def active_units(self) -> int | None:
        """Dimensions whose posterior mean varies over the data by more than 0.01."""
        return None if self.variance is None else int((self.variance > ACTIVE).sum())

    @property
    def carrying(self) -> int | None:
        """How many dimensions carry 95 % of the divergence, where it has a part for each."""
        each = self.kl_by_dimension
        return None if each is None else carrying(each.tolist())

    @property
    def collapsed(self) -> bool:
        """Whether no dimension is active: the latent carries nothing about a row."""
        return self.active_units == 0

    def __str__(self) -> str:
        told = [f"{self.name}: KL {number(self.kl, self.kl_stderr)} nats"]
        if self.carrying is not None and not self.collapsed:
            told.append(f"{self.carrying} of {self.dimensions} dimensions carry 95 % of it")
        if self.variance is not None:
            told.append(f"{self.active_units} of {self.dimensions} active")
        return ", ".join(told)


def flat(numbers: Sequence[Any]) -> list[float]:
    """Numbers of each step, channel or element of a latent, lists in lists, in one list.

    >>> flat([[1.0, 2.0], [3.0, 4.0]])
    [1.0, 2.0, 3.0, 4.0]
    """
    return np.asarray(numbers, dtype=float).flatten().tolist()


def carrying(divergences: Sequence[Any], share: float = 0.95) -> int:
    """The fewest dimensions that have so large a part of the divergence.

    >>> carrying([[0.1, 5.0], [0.0, 3.0]])
    2
    """
    sums = list(itertools.accumulate(sorted(flat(divergences), reverse=True)))
    return 1 + sum([each < share * sums[-1] for each in sums])


def latent_use(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 32,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> dict[str, LatentUse]:
    r"""Divergence and active units of every latent, by name, in the order in which q draws them.

    A unit u is active if :math:`A_u = Var_x(E_{q(u|x)}[u]) > 10^{-2}`: Importance Weighted
    Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519. Where q gives the mean in
    closed form it is exact; otherwise the noise of the mean over draws is subtracted from the
    variance.

    Args:
        particles: Draws a row; they matter only where a latent has latent parents, or no closed
            form.
        draw: How a latent is drawn; a name given here is drawn even if the data have it.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
        >>> q = Joint({"z": Gaussian(2)})  # does not look at x
        >>> latent_use(LatentVariableModel(p, q), {"x": torch.randn(50, 3)})["z"].active_units
        0
    """
    rows = rows_of(model, data, omit=redrawn(draw))
    tallies: dict[str, _Sums] = {}
    with evaluating(model, seed):
        size = min(_BATCH, rows_at_once(model, rows, particles, draw))
    with evaluating(model, seed):
        for _, given in rows.each(size):
            evidence = model.evidence(
                given, particles=particles, draw=draw, missing=rows.missing, rows=rows.data_rows
            )
            for name in evidence.latents:
                tallies.setdefault(name, _Sums()).add(evidence, name)
    return {name: tally.result(name) for name, tally in tallies.items()}


def read_by_p(model: LatentVariableModel, use: Mapping[str, LatentUse]) -> Mapping[str, LatentUse]:
    """Latents from which p computes something; an auxiliary one of q is free to say nothing."""
    if not isinstance(model.p, Factored):
        return use
    read = {parent.name for name in model.p.names for parent in model.p.parents(name)}
    return {name: latent for name, latent in use.items() if name in read}


class _Sums:
    """Sums over rows for one latent."""

    def __init__(self) -> None:
        self.kl: list[Tensor] = []
        self.closed_form = True
        self.by_dimension: Tensor | None = None
        self.mean: Tensor | None = None  # of the posterior means over the rows so far
        self.squares: Tensor | float = 0.0  # sum of squared deviations from it
        self.noise: Tensor | float = 0.0  # sum over rows of the variance of the estimated mean
        self.rows = 0
        self.units = 0  # rows, or steps of rows, over which means vary
        self.shape: tuple[int, ...] = ()

    def add(self, evidence: Evidence, name: str) -> None:
        site = evidence.q[name]
        batch, steps = evidence.batch_shape[-1], _steps_of(site)
        each, self.closed_form = evidence.kl(name), evidence.has_closed_kl(name)
        self.kl.append(_expectation(evidence, each, 0).double().cpu().clone())
        by_dimension = _by_dimension(evidence, name)
        if by_dimension is not None:
            here = _expectation(evidence, by_dimension, site.value.dim() - site.batch_dims)
            here = here if steps is None else here.sum(1)
            before = 0.0 if self.by_dimension is None else self.by_dimension
            self.by_dimension = before + here.double().sum(0).cpu().clone()
        if name in evidence.shared:
            self.shape = tuple(site.value.shape[site.batch_dims :])
            self.rows += batch
            return
        means, noise = _posterior_mean(evidence, site)
        means, noise = means.double().cpu(), noise.double().cpu()
        if steps is not None:
            means, noise = means[steps], noise[steps]
        self.shape, units = tuple(means.shape[1:]), len(means)
        # Chan, Golub and LeVeque's update of a mean and its squares by a batch
        mean = means.mean(0)
        squares = (means - mean).square().sum(0)
        if self.mean is None:
            self.mean, self.squares = mean.clone(), squares.clone()
        else:
            gap, total = mean - self.mean, self.units + units
            self.squares = self.squares + squares + gap.square() * (self.units * units / total)
            self.mean = self.mean + gap * (units / total)
        self.noise = self.noise + noise.sum(0)
        self.rows, self.units = self.rows + batch, self.units + units

    def result(self, name: str) -> LatentUse:
        kl = torch.cat(self.kl)
        variance = None
        if self.mean is not None:
            spread = torch.as_tensor(self.squares) / max(self.units - 1, 1)
            variance = (spread - torch.as_tensor(self.noise) / self.units).clamp(min=0.0).clone()
        by_dimension = None if self.by_dimension is None else self.by_dimension / self.rows
        mean, error = float(kl.mean()), stderr_of(kl)
        return LatentUse(name, self.shape, mean, error, self.closed_form, by_dimension, variance)


def _steps_of(site: Site) -> Tensor | None:
    """Which steps of each row count, ``(batch, steps)``, where rows have a length."""
    if not isinstance(site.distribution, Masked):
        return None
    mask = site.distribution.mask.cpu()
    return mask.reshape(-1, *mask.shape[-2:])[0]


def _expectation(evidence: Evidence, values: Tensor, event: int) -> Tensor:
    """Mean over the particles of ``(*particles, batch, *event)``: shape ``(batch, *event)``."""
    return _by_particle(evidence, values, event).mean(0)


def _by_particle(evidence: Evidence, values: Tensor, event: int) -> Tensor:
    """Enumerated values summed with their weights: shape ``(K, batch, *event)``."""
    shape = evidence.batch_shape
    values, outer = full(values, event, shape), tuple(range(len(shape) - 2))
    if not outer or not isinstance(evidence.log_measure, Tensor):
        return values
    weight = (evidence.log_measure + math.log(shape[-2])).exp()
    weight = weight.expand(shape).reshape(*shape, *[1] * event)
    return torch.where(weight == 0, 0.0, weight * values).sum(outer)


def _by_dimension(evidence: Evidence, name: str) -> Tensor | None:
    try:
        return evidence.kl_by_dimension(name)
    except (ValueError, NotImplementedError):
        return None


def _posterior_mean(evidence: Evidence, site: Site) -> tuple[Tensor, Tensor]:
    """``E_q[u | x]`` and the variance of its estimate, each of shape ``(batch, *shape)``."""
    values, event = mean_values(site)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    each = _by_particle(evidence, values, event).double()  # (K, B, *shape)
    noise = torch.zeros_like(each[0]) if len(each) == 1 else each.var(0) / len(each)
    return each.mean(0), noise
