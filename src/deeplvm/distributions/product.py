"""Product of independent distributions of parts of one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints

from deeplvm.core.trace import base_of, conditioned, score


class Product(Distribution):
    r"""Parts of a vector, each with its own distribution, :math:`p(x) = \prod_g p_g(x_g)`.

    The density is with respect to the product of the parts' own measures: lengths for reals,
    counts for whole numbers and categories.

    Args:
        parts: Distributions with events ``(k_1,)``, ``(k_2,)``, ... and batch shapes that
            broadcast.
        order: The places in the vector of the parts' elements, one after another, shape ``(D,)``.
        back: The inverse permutation of ``order``, shape ``(D,)``; found by sorting if not given.

    Examples:
        >>> from torch.distributions import Independent, Normal, Poisson
        >>> real = Independent(Normal(torch.zeros(1), 1.0), 1)
        >>> count = Independent(Poisson(torch.ones(1)), 1)
        >>> row = Product([real, count], torch.tensor([1, 0]))
        >>> row.log_prob(torch.tensor([2.0, 0.0]))  # - 1 - log 2 - log sqrt(2 pi)
        tensor(-2.6121)
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own name)
    has_rsample = False

    def __init__(
        self, parts: Sequence[Distribution], order: Tensor, back: Tensor | None = None
    ) -> None:
        self.parts = list(parts)
        self.order = order
        self.back = order.argsort() if back is None else back
        self.sizes = [part.event_shape[0] for part in self.parts]
        batch_shape = torch.broadcast_shapes(*[part.batch_shape for part in self.parts])
        super().__init__(batch_shape, Size((sum(self.sizes),)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """A part's own support is narrower; whoever needs it asks the part."""
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """The parts' means; a category has none, so its most probable code stands there."""
        return self._join([self._centre(part) for part in self.parts])

    @property
    def mode(self) -> Tensor:
        """The most probable value of each part."""
        return self._join([part.mode for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """The parts' variances; NaN for a category."""
        return self._join([part.variance for part in self.parts])

    def expand(self, batch_shape: Size, _instance: object = None) -> Product:
        shape = Size(batch_shape)
        return Product([part.expand(shape) for part in self.parts], self.order, self.back)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = Size(sample_shape)
            return self._join([part.expand(self.batch_shape).sample(shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        pieces = self.split(value)
        terms = [part.log_prob(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return self._sum(terms)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Exact marginal log-density of the observed elements: the parts' over their own.

        Args:
            value: Shape ``(*batch, D)``, NaN where missing.
            observed: Boolean, the same shape.

        Returns:
            Shape ``(*batch,)``.
        """
        pieces = self.split(torch.where(observed, value, torch.nan))
        terms = [
            score("x", part, piece, missing=True)
            for part, piece in zip(self.parts, pieces, strict=True)
        ]
        return self._sum(terms)

    def conditioned(self, value: Tensor, observed: Tensor) -> Product:
        """Each part given what is observed of it."""
        pieces = zip(self.parts, self.split(value), self.split(observed), strict=True)
        return Product([conditioned("x", *each) for each in pieces], self.order, self.back)

    def split(self, value: Tensor) -> tuple[Tensor, ...]:
        """A vector cut into the parts' elements, each of shape ``(*batch, k)``."""
        return value.index_select(-1, self.order).split(self.sizes, -1)

    def _join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The parts' values as one vector in the order of the vector."""
        leading = torch.broadcast_shapes(*[piece.shape[:-1] for piece in pieces])
        wide = [piece.dtype for piece in pieces if piece.is_floating_point()]
        kind = wide[0] if wide else torch.get_default_dtype()
        together = [piece.to(kind).expand(*leading, piece.shape[-1]) for piece in pieces]
        return torch.cat(together, -1).index_select(-1, self.back)

    @staticmethod
    def _sum(terms: Sequence[Tensor]) -> Tensor:
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    @staticmethod
    def _centre(part: Distribution) -> Tensor:
        return part.mode if isinstance(base_of(part), Categorical) else part.mean
