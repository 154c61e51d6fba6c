r"""Mixtures of Gaussians as priors: which component a latent is of costs nothing twice.

z is put on the stack under a component c, and c under its weight; c itself is drawn from
:math:`p(c | z)` by bits of the stack, which come back. So z costs :math:`-\log \sum_c w_c p_c(z)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deeplvm.compression import laws
from deeplvm.compression.coder import Coder
from deeplvm.compression.laws import Law
from deeplvm.compression.tables import Array, logarithm
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.mixture import NormalMixture

# Log-densities are multiples of 2**-20, and no term is larger: their sums are exact.
_GRID, _MOST = float(1 << 20), 1e6


class Mixture:
    """The law of a latent under a mixture, of some rows.

    Args:
        own: The mixture, its numbers on the grid of networks.
        lattice: Where the latent may lie.
        rows: How many rows.
    """

    def __init__(self, own: NormalMixture, lattice: Any, rows: int) -> None:
        self.lattice, self.rows = lattice, rows
        shape = (rows, own.log_weights.shape[-1], *lattice.shape)
        self.loc, self.scale = own.loc.expand(shape), own.scale.expand(shape)
        self.weights = np.broadcast_to(own.log_weights.numpy(), shape[:2])

    def push(self, coder: Coder, places: Array) -> None:
        """Put latents on the stack."""
        component = coder.pop(self._given(places))
        coder.push(places, self._one(component))
        coder.push(component, laws.categories(laws.shares(self.weights)))

    def pop(self, coder: Coder) -> Array:
        """Take latents from the stack."""
        component = coder.pop(laws.categories(laws.shares(self.weights)))
        places = coder.pop(self._one(component))
        coder.push(component, self._given(places))
        return places

    def _one(self, component: Array) -> Law:
        """The law of the latent in a component of each row."""
        rows = np.arange(self.rows)
        loc, scale = self.loc[rows, component], self.scale[rows, component]
        return self.lattice.law(DiagonalNormal(loc, scale, len(self.lattice.shape)), self.rows)

    def _given(self, places: Array) -> Law:
        """The law of the component given the latent."""
        value = self.lattice.value(places).numpy()[:, None]
        scale = np.maximum(self.scale.numpy(), 2.0**-16)
        distance = (value - self.loc.numpy()) / scale
        terms = np.clip(-0.5 * distance * distance - logarithm(scale), -_MOST, _MOST)
        terms = np.floor(terms * _GRID).reshape(self.rows, self.loc.shape[1], -1)
        total = terms.sum(-1) / _GRID + self.weights
        return laws.categories(laws.shares(total))
