"""Rates of counts: what is expected of each row, and how two groups of rows differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Reparameterised, Sampled
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre
from deeplvm.inference.missing import Weights
from deeplvm.inference.rows import Names, Tensors, for_rows, rows_of
from deeplvm.parallel.processes import processes
from deeplvm.randomness import RowNoise
from deeplvm.results import Record

_NUMBERS = 1 << 23  # rates that are held at a time
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class DifferentialRates(
    Record, lists="rates log_fold_change stderr probability", without="draws", means="ess"
):
    r"""How the rates of two groups of rows differ, column by column.

    Attributes:
        names: Of the columns.
        rates: Mean share of what is counted, of the first and the second group, ``(2, columns)``.
        log_fold_change: Posterior mean of :math:`\log_2` of the first over the second,
            ``(columns,)``.
        stderr: Its posterior standard deviation, ``(columns,)``.
        probability: That it is beyond ``threshold``, up or down, ``(columns,)``.
        threshold: In powers of two.
        rows: How many rows each group has.
        ess: Effective number of particles of each row; where it is near 1 the error is too small.
        draws: Of the log fold change, shape ``(draws, columns)``.
    """

    names: tuple[str, ...]
    rates: Tensor
    log_fold_change: Tensor
    stderr: Tensor
    probability: Tensor
    threshold: float
    rows: tuple[int, int]
    ess: Tensor
    draws: Tensor

    header = ("column", "log2 fold change", "P(beyond)")

    def heading(self) -> str:
        return f"{self.rows[0]:,} rows against {self.rows[1]:,}"

    def table(self) -> list[tuple[str, str, str]]:
        """The columns that differ most surely."""
        sure = (self.log_fold_change.abs() / self.stderr.clamp_min(1e-12)).argsort(descending=True)
        return [
            (
                self.names[i],
                f"{self.log_fold_change[i]:.2f} ± {self.stderr[i]:.2f}",
                f"{self.probability[i]:.3f}",
            )
            for i in sure[:_SHOWN].tolist()
        ]

    def notes(self) -> list[str]:
        what = "of what each row's rates are, and of which rows there are"
        weights = "the model's weights are taken as they are"
        beyond = f"beyond is by more than {self.threshold:g}"
        return [f"± is the posterior's standard deviation, {what}; {weights}; {beyond}."]


def denoised(
    model: LatentVariableModel,
    rows: NamedRows,
    *,
    name: str = "x",
    total: float | None = None,
    given: Mapping[str, float] | None = None,
    particles: int = 25,
    seed: int = 0,
) -> Tensor:
    r"""The posterior mean :math:`E[E[x | z] | x]` of each row, shape ``(rows, *event)``.

    By importance weights: particles of :math:`q(z | x)` count as :math:`p(x, z) / q(z | x)`.

    Args:
        model: Of counts.
        rows: Which rows.
        name: Whose mean.
        total: What the expected counts of a row are to sum to; as they are.
        given: Values of inputs of p that all rows are to have instead of their own: ``{"y": 0}``
            for rates as in the first batch.
        particles: Draws a row.
    """

    def measure(weights: Weights, means: Tensor, _: RowNoise) -> dict[str, Tensor]:
        means = means if total is None else total * _shares(means)
        return {"mean": (weights.beside(means) * means).sum(0)}

    return _Rates(model, name, given, particles, seed).of_each(rows, measure)["mean"].cpu()


def differential_rates(
    model: LatentVariableModel,
    first: NamedRows,
    second: NamedRows,
    *,
    name: str = "x",
    given: Mapping[str, float] | None = None,
    threshold: float = 1.0,
    draws: int = 200,
    particles: int = 25,
    seed: int = 0,
) -> DifferentialRates:
    r"""The posterior of how the mean rates of two groups of rows differ.

    A draw of a group's rates is the mean over its rows of the shares
    :math:`E[x_d | z] / \sum_d E[x_d | z]` at one z of each row's posterior, by importance
    resampling, with the rows weighted as in The Bayesian Bootstrap (Rubin, 1981),
    https://doi.org/10.1214/aos/1176345338. So the error holds what is not known of each row and
    which rows there happen to be; the weights of the model are taken as they are.

    Args:
        model: Of counts.
        first: Rows of the one group.
        second: Rows of the other.
        name: Whose rates.
        given: Values of inputs of p that all rows are to have instead of their own.
        threshold: A log fold change, base 2, beyond which a column counts as changed.
        draws: Of the posterior.
        particles: Draws a row.

    >>> from deeplvm import Joint
    >>> from deeplvm.conditionals import Multinomial
    >>> words = LatentVariableModel(Joint({"x": Multinomial(3)}))
    >>> one = {"x": torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 1.0]])}
    >>> differential_rates(words, one, one).log_fold_change.abs().max() < 1e-6
    tensor(True)
    """
    rates = _Rates(model, name, given, particles, seed)
    (one, ess), (other, more) = rates.means_of(first, draws), rates.means_of(second, draws)
    changes = (one / other).log2()
    known = rows_of(model, first).description
    columns = None if known is None else known.variables[name].columns
    return DifferentialRates(
        tuple(columns or [str(place) for place in range(changes.shape[1])]),
        torch.stack([one.mean(0), other.mean(0)]),
        changes.mean(0),
        changes.std(0),
        (changes.abs() > threshold).double().mean(0),
        threshold,
        (len(ess), len(more)),
        torch.cat([ess, more]),
        changes,
    )


Measured = Callable[[Weights, Tensor, RowNoise], dict[str, Tensor]]


@dataclass(frozen=True)
class _Rates:
    """What is expected of a name of counts."""

    model: LatentVariableModel
    name: str
    given: Mapping[str, float] | None
    particles: int
    seed: int

    def of_each(self, rows: NamedRows, measure: Measured) -> dict[str, Tensor]:
        """Quantities of each row, from the weights of its particles and the means at them."""

        def batch(values: Tensors, missing: Names, noise: RowNoise) -> Tensors:
            return measure(*self.at_particles(values, missing, noise), noise)

        width = math.prod(rows_of(self.model, rows).source[self.name].shape[1:])
        size = max(1, _NUMBERS // (self.particles * max(1, width)))
        return for_rows(self.model, rows, batch, batch_size=size, seed=self.seed, finite=())

    def means_of(self, rows: NamedRows, draws: int) -> tuple[Tensor, Tensor]:
        """Draws of the mean rates of some rows, shape ``(draws, columns)``; ess of each row."""
        sums: list[Tensor] = []
        weight = torch.zeros(draws, dtype=torch.float64)

        def measure(weights: Weights, means: Tensor, noise: RowNoise) -> dict[str, Tensor]:
            shares = _shares(means).flatten(2)  # (K, B, columns)
            with noise.drawing("rates", (draws, shares.shape[1])):
                uniform = torch.rand(draws, shares.shape[1], 2, device=shares.device)
            chosen = weights.chosen(uniform[..., 0])  # (draws, B)
            each = -torch.log1p(-uniform[..., 1].double())  # of the Bayesian bootstrap
            found = torch.zeros(draws, shares.shape[2], dtype=torch.float64, device=shares.device)
            for row in range(shares.shape[1]):
                found += each[:, row, None] * shares[chosen[:, row], row]
            sums[:] = [found if not sums else sums[0] + found]
            weight.add_(each.sum(1).cpu())
            return {"ess": weights.ess}

        found = self.of_each(rows, measure)
        total = sums[0].cpu() if sums else None
        if not processes().alone:
            width = math.prod(rows[self.name].shape[1:])
            own = torch.zeros(draws, width, dtype=torch.float64) if total is None else total
            total, weight = processes().sum(own), processes().sum(weight)
        if total is None:
            raise ValueError("A group has no rows; name another.")
        return total / weight[:, None], found["ess"].cpu()

    def at_particles(
        self, values: dict[str, Tensor], missing: frozenset[str], noise: RowNoise
    ) -> tuple[Weights, Tensor]:
        """Weights of particles, and what is expected at each, shape ``(K, batch, *event)``."""
        model, given = self.model, self.given or {}
        evidence = model.evidence(
            values, particles=self.particles, default=noise.of(Reparameterised()), missing=missing
        )
        trace: Any = evidence.p
        if given:
            if unknown := [each for each in given if each not in model.p.inputs]:
                raise ValueError(
                    f"p has no input {unknown[0]!r} to be given; it has "
                    f"{', '.join(model.p.inputs) or 'none'}."
                )
            known = {each: evidence.p[each] for each in evidence.latents}
            for each, value in given.items():
                known[each] = model.site(each, torch.full_like(values[each], value))
            others = [each for each in model.p.inputs if each not in given and each in values]
            known |= {each: model.site(each, values[each]) for each in others}
            trace = model.p(known, evidence.batch_shape, default=noise.of(Sampled()))
        own = trace[self.name].distribution
        means = centre(own).expand(*evidence.batch_shape, *own.event_shape)
        return Weights.of(evidence), means.flatten(0, len(evidence.batch_shape) - 2)


def _shares(means: Tensor) -> Tensor:
    whole = means.flatten(2).sum(-1)
    return means / whole.reshape(*whole.shape, *[1] * (means.dim() - 2))
