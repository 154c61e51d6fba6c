"""Which of several models is better: paired differences, over rows and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from deeplvm.results import Estimate, Record, number, text_table


@dataclass(frozen=True)
class Difference(Estimate):
    r"""How much more likely one model makes rows than another: nats a row, with its error.

    The rows are the pairs: with :math:`\bar a_i` and :math:`\bar b_i` the means over seeds of
    log p of row i,

    .. math:: \widehat{\Delta} = \tfrac1R \textstyle\sum_i (\bar a_i - \bar b_i), \qquad
              \operatorname{se}^2 = \frac{\operatorname{var}_i(\bar a_i - \bar b_i)}{R}
              + \frac{\operatorname{var}_s(\bar a_s)}{S_a}
              + \frac{\operatorname{var}_s(\bar b_s)}{S_b}

    where :math:`\bar a_s` is the mean over rows of seed s; a model of one seed has no such term.
    The degrees of freedom are those of Satterthwaite.

    An Approximate Distribution of Estimates of Variance Components (Satterthwaite, 1946),
    https://doi.org/10.2307/3002019

    Attributes:
        degrees: Of freedom, of the error.
        over_rows: The part of the error that more rows would lessen.
        over_seeds: The part that more seeds would; ``nan`` where either has one.
    """

    degrees: float
    over_rows: float
    over_seeds: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the true difference lies with so much confidence, by Student's t."""
        if not math.isfinite(self.stderr):
            return -math.inf, math.inf
        reach = float(stats.t.ppf(0.5 + level / 2, self.degrees)) * self.stderr
        return self.value - reach, self.value + reach

    def __str__(self) -> str:
        return number(self.value, self.stderr)


def difference(a: Tensor, b: Tensor) -> Difference:
    """The mean of a − b, nats a row.

    Args:
        a: log p of rows by one model, shape ``(seeds, rows)``; of one seed also ``(rows,)``.
        b: By the other, of the same rows.

    Raises:
        ValueError: If the rows are not as many.

    Examples:
        >>> rows = torch.tensor([-3.0, -90.0, -50.0])
        >>> print(difference(rows + torch.tensor([1.0, 1.1, 0.9]), rows))  # rows are the pairs
        1.000 ± 0.058
    """
    a, b = [torch.atleast_2d(each.double()) for each in (a, b)]
    rows = a.shape[1]
    if b.shape[1] != rows:
        raise ValueError(
            f"The rows are the pairs: there are {rows} of one and {b.shape[1]} of the other."
        )
    paired = a.mean(0) - b.mean(0)
    parts = [(_variance(paired), rows)] + [(_variance(e.mean(1)), len(e)) for e in (a, b)]
    known = [(variance / count, count - 1) for variance, count in parts if count > 1]
    total = sum([each for each, _ in known])
    below = sum([each**2 / degrees for each, degrees in known])
    seeds = [variance / count for variance, count in parts[1:] if count > 1]
    return Difference(
        float(paired.mean()),
        math.sqrt(total) if rows > 1 else math.nan,
        total**2 / below if below > 0 else max(rows - 1, 1),
        math.sqrt(parts[0][0] / rows) if rows > 1 else math.nan,
        math.sqrt(sum(seeds)) if len(seeds) == 2 else math.nan,
    )


def _variance(values: Tensor) -> float:
    return float(values.var()) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Compared(Record):
    """One model among others.

    Attributes:
        name: What it is called.
        log_px: Mean log-likelihood, nats a row; its error is over rows, and seeds.
        behind: How much less likely the rows are than under the best.
        seeds: How many runs of it there are.
        parameters: Of the model.
        minutes: Of training, a run.
        exact: Whether log p(x) is, and no estimate from below.
    """

    name: str
    log_px: Estimate
    behind: Difference
    seeds: int = 1
    parameters: int = 0
    minutes: float = math.nan
    exact: bool = False


