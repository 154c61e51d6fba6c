r"""How noisy the gradient of each estimator is, measured on one model and the same rows."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw, Enumerated, Sampled, Suited
from deeplvm.gradients.credit import ledger_alone, mixes_rows
from deeplvm.gradients.named import estimator_of
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.objectives import elbo
from deeplvm.randomness import own_randomness
from deeplvm.results import Record

Objective = Callable[[Evidence], Tensor]
_MOST_TUPLES = 20_000


@dataclass(frozen=True)
class GradientNoise:
    r"""One estimator and one group of parameters.

    Attributes:
        estimator: Its name.
        group: ``"p"`` or ``"q"`` (parameters that q shares with p count as p's).
        norm: Of the mean gradient :math:`|E g|`, with the noise of the mean taken off.
        variance: Total variance of one gradient, :math:`E |g - E g|^2`.
        seconds: Of one gradient, forward and backward, of all parameters.
        bias: :math:`|E g - g^*| / |g^*|` against the exact gradient, where it is known.
        bias_error: What the bias would be of an unbiased estimator, from noise alone.
    """

    estimator: str
    group: str
    norm: float
    variance: float
    seconds: float
    bias: float | None = None
    bias_error: float | None = None

    @property
    def signal_to_noise(self) -> float:
        r""":math:`|E g| / \sqrt{E |g - E g|^2}`; infinite without noise."""
        return self.norm / self.variance**0.5 if self.variance > 0 else float("inf")

    @property
    def cells(self) -> tuple[str, ...]:
        """Of the table."""
        numbers = (self.norm, self.variance, self.signal_to_noise, 1e3 * self.seconds)
        bias = "" if self.bias is None else f"{self.bias:.2g} (noise {self.bias_error:.2g})"
        return (self.estimator, self.group, *[f"{number:.3g}" for number in numbers], bias)


@dataclass(frozen=True)
class GradientVariance(Record):
    """What :func:`variance_of_gradient` found; prints as a table.

    Attributes:
        noise: One entry an estimator and group of parameters.
        repeats: Gradients that were drawn for each estimator.
        particles: Draws a row in each.
        rows: Rows over which a gradient is a mean.
    """

    noise: tuple[GradientNoise, ...]
    repeats: int
    particles: int | None
    rows: int

    def __getitem__(self, key: tuple[str, str]) -> GradientNoise:
        """By the names of estimator and group, ``found["doubly", "q"]``."""
        for each in self.noise:
            if (each.estimator, each.group) == key:
                return each
        known = sorted({(each.estimator, each.group) for each in self.noise})
        raise KeyError(f"There is no {key}; there are {known}.")

    @property
    def header(self) -> tuple[str, ...]:  # type: ignore[override]
        """Titles of the table; the bias only where it is known."""
        known = any([each.bias is not None for each in self.noise])
        titles = ("estimator", "of", "norm", "variance", "signal/noise", "ms", "bias")
        return titles if known else titles[:-1]

    def table(self) -> list[tuple[str, ...]]:
        return [each.cells[: len(self.header)] for each in self.noise]

    def notes(self) -> list[str]:
        each = "1 draw" if self.particles is None else f"{self.particles} particles"
        return [f"{self.repeats} gradients of the mean of {self.rows} rows, {each} a row"]


def variance_of_gradient(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    estimators: Mapping[str, Draw | Mapping[str, Draw] | str],
    *,
    objective: Objective = elbo,
    particles: int | None = None,
    repeats: int = 100,
    seed: int = 0,
) -> GradientVariance:
    """The gradient's noise, signal, bias and time under each estimator, on the same rows.

    The model is left as it was, and so are the estimators: a baseline that is to be judged after
    it has learned comes from training. Where every latent can be enumerated, and there are few
    tuples of values, the exact gradient says how large the bias is.

    Args:
        model: In the mode it is in, ``train()`` or ``eval()``.
        estimators: Name to a way of drawing, which draws the latents that it suits; to one a
            latent; or to its spelling, as ``fit`` takes it.
        objective: Ledger to one value per row.
        particles: Draws a row; ``None`` for one without a dimension of its own.
        repeats: Gradients of each estimator.
        seed: Same seed, same numbers (but for the seconds).

    Raises:
        ValueError: If there are fewer than two repeats, or an estimator does not suit the model.

    Examples:
        >>> from deeplvm import Joint, iwae
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.gradients import Reparameterised
        >>> from deeplvm.gradients.path_derivatives import DoublyReparameterised
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(3, 8))}))
        >>> ways = {"plain": Reparameterised(), "doubly": DoublyReparameterised()}
        >>> found = variance_of_gradient(model, {"x": torch.ones(8, 3)}, ways, objective=iwae,
        ...                              particles=64, repeats=20)
        >>> found["doubly", "q"].signal_to_noise > found["plain", "q"].signal_to_noise
        True
    """
    if repeats < 2:
        raise ValueError(f"A variance needs 2 repeats or more, found {repeats}.")
    batches = rows_of(model, data)
    given = batches[slice(0, batches.rows)]
    task = _Task(model, given, objective, particles, batches.data_rows, batches.missing)
    found: list[GradientNoise] = []
    with own_randomness(batches.device, seed):
        reference = task.exact()
    for name, way in estimators.items():
        with own_randomness(batches.device, seed):
            found += _measured(name, task, way, repeats, reference)
    return GradientVariance(tuple(found), repeats, particles, batches.rows)


@dataclass(frozen=True)
class _Task:
    """The gradient that is asked for, whatever estimates it."""

    model: LatentVariableModel
    given: dict[str, Tensor]
    objective: Objective
    particles: int | None
    data_rows: int
    missing: frozenset[str]

    @cached_property
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are trained, by group; none twice."""
        of_p = [each for each in self.model.p.parameters() if each.requires_grad]
        known = {id(each) for each in of_p}
        of_q = [
            each
            for each in self.model.q.parameters()
            if each.requires_grad and id(each) not in known
        ]
        return {name: group for name, group in (("p", of_p), ("q", of_q)) if group}

    @property
    def options(self) -> dict[str, Any]:
        """Of every call of the model."""
        return {"missing": self.missing, "rows": self.data_rows}

    def gradient(self, value: Tensor) -> dict[str, Tensor]:
        """Of one number, one vector a group."""
        every = [each for group in self.groups.values() for each in group]
        found = torch.autograd.grad(value, every, allow_unused=True)
        pieces = iter(
            [
                (torch.zeros_like(each) if grad is None else grad).flatten()
                for each, grad in zip(every, found, strict=True)
            ]
        )
        return {
            name: torch.cat([next(pieces) for _ in group]) for name, group in self.groups.items()
        }

    def exact(self) -> dict[str, Tensor] | None:
        """Of the mean over all tuples of values of the particles, where they can be listed."""
        with torch.no_grad():
            latents = self.model.evidence(self.given, default=Sampled(), **self.options).latents
        draw = dict.fromkeys(latents, Enumerated(most=_MOST_TUPLES))
        try:
            evidence = self.model.evidence(self.given, draw=draw, **self.options)
            value = _over_tuples(evidence, self.objective, self.particles)
        except (ValueError, KeyError):  # not enumerable, or no function of the terms
            return None
        return None if value is None else self.gradient(value)


