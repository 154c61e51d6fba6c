"""Tokens of a text: their table, and the linear map to the vocabulary."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from deeplvm.conditionals.heads import Head, Network, at_least
from deeplvm.distributions.tokens import TokenCategorical


class Tokens(nn.Module):
    r"""A token 0 .. vocabulary-1, :math:`p(x = k) = \mathrm{softmax}(W h + b)_k`.

    The conditional of one step of a text, as in ``Recurrent({"x | h": Tokens(10_000, ...), ...})``
    where all steps at once are one more dimension of the batch. Other networks see the row of a
    learned table; no one-hot vector is made, and no logits of steps beyond the end of a row.

    Args:
        vocabulary: how many tokens there are.
        network: maps the parents to the features h; ``None`` for free logits, uniform at first.
        features: how many learned numbers other networks see of a token.
        probabilities: of each token, positive, shape ``(vocabulary,)``: where zero features start;
            uniform if left out.
        masked: whether the last parent says which tokens are possible, as
            :class:`~deeplvm.networks.Derivations` does, and all others have probability 0.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape and the event
        ``()``.

    Examples:
        >>> from deeplvm.networks import MLP
        >>> word = Tokens(10_000, MLP(8), features=4)
        >>> word(torch.zeros(32, 25, 8)).log_prob(torch.zeros(32, 25)).shape
        torch.Size([32, 25])
        >>> word.embed(torch.zeros(32, 25)).shape
        torch.Size([32, 25, 4])
    """

    event_shape = torch.Size()
    padding = -1  # what stands beyond the end of a row

    def __init__(
        self,
        vocabulary: int,
        network: Network = None,
        *,
        features: int = 64,
        probabilities: Tensor | None = None,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.masked = masked
        self.vocabulary = at_least(vocabulary, 2, "Tokens", "vocabulary")
        self.head = Head(network, self.event_shape, vocabulary, "Tokens")
        self.table = nn.Embedding(vocabulary, at_least(features, 1, "Tokens", "features"))
        with torch.no_grad():  # small at first, so that a recurrent cell is not saturated
            self.table.weight.mul_(0.1)
            bias = self.head.free if network is None else self.head.layer.bias
            if probabilities is not None and bias is not None:
                bias.copy_(probabilities.log().reshape(bias.shape))

    def forward(self, *parents: Tensor) -> Distribution:
        """The distribution of a token given parents of shapes ``(*particles, batch, ...)``."""
        head, allowed = self.head, None
        if self.masked:
            *read, allowed = parents
            parents = tuple(read)
        if head.network is None or head.correction is not None or not parents:
            logits = head(*parents)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -math.inf)
            free = Categorical(logits=logits, validate_args=False)
            return Independent(free, 0, validate_args=False)
        bias = cast("Tensor", head.layer.bias)
        return TokenCategorical(head.network(*parents), head.layer.weight, bias, allowed)

    def embed(self, value: Tensor) -> Tensor:
        """Rows of the table, ``(*particles, batch, features)``; zeros of −1 and NaN."""
        if value.is_floating_point():
            value = torch.nan_to_num(value, nan=self.padding)
        known = value >= 0
        return self.table(torch.where(known, value, 0).long()) * known.unsqueeze(-1)