@dataclass(frozen=True)
class Comparison(Record):
    """Models on the same rows, the best first.

    Attributes:
        models: One a model.
        rows: How many rows.
        what: Which they are.
        settings: What is not the same in all: by option, a value a model in their order.
        warnings: What to know of the numbers.
    """

    models: tuple[Compared, ...]
    rows: int
    what: str = ""
    settings: Mapping[str, tuple[str, ...]] | None = None
    warnings: tuple[str, ...] = ()
    header = (
        "model",
        "log p(x), nats",
        "behind the best",
        "95 %",
        "runs",
        "parameters",
        "minutes",
    )

    def heading(self) -> str:
        """What was compared on what."""
        return f"{len(self.models)} models on the same {self.rows:,} rows{self.what}"

    def table(self) -> list[tuple[str, ...]]:
        """One line a model."""
        return [
            (
                each.name,
                str(each.log_px),
                str(each.behind) if place else "",
                "{:.2f} to {:.2f}".format(*each.behind.interval()) if place else "",
                str(each.seeds),
                f"{each.parameters:,}",
                "" if math.isnan(each.minutes) else f"{each.minutes:.1f}",
            )
            for place, each in enumerate(self.models)
        ]

    def notes(self) -> list[str]:
        """Whether the best is sure to be, what differs, and warnings."""
        best, *others = self.models
        near = [each.name for each in others if each.behind.interval()[0] <= 0]
        said = [
            f"{best.name} is the best"
            + (f"; not told apart from it: {', '.join(near)}." if near else ".")
        ]
        if any([each.seeds == 1 for each in self.models]):
            said.append(
                "Of a model with one run the error is over rows alone: it is of this trained "
                "model, not of what another seed of training would give."
            )
        return [*said, *[f"! {each}" for each in self.warnings]]

    def differing(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """What is not the same in all: a header and a line an option."""
        names = tuple([each.name for each in self.models])
        return ("option", *names), [(k, *values) for k, values in (self.settings or {}).items()]

    def __str__(self) -> str:
        header, rows = self.differing()
        return super().__str__() + (f"\n\n{text_table(rows, header)}" if rows else "")


def compare(
    log_px: Mapping[str, Tensor],
    *,
    parameters: Mapping[str, int] | None = None,
    minutes: Mapping[str, float] | None = None,
    exact: Mapping[str, bool] | None = None,
    what: str = "",
    settings: Mapping[str, tuple[str, ...]] | None = None,
    warnings: tuple[str, ...] = (),
) -> Comparison:
    """Rank models by the log-likelihood of the same rows.

    Args:
        log_px: By name: nats a row, shape ``(seeds, rows)``, or ``(rows,)`` of one seed.
        parameters: How many each has.
        minutes: Of training.
        exact: Whether each one's is.
        what: Which rows, for the heading.
        settings: What differs, by option: a value a model, in the order of ``log_px``.
        warnings: What to know of the numbers.

    Raises:
        ValueError: If there are fewer than two models, or their rows are not as many.
    """
    if len(log_px) < 2:
        raise ValueError(f"A comparison is of two models or more, found {len(log_px)}.")
    found = {name: torch.atleast_2d(each.double()) for name, each in log_px.items()}
    best = found[max(found, key=lambda name: float(found[name].mean()))]
    zero = torch.zeros(best.shape[1])
    models, ranked = [], sorted(found, key=lambda name: -float(found[name].mean()))
    for name in ranked:
        each = found[name]
        alone = difference(each, zero)
        models.append(
            Compared(
                name,
                Estimate(alone.value, alone.stderr),
                difference(best, each),
                len(each),
                (parameters or {}).get(name, 0),
                (minutes or {}).get(name, math.nan),
                (exact or {}).get(name, False),
            )
        )
    places = [list(log_px).index(name) for name in ranked]
    apart = {key: tuple([each[i] for i in places]) for key, each in (settings or {}).items()}
    return Comparison(tuple(models), best.shape[1], what, apart, warnings)
