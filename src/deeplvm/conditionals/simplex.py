"""Shares: positive numbers that sum to one."""

from __future__ import annotations

from torch import Tensor, nn

from deeplvm import distributions
from deeplvm.conditionals.heads import Head, event_shape_of, positive


class Dirichlet(nn.Module):
    r"""Shares of K parts, :math:`p(x) \propto \prod_k x_k^{a_k - 1}` on the simplex.

    Such as a document's topics. A draw is reparameterised implicitly, as that of its gamma
    variables (Implicit Reparameterization Gradients, Figurnov, Mohamed & Mnih, 2018,
    https://arxiv.org/abs/1805.08498).

    Args:
        parts: K, at least 2.
        network: maps the parents to features; ``None`` for free parameters.
        concentration: :math:`a_k` of a raw 0: 1 is uniform on the simplex, less favours corners.
        minimum_concentration: the lower bound of :math:`a_k`; below it draws round to 0.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``(K,)``.

    Raises:
        ValueError: there are less than two parts, or the concentration is not above its minimum.

    Examples:
        >>> Dirichlet(4)().mean.tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(
        self,
        parts: int,
        network: nn.Module | None = None,
        *,
        concentration: float = 1.0,
        minimum_concentration: float = 0.05,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(parts, "Dirichlet")
        if parts < 2:
            raise ValueError(f"Dirichlet expects 2 parts or more, found {parts}.")
        if not concentration > minimum_concentration >= 0:
            raise ValueError(
                f"Dirichlet expects a concentration above minimum_concentration, found "
                f"{concentration} and {minimum_concentration}."
            )
        self.minimum_concentration = minimum_concentration
        self.at_zero = concentration - minimum_concentration
        self.head = Head(network, self.event_shape, 1, "Dirichlet")

    def forward(self, *parents: Tensor) -> distributions.Dirichlet:
        """The distribution of the shares given parents of shapes ``(*particles, batch, ...)``."""
        (raw,) = self.head.each(*parents)
        return distributions.Dirichlet(positive(raw, self.minimum_concentration, self.at_zero))
