r"""Imputation: what is missing in a row given what is observed in it, :math:`p(x_m | x_o)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from deeplvm.core.draws import Draw
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.completion import Complete, completable, complete, to_complete
from deeplvm.inference.diagnostics import TOO_HEAVY
from deeplvm.inference.missing import By, MissingMixture, Weights, pieces
from deeplvm.inference.rows import (
    Names,
    Rows,
    Tensors,
    at_least,
    for_rows,
    redrawn,
    rows_of,
    together,
)
from deeplvm.randomness import RowNoise

_NUMBERS = 2**22  # in the largest tensor of a batch
_BY_NAME = ("values", "missing", "lower", "upper", "probability")


@dataclass(frozen=True, eq=False)
class Imputation:
    r"""What stands where elements were missing, and how sure that is.

    Attributes:
        values: By name, shape ``(rows, *event)``: what was observed as it was, the rest filled.
        missing: By name, which elements were missing, the same shape.
        lower: By name, where an interval was asked for: its lower end for each missing element,
            NaN elsewhere and where values have no order.
        upper: Its upper end.
        probability: By name, the probability of what was filled in, where values are counted
            (categories, levels); NaN elsewhere.
        draws: By name, draws of :math:`p(x_m | x_o)` beside what was observed, shape
            ``(draws, rows, *event)``.
        ess: Effective number of particles of each row; NaN where nothing was missing.
        pareto_k: Shape of the tail of a row's weights, as in
            :func:`~deeplvm.inference.pareto_k`; NaN where nothing was missing.
        particles: How many were drawn for each row.
    """

    values: dict[str, Tensor]
    missing: dict[str, Tensor]
    lower: dict[str, Tensor] = field(default_factory=dict)
    upper: dict[str, Tensor] = field(default_factory=dict)
    probability: dict[str, Tensor] = field(default_factory=dict)
    draws: dict[str, Tensor] = field(default_factory=dict)
    ess: Tensor = field(default_factory=lambda: torch.zeros(0))
    pareto_k: Tensor = field(default_factory=lambda: torch.zeros(0))
    particles: int = 0

    @property
    def filled(self) -> int:
        """How many elements were missing."""
        return sum([int(holes.sum()) for holes in self.missing.values()])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, and what to do, in words; empty if nothing is."""
        return heavy_rows(self.pareto_k, self.particles)

    def to_columns(self) -> dict[str, Tensor]:
        """All of it as quantities of rows; :meth:`of_columns` gives it back."""
        found = {f"draws/{n}": each.transpose(0, 1) for n, each in self.draws.items()}
        for what in _BY_NAME:
            found |= {f"{what}/{n}": each for n, each in getattr(self, what).items()}
        return found | {"ess": self.ess, "pareto_k": self.pareto_k}

    @classmethod
    def of_columns(cls, columns: Mapping[str, Tensor], particles: int) -> Imputation:
        """From quantities of rows; draws of rows that lack nothing are these rows."""
        found: dict[str, dict[str, Tensor]] = {what: {} for what in (*_BY_NAME, "draws")}
        for key, value in columns.items():
            what, _, name = key.partition("/")
            if name:
                found[what][name] = value
        for name, each in found["draws"].items():
            drawn = each.transpose(0, 1)
            there = ~found["missing"][name]
            found["draws"][name] = torch.where(there, found["values"][name].to(drawn), drawn)
        return cls(**found, ess=columns["ess"], pareto_k=columns["pareto_k"], particles=particles)

    def __repr__(self) -> str:
        rows = int((~self.ess.isnan()).sum())
        return f"Imputation({self.filled:,} elements of {rows:,} rows, {self.particles} particles)"


def heavy_rows(k: Tensor, particles: int) -> tuple[str, ...]:
    """A warning where the weights of rows with holes have too heavy a tail."""
    rows, heavy = int((~k.isnan()).sum()), int((k > TOO_HEAVY).sum())
    if not heavy:
        return ()
    text = (
        f"Pareto k-hat is above {TOO_HEAVY} in {heavy:,} of {rows:,} rows with missing values: "
        f"what is said of them rests on few of the {particles:,} particles, and may be off by "
        f"more than its error says; take more particles, or fit with --hide 0.5, so that q learns "
        f"what a missing value means."
    )
    return (text,)


