"""One-hot categories, with missing elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution


class OneHotCategorical(torch.distributions.OneHotCategorical):
    r"""One category, as a vector of a single 1, :math:`\log p(x) = \sum_k x_k \log p_k`.

    Torch's own, with the exact marginal of some of the elements, log-densities linear in the
    value instead of its largest element, and no look at the content, so that it can be traced.

    Args:
        logits: shape ``(*batch, classes)``.
    """

    def __init__(self, logits: Tensor) -> None:
        self._categorical = Categorical(logits=logits, validate_args=False)
        batch_shape, event_shape = logits.shape[:-1], logits.shape[-1:]
        Distribution.__init__(self, batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> OneHotCategorical:
        return OneHotCategorical(self.logits.expand(*batch_shape, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits  # normalised by torch: logarithms of the probabilities
        return (value.to(logits.dtype) * logits).sum(-1)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        r"""Log-probability of the observed elements.

        The 1 is either among the observed elements, or in one of the missing:
        :math:`\log \sum_{k\,\text{missing}} p_k`.

        Args:
            value: shape ``(*batch, classes)``; what stands at missing elements is not read.
            observed: which elements are known, same shape.

        Returns:
            Shape ``(*batch,)``, in nats; 0 where nothing is observed.
        """
        logits = self.logits.expand(observed.shape)
        found = observed & (value > 0.5)
        possible = torch.where(found.any(-1, keepdim=True), found, ~observed)
        # -1e30 and not -inf: a gradient of logsumexp over nothing but -inf is NaN
        return torch.where(possible, logits, -1e30).logsumexp(-1)
