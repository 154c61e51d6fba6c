"""Objects that are there or not: a chain of presences, and what is said of those alone."""

from __future__ import annotations

from typing import Any

from torch import Size, Tensor, nn
from torch.distributions import Independent

from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.discrete import Bernoulli

# As good as impossible, and yet finite where a value is scored that was not drawn.
_NEVER = -1e4


class Presence(nn.Module):
    r"""Whether one more object is there: never, once there was none.

    .. math:: p(n_t = 1 | n_{t-1}, h) = n_{t-1}\, \pi(h)

    so that in a Recurrent the number of objects is :math:`\sum_t n_t`. At the first step the one
    before is there: ``start={"n": torch.ones(1)}``.

    Args:
        conditional: A Bernoulli of one element, :math:`\pi`.

    Shape:
        The presence before, ``(*particles, batch, 1)``, and what the conditional reads.

    Attend, Infer, Repeat: Fast Scene Understanding with Generative Models (Eslami et al., 2016),
    https://arxiv.org/abs/1603.08575

    Examples:
        >>> import torch
        >>> from deeplvm.conditionals import Bernoulli
        >>> Presence(Bernoulli(1))(torch.tensor([[1.0], [0.0]])).mean.squeeze(-1)
        tensor([0.5000, 0.0000], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, conditional: nn.Module) -> None:
        super().__init__()
        self.conditional = conditional
        self.event_shape = Size((1,))

    def forward(self, before: Tensor, *parents: Tensor) -> Independent:
        """The distribution of the presence."""
        logits = self.conditional(*parents).base_dist.logits
        shut = logits * before + _NEVER * (1 - before)
        return Independent(Bernoulli(logits=shut, validate_args=False), 1, validate_args=False)


class IfPresent(nn.Module):
    r"""A Gaussian of what is said of an object that is there, the standard normal where none is.

    With a standard normal in p nothing is then paid for an object that is not there.

    Args:
        conditional: A Gaussian of independent elements.

    Shape:
        The presence, ``(*particles, batch, 1)``, and what the conditional reads.

    Examples:
        >>> import torch
        >>> from deeplvm.conditionals import Gaussian
        >>> from deeplvm.networks import MLP
        >>> place = IfPresent(Gaussian(3, MLP(4)))
        >>> place(torch.zeros(2, 1), torch.randn(2, 4)).log_prob(torch.zeros(2, 3)).detach()
        tensor([-2.7568, -2.7568])
    """

    def __init__(self, conditional: nn.Module) -> None:
        super().__init__()
        self.conditional: Any = conditional
        self.event_shape = conditional.event_shape

    def forward(self, present: Tensor, *parents: Tensor) -> DiagonalNormal:
        """The distribution of the value."""
        own = self.conditional(*parents)
        return DiagonalNormal(present * own.mean, 1 + present * (own.stddev - 1), 1)
