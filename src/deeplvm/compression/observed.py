"""From what a likelihood's network says to the probabilities of the values in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from deeplvm import conditionals as family
from deeplvm.compression import laws
from deeplvm.compression.cells import Cells
from deeplvm.compression.exact import CompressionError
from deeplvm.compression.laws import Law
from deeplvm.compression.tables import ONE, Array, logistic_table, normal_table
from deeplvm.conditionals.heads import positive
from deeplvm.recipes.labelled import GivenLabel


@dataclass(frozen=True)
class Part:
    """Some elements of each row and their law, both ``(rows, elements)``."""

    columns: Array
    law: Law


@dataclass(frozen=True)
class Elements:
    """Which elements a conditional is asked about.

    Attributes:
        rows: How many rows.
        columns: Which elements of a row.
        cells: What these can be.
        shape: The event shape of the conditional.
        holes: Where elements are missing, ``(rows, all elements)``; ``None`` for nowhere.
    """

    rows: int
    columns: Array
    cells: Cells
    shape: tuple[int, ...]
    holes: Array | None = None

    def flat(self, value: Tensor, last: int = 0) -> Array:
        """Parameters as an array ``(rows, elements, *last)``, as many rows as there are."""
        tail = value.shape[value.ndim - last :]
        wide = value.expand(self.rows, *self.shape, *tail)
        return wide.reshape(self.rows, len(self.columns), *tail).numpy()

    @property
    def levels(self) -> Array:
        """How many values each has."""
        own = self.cells.each_levels[self.columns]
        return np.broadcast_to(own, (self.rows, len(own)))

    @property
    def low(self) -> Array:
        """The number of the first value of each."""
        return self.cells.each_low[self.columns]

    def edges(self, unit: Any = None) -> Callable[[Array], Array]:
        """The lower ends of their cells, standardised by units where there are any."""
        edges = self.cells.edges(self.columns)
        if unit is None:
            return edges
        mean, std = (getattr(unit, name).reshape(-1).numpy() for name in ("mean", "std"))
        return lambda k: (edges(k) - mean) / std

    def without_holes(self, law: Law) -> Law:
        """The law, of one value where an element is missing: it then costs nothing."""
        if self.holes is None:
            return law
        return Law(law.cumulative, np.where(self.holes[:, self.columns], 1, law.levels))


def laws_of(
    conditional: nn.Module,
    parents: Sequence[Tensor],
    cells: Cells,
    rows: int,
    holes: Array | None = None,
) -> list[Part]:
    """The laws of all elements of x, in the order in which they are coded.

    Raises:
        CompressionError: The likelihood has no table of probabilities.
    """
    everything = Elements(rows, np.arange(cells.elements), cells, cells.shape, holes)
    return _parts(conditional, tuple(parents), everything)


def _parts(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> list[Part]:
    if isinstance(conditional, GivenLabel):
        first, *others, label = parents
        moved = first + conditional.move(label).unflatten(-1, conditional.shape)
        return _parts(conditional.conditional, (moved, *others), of)
    if isinstance(conditional, family.Columns):
        if conditional.network is not None and parents:
            parents = (conditional.network(*parents),)
        places = conditional.order.numpy()
        found, start = [], 0
        for size, group in zip(conditional.sizes, conditional.groups, strict=True):
            own = replace(of, columns=of.columns[places[start : start + size]], shape=(size,))
            found += _parts(group, parents, own)
            start += size
        return found
    for kind, make in _FAMILIES.items():
        if type(conditional) is kind:
            return [Part(of.columns, of.without_holes(make(conditional, parents, of)))]
    raise CompressionError(
        f"The likelihood {type(conditional).__name__} has no table of probabilities; there are "
        f"tables for {', '.join([each.__name__ for each in _FAMILIES])}, and columns of these: "
        f"train with another --likelihood."
    )


def _bernoulli(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    (logits,) = conditional.parameters_of(*parents)
    return laws.bernoulli(of.flat(logits))


def _categorical(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    logits = conditional.head(*parents).movedim(-1 - len(conditional.event_shape), -1)
    return laws.categories(laws.shares(of.flat(logits, 1)))


def _ordinal(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    (location,) = conditional.head.each(*parents)
    ends = of.flat(conditional.thresholds() - location.unsqueeze(-1), 1)
    below = logistic_table()(laws.fixed(ends))
    below = np.maximum.accumulate(below, -1)
    return laws.categories(np.diff(below, axis=-1, prepend=0, append=ONE))


def _levels(number: int) -> Callable[[Array], Array]:
    return lambda k: (2.0 * k - 1.0) / (number - 1) - 1.0


def _discretized(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    loc, scale = [of.flat(each) for each in conditional.parameters_of(*parents)]
    return laws.located(logistic_table(), _levels(conditional.levels), loc, scale, of.levels)


def _discretized_mixture(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    if conditional.coupled:
        raise CompressionError(
            "The channels of a pixel follow from each other in this likelihood, which has no "
            "table of probabilities; train with --likelihood discretized-logistic."
        )
    raw = conditional.head(*parents)
    dims = len(conditional.head.event_shape)
    parts = raw.split(conditional.sizes, -1 - dims)[:3]
    logits, loc, scale = [
        of.flat(part.movedim(-1 - dims, -1), 1)
        for part in (parts[0], parts[1], positive(parts[2], conditional.minimum_scale, 0.25))
    ]
    edge, table = _levels(conditional.levels), logistic_table()
    return laws.mixture(
        laws.shares(logits),
        lambda k: table(laws.argument(edge(k)[..., None], loc, scale)),
        of.levels,
    )


def _gaussian(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    loc, scale = [of.flat(each) for each in conditional.parameters_of(*parents)]
    return laws.located(normal_table(), of.edges(conditional.units), loc, scale, of.levels)


def _counts(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    if conditional.total is not None:
        raise CompressionError(
            "The counts of this model are shares of their total, which the file would have to "
            "hold too; train with another recipe, such as vae."
        )
    raw, *more = conditional.parameters_of(*parents)
    zero = None
    if conditional.zero_inflated:
        zero = logistic_table()(laws.fixed(of.flat(more.pop(0))))
    dispersion = np.maximum(of.flat(more[0]), 2.0**-16) if more else None
    mean = np.maximum(of.flat(positive(raw, 1e-6)), 2.0**-16)
    return laws.counts(mean, dispersion, zero, of.low, of.levels)


def _spiked(conditional: Any, parents: tuple[Tensor, ...], of: Elements) -> Law:
    """Atoms, and a mixture of logistics on the scores of a line through knots."""
    raw = conditional.head(*parents).movedim(-1 - len(conditional.event_shape), -1)
    parts = conditional.components
    width = 0.35 if parts > 1 else 0.55
    logits, loc, scale = raw.split([raw.shape[-1] - 2 * parts, parts, parts], -1)
    loc = of.flat(loc, 1)
    scale = of.flat(positive(scale, conditional.minimum_scale, width), 1)
    atoms = np.broadcast_to(
        conditional.atoms.numpy(), (len(of.columns), conditional.atoms.shape[-1])
    )
    logits = np.where(
        np.concatenate([np.isnan(atoms), np.zeros((len(atoms), parts), bool)], -1),
        -600.0, of.flat(logits, 1),
    )  # fmt: skip
    weights = laws.shares(logits)
    knots, scores = (
        getattr(conditional, name).numpy().reshape(len(of.columns), -1)
        for name in ("knots", "scores")
    )
    edge, table = of.edges(), logistic_table()
    # the number of the cell that each atom is
    cells = of.cells
    known = np.full((1, cells.elements), np.nan)
    where = []
    for atom in atoms.T:
        known[0, of.columns] = atom
        where.append(cells.nearest(known)[0, of.columns])
    spikes = np.stack(where, -1) if where else np.zeros((len(of.columns), 0), np.int64)

    def within(value: Array) -> Array:
        return table(laws.argument(_line(value, knots, scores)[..., None], loc, scale))

    ends = None
    if conditional.truncated:
        ends = [
            within(
                np.broadcast_to(
                    np.clip(each.numpy().reshape(-1), -1e30, 1e30), (of.rows, len(of.columns))
                )
            )
            for each in (conditional.low, conditional.high)
        ]

    def cumulative(k: Array) -> Array:
        each = within(edge(k))
        if ends is not None:
            kept = np.maximum(ends[1] - ends[0], 1)
            each = np.floor(np.clip((each - ends[0]) / kept, 0.0, 1.0) * float(ONE)).astype(
                np.int64
            )
        slabs = ((weights[..., spikes.shape[-1] :] * each) >> 30).sum(-1)
        return slabs + np.where(spikes < k[..., None], weights[..., : spikes.shape[-1]], 0).sum(-1)

    return Law(cumulative, of.levels)


def _line(value: Array, knots: Array, scores: Array) -> Array:
    """The line through knots, and on beyond them; ``(rows, elements)``."""
    found = np.empty(value.shape)
    for at, (x, y) in enumerate(zip(knots, scores, strict=True)):
        place = np.clip(np.searchsorted(x, value[:, at], side="right") - 1, 0, len(x) - 2)
        slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
        found[:, at] = y[place] + slope[place] * (value[:, at] - x[place])
    return found


_FAMILIES: dict[type[nn.Module], Callable[[Any, tuple[Tensor, ...], Elements], Law]] = {
    family.Bernoulli: _bernoulli,
    family.Categorical: _categorical,
    family.Ordinal: _ordinal,
    family.DiscretizedLogistic: _discretized,
    family.DiscretizedLogisticMixture: _discretized_mixture,
    family.Gaussian: _gaussian,
    family.Poisson: _counts,
    family.NegativeBinomial: _counts,
    family.Spiked: _spiked,
}