def impute(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    by: By = "auto",
    particles: int = 200,
    draws: int = 0,
    level: float | None = None,
    draw: Mapping[str, Draw] | None = None,
    completed: Complete = "auto",
    batch_size: int | None = None,
    seed: int = 0,
) -> Imputation:
    r"""Fill what is missing (NaN) by :math:`p(x_m | x_o)`, the rest of the row given.

    .. math:: p(x_m | x_o) \approx \sum_k w_k\, p(x_m | x_o, z_k), \quad
              w_k \propto \frac{p(x_o, z_k)}{q(z_k | x_o)}, \quad z_k \sim q(z | x_o)

    A single value is that which makes the expected error smallest: the mean
    :math:`\sum_k w_k E[x_m | x_o, z_k]` the squared error, the median of that mixture the absolute
    error, the mode :math:`\arg\max_c \sum_k w_k p(x_m = c | x_o, z_k)` the share of wrong values.
    Elements that depend on each other given z are taken given the observed ones.

    MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen,
    2019), https://arxiv.org/abs/1812.02633; draws by importance resampling as in its section 4.

    Args:
        model: Left as it was.
        data: Rows: ``data.test``, or named tensors ``(rows, *event)``, NaN where one is missing.
        by: What is filled in. ``"auto"``: the mode of categories and of 0 and 1, the median of
            ordered levels, the mean of counts to the nearest whole number, the mean of reals.
            Categories have neither mean nor median, so that their mode stands there. ``"draw"`` is
            one draw, which varies as values do.
        particles: K.
        draws: How many draws of :math:`p(x_m | x_o)` are returned as well.
        level: Probability of the intervals, such as 0.95; none without.
        draw: How a latent is drawn, as in :meth:`LatentVariableModel.evidence`.
        completed: Whether q reads completions of the rows
            (:func:`~deeplvm.inference.completion.complete`): ``"auto"`` where its weights for the
            row as it is have too heavy a tail, ``True`` in all rows with holes, as is right where
            q was trained on complete rows, ``False`` nowhere.
        batch_size: Rows at a time; chosen by size if left out. No matter for the result.
        seed: Same seed, same result.

    Raises:
        ValueError: If a likelihood says nothing of some elements given others, or an option makes
            no sense.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> x = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
        >>> found = impute(model, {"x": x}, level=0.95, draws=5)
        >>> found.filled, found.draws["x"].shape
        (1, torch.Size([5, 2, 2]))
        >>> bool(found.lower["x"][0, 1] < found.values["x"][0, 1] < found.upper["x"][0, 1])
        True
    """
    at_least(1, particles=particles, batch_size=batch_size)
    at_least(0, draws=draws)
    if by not in get_args(By):
        raise ValueError(f"by is one of {', '.join(get_args(By))}, not {by!r}.")
    if level is not None and not 0.0 < level < 1.0:
        raise ValueError(f"level is a probability between 0 and 1, such as 0.95, not {level}.")
    rows = rows_of(model, data, omit=redrawn(draw))
    names = [n for n in rows.names if n in rows.missing and n in model.p.names]
    known = rows.description
    variables = {} if known is None else {**known.variables, "y": known.label}
    values, missing = _observed(rows)
    if rows.lengths:  # padded alike, whichever rows are looked at
        rows = replace(rows, source=values)
    each = [holes.reshape(rows.rows, -1).any(1) for holes in missing.values()]
    some = torch.stack(each).any(0)
    index = some.nonzero().squeeze(-1)
    out = Imputation(values, missing, particles=particles)
    if not len(index) or not names:
        empty = torch.full((rows.rows,), math.nan, dtype=torch.float64)
        return replace(out, ess=empty, pareto_k=empty)

    def filled(model: LatentVariableModel, rows: Rows) -> dict[str, Tensor]:
        def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
            def drawn(count: int) -> Evidence:
                ways = noise.draws(model.q.names, draw)
                return model.evidence(
                    given, particles=count, missing=missing, rows=rows.data_rows, draw=ways
                )

            evidence = drawn(particles if model.q.names else 1)
            known = [evidence.p[name].distribution for name in names]
            if not model.q.names and not all([own and pieces(own) for own in known]):
                evidence = drawn(particles)  # no latents, but elements of which one has draws only
            weights = Weights.of(evidence)
            found = {"ess": weights.ess, "pareto_k": weights.pareto_k}
            for name in names:
                posterior = MissingMixture.of(name, evidence, given[name], weights, noise)
                told = posterior.summary(by, level, variables.get(name))
                if draws:
                    told["draws"] = torch.stack([posterior.draw() for _ in range(draws)], 1)
                found |= {f"{what}/{name}": value for what, value in told.items()}
            return found

        found = for_rows(model, rows, measure, batch_size=size, seed=seed, finite=())
        return {what: value.cpu() for what, value in found.items()}

    elements = max([1, *[value[0].numel() for value in rows[slice(0, 1)].values()]])
    size = batch_size or max(1, min(500, _NUMBERS // (particles * elements)))
    every = len(index) == rows.rows
    chosen = rows if every else rows.take(index)
    anew = completed is True and not completable(model, chosen, draw)
    joined = {} if anew else filled(model, chosen)
    again = to_complete(model, chosen, joined.get("pareto_k"), completed, draw)
    if len(again):
        some = chosen.take(again)
        other = complete(model, some, draw=draw, seed=seed)
        better = filled(other.model, other.rows_as(some))
        for what, value in better.items():
            whole = joined.setdefault(what, torch.zeros(len(index), *value.shape[1:]).to(value))
            whole[again] = value

    for name in names:
        values[name][index] = torch.where(
            missing[name][index], joined[f"value/{name}"].to(values[name]), values[name][index]
        )

    def spread(what: str, name: str) -> Tensor:
        whole = torch.full_like(values[name], math.nan)
        part = joined.pop(f"{what}/{name}").to(whole)
        whole[index] = torch.where(missing[name][index], part, math.nan)
        return whole

    def drawn(name: str) -> Tensor:
        whole = values[name].expand(draws, *values[name].shape).clone()
        part = joined[f"draws/{name}"].to(whole).transpose(0, 1)
        whole[:, index] = torch.where(missing[name][index], part, whole[:, index])
        return whole

    def of_rows(what: str) -> Tensor:
        whole = torch.full((rows.rows,), math.nan, dtype=torch.float64)
        whole[index] = joined[what].double()
        return whole

    return replace(
        out,
        lower={n: spread("lower", n) for n in names} if level else {},
        upper={n: spread("upper", n) for n in names} if level else {},
        probability={n: spread("probability", n) for n in names},
        draws={n: drawn(n) for n in names} if draws else {},
        ess=of_rows("ess"),
        pareto_k=of_rows("pareto_k"),
    )


def _observed(rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All values, and where they are missing."""
    parts = [{n: v.cpu() for n, v in batch.items()} for _, batch in rows.each(10_000)]
    values = {name: together([part[name] for part in parts]) for name in parts[0]}
    return values, {
        name: value.isnan()
        if value.is_floating_point()
        else torch.zeros_like(value, dtype=torch.bool)
        for name, value in values.items()
    }