def _over_tuples(evidence: Evidence, objective: Objective, particles: int | None) -> Tensor | None:
    """The mean over rows of the exact expectation of an objective of so many particles."""
    shape, count = evidence.batch_shape, particles or 1
    states = torch.Size(shape[:-1]).numel()
    if states**count > _MOST_TUPLES or mixes_rows(objective, evidence):
        return None
    index = torch.cartesian_prod(*[torch.arange(states)] * count).reshape(-1, count)
    # (tuples, particles, rows) to (particles, tuples * rows)
    chosen = {
        name: term.expand(shape).reshape(states, -1)[index].transpose(0, 1).flatten(1)
        for name, term in evidence.terms.items()
    }
    if particles is None:
        chosen = {name: term[0] for name, term in chosen.items()}
    measure = torch.as_tensor(evidence.log_measure).expand(shape).reshape(states, -1)
    probability = measure[index].sum(1).exp().flatten()
    alone = ledger_alone(
        evidence,
        chosen,
        batch_shape=tuple(next(iter(chosen.values())).shape),
        log_measure=-math.log(count),
    )
    return (probability * objective(alone)).sum() / shape[-1]


def _measured(
    name: str, task: _Task, way: Any, repeats: int, exact: dict[str, Tensor] | None
) -> list[GradientNoise]:
    """Draw the gradients of one estimator and sum them up, one at a time."""
    way = copy.deepcopy(way)
    if isinstance(way, Mapping):
        how: dict[str, Any] = {"draw": {n: estimator_of(each) for n, each in way.items()}}
    else:
        how = {"default": Suited(estimator_of(way))}
    how |= task.options | {"particles": task.particles}
    task.model.prepare(task.given, **how)
    means: dict[str, Tensor] = {}
    squares = dict.fromkeys(task.groups, 0.0)
    seconds = []
    for number in range(1, repeats + 1):
        started = time.perf_counter()
        value, _ = task.model.estimate(task.objective, task.given, **how)
        found = task.gradient(value.mean())
        seconds.append(time.perf_counter() - started)
        for group, gradient in found.items():
            before = means.get(group, torch.zeros_like(gradient))
            means[group] = before + (gradient - before) / number
            squares[group] += float(((gradient - before) * (gradient - means[group])).sum())
    typical, noise = statistics.median(seconds), []
    for group, mean in means.items():
        variance = squares[group] / (repeats - 1)
        of_mean = variance / repeats  # what noise adds to the squared norm of the mean
        norm = max(0.0, float(mean.square().sum()) - of_mean) ** 0.5
        bias, error = None, None
        if exact is not None and (size := float(exact[group].norm())) > 0:
            bias, error = float((mean - exact[group]).norm()) / size, of_mean**0.5 / size
        noise.append(GradientNoise(name, group, norm, variance, typical, bias, error))
    return noise
