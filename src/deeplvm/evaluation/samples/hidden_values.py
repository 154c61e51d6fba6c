"""Values that are hidden from the model, and what it says of them from the rest of their rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from deeplvm.distributions.product import Product
from deeplvm.evaluation.batches import Batches
from deeplvm.evaluation.samples.observed_columns import ObservedColumn, matrix
from deeplvm.gradients import Sampled
from deeplvm.joint import Joint
from deeplvm.model import LatentVariableModel

_NUMBERS = 4_000_000  # drawn at a time


def hidden_columns(
    model: LatentVariableModel, columns: Sequence[ObservedColumn], names: Sequence[str] | None
) -> list[ObservedColumn]:
    """Columns that can be hidden: nothing in p is drawn from them.

    Raises:
        ValueError: If a name is not scored by p, or p draws others from it.
    """
    p = model.p
    scored = list(dict.fromkeys([column.name for column in columns]))
    parents = (
        {parent.name for name in p.names for parent in p.parents(name)}
        if isinstance(p, Joint)
        else set[str]()
    )
    if unknown := [name for name in names or () if name not in scored]:
        raise ValueError(
            f"p does not score {', '.join(unknown)} in these data; it scores {', '.join(scored)}."
        )
    wanted = [name for name in names or scored if names or name not in parents]
    if read := [name for name in wanted if name in parents]:
        raise ValueError(
            f"p draws other names from {', '.join(read)}, which cannot be hidden by itself; leave "
            f"it out of names=."
        )
    if not wanted:
        raise ValueError(
            f"p draws other names given {', '.join(scored)}, so no value of these can be hidden."
        )
    return [column for column in columns if column.name in wanted]


class Hiding:
    """Hides values of some rows, and compares them with the model's draws.

    Args:
        model: Whose p predicts.
        rows: Of them.
        columns: Those whose values are hidden.
        particles: Draws for each row.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        rows: Batches,
        columns: Sequence[ObservedColumn],
        particles: int,
    ) -> None:
        self.model, self.rows, self.columns, self.particles = model, rows, columns, particles
        self.names = list(dict.fromkeys([column.name for column in columns]))
        self.size = max(1, min(500, _NUMBERS // (particles * len(columns))))
        self.categories = [i for i, each in enumerate(columns) if each.kind == "category"]

    def passes(self, hide: float | None, count: int) -> Iterator[dict[str, Tensor]]:
        """What was found in some rows of a pass; one for a share, one a column for ``None``.

        Args:
            hide: Share of the values.
            count: How many rows.

        Returns:
            Of each row its number, the values, which of them were hidden, their transforms, the
            probabilities of a one and of every category, and the effective number of particles.
        """
        for what in range(len(self.columns)) if hide is None else [hide]:
            yield from self._pass(what, count)

    def _pass(self, what: float | int, count: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, count, self.size):
            given = self.rows[slice(start, min(start + self.size, count))]
            truth = matrix(given, self.columns)
            if isinstance(what, int):
                mask = torch.zeros(truth.shape, dtype=torch.bool)
                mask[:, what] = True
            else:
                mask = torch.rand(truth.shape) < what
            mask = mask & ~truth.isnan()
            yield self._compared(given, truth, mask, start)

    def _compared(
        self, given: dict[str, Tensor], truth: Tensor, mask: Tensor, start: int
    ) -> dict[str, Tensor]:
        drawn, weights = self._predicted(given, mask)  # (K, B, D), (K, B)
        effective = 1 / weights.square().sum(0)
        below = torch.einsum("kb,kbd->bd", weights, (drawn < truth).double())
        ties = torch.einsum("kb,kbd->bd", weights, (drawn == truth).double())
        own = 1 / effective[:, None]  # the value itself is one more draw: exactly uniform ranks
        pit = (below + torch.rand(truth.shape) * (ties + own)) / (1 + own)
        found = {
            "row": torch.arange(start, start + len(truth)),
            "truth": truth,
            "mask": mask,
            "pit": pit,
            "one": torch.einsum("kb,kbd->bd", weights, drawn),
            "effective": effective,
        }
        for i in self.categories:
            levels = torch.arange(len(self.columns[i].categories))
            hits = (drawn[:, :, i, None] == levels).double()
            found[f"share/{i}"] = torch.einsum("kb,kbl->bl", weights, hits)
        return found

    def _predicted(self, given: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """One draw of every value for each particle, and the particles' weights."""
        left = dict(given)
        sizes = [given[name][0].numel() for name in self.names]
        for name, hidden in zip(self.names, mask.split(sizes, 1), strict=True):
            value = given[name]
            real = value if value.is_floating_point() else value.to(self.rows.dtype)
            holes = hidden.reshape(value.shape).to(value.device)
            left[name] = torch.where(holes, torch.nan, real)
        evidence = self.model.evidence(
            left,
            particles=self.particles,
            default=Sampled(),
            missing=self.rows.missing | set(self.names),
            rows=self.rows.data_rows,
        )
        shape = (self.particles, len(mask))
        terms = [
            term.double().expand(shape)
            for name, term in evidence.terms.items()
            if name not in evidence.shared  # drawn from q, as all rows together say
        ]
        weights = torch.stack(terms).sum(0).softmax(0)
        draws = [self._draw(name, evidence.p[name], shape) for name in self.names]
        return torch.cat(draws, 2), weights.cpu()

    def _draw(self, name: str, site: Any, shape: tuple[int, int]) -> Tensor:
        own = site.distribution
        if own is None:
            raise ValueError(
                f"{name!r} is unrolled step by step and has no one distribution to predict from; "
                f"leave it out of names=."
            )
        if not _factorises(own):
            raise ValueError(
                f"The elements of {name!r} depend on each other given the latents "
                f"({type(own).__name__}), so that a hidden one is not a draw of "
                f"p({name} | ...) alone; leave it out of names=."
            )
        right = site.value.shape[site.batch_dims : site.value.dim() - len(own.event_shape)]
        value = own.expand(torch.Size((*shape, *right))).sample()
        return value.reshape(*shape, -1).double().cpu()


def _factorises(distribution: Distribution) -> bool:
    """Whether the elements of an event are independent."""
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Product):
        return all([_factorises(part) for part in base.parts])
    return math.prod(base.event_shape) == 1
