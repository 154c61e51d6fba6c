"""Ordered categories by cumulative logits."""

from __future__ import annotations

import torch
from torch import Tensor, distributions
from torch.nn.functional import logsigmoid

from deeplvm.distributions.discretized_logistic import log_sigmoid_difference


class Ordinal(distributions.Categorical):
    r"""Ordered levels 0 .. n-1 with :math:`P(x \le k) = \sigma(t_k - f)`.

    Args:
        logits: the logarithms of the probabilities, as :func:`cumulative_logits` makes them from
            f and the thresholds, shape ``(*batch, n)``.

    Regression Models for Ordinal Data (McCullagh, 1980),
    https://doi.org/10.1111/j.2517-6161.1980.tb01109.x
    """

    @property
    def support(self) -> distributions.constraints.Constraint:
        return distributions.constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return (self.probs * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        return (self.probs * (self._levels() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def _levels(self) -> Tensor:
        logits = self.logits
        return torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)


def cumulative_logits(location: Tensor, thresholds: Tensor) -> Tensor:
    r"""Log-probabilities of n ordered levels from n-1 rising thresholds.

    .. math:: \log p_k = \log (\sigma(t_k - f) - \sigma(t_{k-1} - f)),
              \quad t_{-1} = -\infty, \; t_{n-1} = \infty

    Args:
        location: f, shape ``(*batch,)``.
        thresholds: t, shape ``(*batch, n - 1)``, broadcastable.

    Returns:
        Shape ``(*batch, n)``; finite however far f is from the thresholds.

    Examples:
        >>> cumulative_logits(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """
    edges = thresholds - location.unsqueeze(-1)
    lowest, highest = logsigmoid(edges[..., :1]), logsigmoid(-edges[..., -1:])
    between = log_sigmoid_difference(edges[..., 1:], edges[..., :-1])
    return torch.cat([lowest, between, highest], -1)
