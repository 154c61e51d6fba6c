"""Probabilities in integers are those of the conditionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deeplvm import conditionals as family
from deeplvm.compression.cells import Cells
from deeplvm.compression.coder import Coder, clean_words
from deeplvm.compression.exact import Exact, prepared
from deeplvm.compression.laws import Law
from deeplvm.compression.observed import laws_of
from deeplvm.compression.tables import ONE
from deeplvm.networks import MLP

_KNOTS = torch.tensor([[0.0, 1.0, 4.0, 9.0], [-1.0, 0.0, 2.0, 5.0]])
_ATOMS = torch.tensor([[0.0, 12.0], [2.0, torch.nan]])
CODES = {
    "bits": (lambda: family.Bernoulli(2, MLP(3, 8)), 2),
    "categories": (lambda: family.Categorical(5, MLP(3, 8), shape=2), 5),
    "ordered": (lambda: family.Ordinal(4, MLP(3, 8), shape=2), 4),
    "levels": (lambda: family.DiscretizedLogistic(2, MLP(3, 8), levels=17), 17),
    "mixture of levels": (
        lambda: family.DiscretizedLogisticMixture(2, MLP(3, 8), levels=17, components=3),
        17,
    ),
}
COUNTS = {
    "poisson": lambda: family.Poisson(2, MLP(3, 8), mean=4.0),
    "zero-inflated": lambda: family.Poisson(2, MLP(3, 8), mean=4.0, zero_inflated=True),
    "negative binomial": lambda: family.NegativeBinomial(2, MLP(3, 8), mean=4.0, dispersion=1.5),
    "spiked": lambda: family.Spiked(2, MLP(3, 8), knots=_KNOTS, atoms=_ATOMS, step=1.0),
}
REALS = {
    "gaussian": lambda: family.Gaussian(2, MLP(3, 8), units=(torch.tensor([2.0, -1.0]), 1.5)),
    "spiked": lambda: family.Spiked(2, MLP(3, 8), knots=_KNOTS, atoms=_ATOMS),
    "truncated": lambda: family.Spiked(
        2, MLP(3, 8), knots=_KNOTS, bounds=(torch.tensor([0.0, -3.0]), 20.0), truncated=True
    ),
}


def _laws(conditional: nn.Module, cells: Cells) -> tuple[Law, Any]:
    """The law of 6 rows, and the conditional's own distribution."""
    parents = torch.randn(6, 3, dtype=torch.float64)
    with torch.no_grad():
        exact = prepared(conditional)
        with Exact("p(x | z)"):
            (part,) = laws_of(exact, [parents], cells, 6)
        return part.law, conditional.double()(parents)


def _masses(law: Law, levels: int) -> np.ndarray:
    """Of each value, ``(levels, 6, 2)``."""
    ends = [law.below(np.full((6, 2), k, np.int64)) for k in range(levels + 1)]
    assert (ends[0] == 0).all()
    assert (ends[-1] == ONE).all()
    return np.diff(np.stack(ends), axis=0) / ONE


@pytest.mark.parametrize("name", CODES)
def test_codes(name: str) -> None:
    make, levels = CODES[name]
    law, own = _laws(make(), Cells.of(np.zeros((1, 2)), [levels]))
    every = torch.arange(float(levels))[:, None, None].expand(levels, 6, 2).double()
    expected = own.base_dist.log_prob(every).exp().numpy()
    assert np.abs(_masses(law, levels) - expected).max() < 1e-3


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    cells = Cells.of(np.array([[1.0, 2.0], [39.0, 40.0]]), [None, None])
    law, own = _laws(COUNTS[name](), cells)
    every = torch.arange(39.0)[:, None, None] + torch.tensor([1.0, 2.0])
    every = every.expand(39, 6, 2).double()
    expected = own.base_dist.log_prob(every).exp().numpy()
    # what lies beyond the values that there are is given to the first and the last
    assert np.abs(_masses(law, 39) - expected)[1:-1].max() < 2e-3


@pytest.mark.parametrize("name", REALS)
def test_reals_of_two_decimals(name: str) -> None:
    values = np.arange(-500, 1501) / 100
    cells = Cells.of(np.stack([values, values], 1), [None, None])
    assert cells.digits == (2, 2)
    law, own = _laws(REALS[name](), cells)
    inside = torch.from_numpy(values)[:, None, None].expand(-1, 6, 2)
    log_px = own.base_dist.log_prob(inside)
    atom = (inside.unsqueeze(-1) == _ATOMS).any(-1) if name == "spiked" else log_px < -torch.inf
    expected = torch.where(atom, log_px.exp(), log_px.exp() * 0.01).numpy()
    found = _masses(law, len(values))
    # a knot inside of a cell, and an edge of the support, are not seen by the middle of the cell
    assert np.quantile(np.abs(found - expected), 0.995) < 2e-4
    assert np.abs(found - expected)[1:-1][atom.numpy()[1:-1]].max(initial=0) < 2e-3


@pytest.mark.parametrize("digits", ["single", "double"])
def test_reals_of_all_digits_cost_what_their_density_says(digits: str) -> None:
    draws = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 1e-3]
    draws = draws.astype(np.float32).astype(np.float64) if digits == "single" else draws
    cells = Cells.of(draws, [None, None])
    places = cells.places(draws)
    assert np.array_equal(cells.exact(places), draws)
    normal = family.Gaussian(2, scale=1.0, units=(0.0, torch.tensor([1.0, 1e-3])))
    with torch.no_grad():
        exact = prepared(normal)
        with Exact("p(x)"):
            (part,) = laws_of(exact, [], cells, 300)
    coder = Coder(clean_words(4))
    coder.push(places, part.law)
    spacing = np.spacing(np.abs(draws.astype(np.float32 if digits == "single" else np.float64)))
    log_px = normal().base_dist.log_prob(torch.from_numpy(draws)).detach().numpy()
    log_mass = log_px + np.log(spacing)
    # less by what the ends of the values, which the file says, tell of the outermost
    assert 0.99 < coder.ideal / (-log_mass.sum() / np.log(2)) < 1.0005
    assert np.array_equal(coder.pop(part.law), places)
    assert coder.holds(clean_words(4))
