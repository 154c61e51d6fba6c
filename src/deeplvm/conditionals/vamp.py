"""The aggregate of a posterior over pseudo-inputs, as a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from deeplvm.conditionals.heads import at_least
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.mixture import NormalMixture


@dataclass(frozen=True, eq=False)
class Aggregated:
    """A posterior, and what it reads of one row.

    Attributes:
        posterior: A conditional of one parent, as networks see it.
        centre: What it reads of a mean row; pseudo-inputs that are learned start around it.
        bounds: The least and the largest numbers that it reads, each of the shape of ``centre``,
            where there are such.
        rows: From a number to so many training rows, as networks see them, ``(number, *event)``;
            fewer where there are no more, zeros where the data are not there.
    """

    posterior: nn.Module
    centre: Tensor
    bounds: tuple[Tensor, Tensor] | None = None
    rows: Callable[[int], Tensor] | None = None


class VampPrior(nn.Module):
    r"""The mean of a posterior over pseudo-inputs, :math:`p(z) = \frac1K \sum_k q(z | u_k)`.

    It shares the posterior's module: both learn it. With all rows of the data as pseudo-inputs it
    is the aggregate posterior of these rows, the best prior for them; some hundreds that are
    learned do not fit single rows. They are what the encoder reads, so of any kind of data:
    between the least and the largest value of pixels (by a sigmoid), any numbers elsewhere, also
    among the features of categories. Rows of the data are kept in the model as they are.

    A density takes K posterior densities (of a flow whose density elsewhere takes d passes, all
    of these), and each step of training the encoder's pass over K more rows.

    Args:
        of: The posterior and what it reads.
        components: K; with rows of the data at most so many as there are.
        learned: Whether pseudo-inputs are learned, or rows of the data.

    Shape:
        No parents: batch shape ``()``, the posterior's event shape.

    VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> from deeplvm.networks import MLP
        >>> prior = VampPrior(Aggregated(Gaussian(2, MLP(6, 8)), torch.zeros(6)), components=10)
        >>> prior().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    inputs: Tensor
    low: Tensor
    width: Tensor

    def __init__(self, of: Aggregated, *, components: int = 500, learned: bool = True) -> None:
        super().__init__()
        at_least(components, 1, "VampPrior", "components")
        self.posterior = of.posterior
        self.event_shape = Size(of.posterior.event_shape)  # type: ignore[arg-type]
        self.bounded = learned and of.bounds is not None
        if learned:
            centre = of.centre.to(torch.get_default_dtype())
            if of.bounds is not None:
                low, high = (each.to(centre) for each in of.bounds)
                # not saved: they follow from what the data are
                self.register_buffer("low", low, persistent=False)
                self.register_buffer("width", (high - low).clamp(min=1e-6), persistent=False)
                centre = ((centre - low) / self.width).clamp(0.05, 0.95).logit()
            self.inputs = nn.Parameter(centre + torch.randn(components, *centre.shape))
        elif of.rows is None:
            raise ValueError(
                "VampPrior has no rows of the data to take; let its inputs be learned."
            )
        else:
            self.register_buffer("inputs", of.rows(components).to(torch.get_default_dtype()))

    def pseudo_inputs(self) -> Tensor:
        """What the posterior reads, shape ``(components, *event)``."""
        return self.low + self.width * self.inputs.sigmoid() if self.bounded else self.inputs

    def forward(self) -> Distribution:
        """The mixture, batch shape ``()``."""
        each = self.posterior(self.pseudo_inputs())
        weights = self.inputs.new_zeros(len(self.inputs))
        if isinstance(each, DiagonalNormal):
            return NormalMixture(weights, each.loc, each.scale, len(self.event_shape))
        return MixtureSameFamily(Categorical(logits=weights), each, validate_args=False)

    def extra_repr(self) -> str:
        return f"components={len(self.inputs)}"
