"""Categories of a large vocabulary, by a linear map of features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.nn.functional import cross_entropy, linear

_LOGITS = 2**23  # computed at a time where no gradient keeps them: 32 MiB


class TokenCategorical(Distribution):
    r"""A token of a vocabulary, :math:`p(x = k) = \mathrm{softmax}(W h + b)_k`.

    The logits are as many as the vocabulary, so they are computed where they are asked for: a
    density in one pass over the tokens that count, without those that stand for nothing (−1).

    Args:
        features: h, shape ``(*particles, batch, features)``.
        weight: W, shape ``(vocabulary, features)``.
        bias: b, shape ``(vocabulary,)``.
        allowed: which tokens are possible, ``(*particles, batch, vocabulary)``; all others have
            probability exactly 0.

    Examples:
        >>> token = TokenCategorical(torch.zeros(5, 3), torch.zeros(4, 3), torch.zeros(4))
        >>> token.log_prob(torch.tensor([0.0, 3.0, -1.0, -1.0, 2.0]))
        tensor([-1.3863, -1.3863,  0.0000,  0.0000, -1.3863])
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_enumerate_support = True

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor, allowed: Tensor | None = None
    ) -> None:
        self.features, self.weight, self.bias, self.allowed = features, weight, bias, allowed
        self._dense: Categorical | None = None
        super().__init__(features.shape[:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The tokens 0, 1, ..."""
        return constraints.integer_interval(0, len(self.weight) - 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> TokenCategorical:
        features, allowed = self._expanded(Size(batch_shape))
        return type(self)(features, self.weight, self.bias, allowed)

    def _expanded(self, lead: Size) -> tuple[Tensor, Tensor | None]:
        """The features, and what is allowed, of more leading dimensions."""
        features = self.features.expand(*lead, self.features.shape[-1])
        return features, None if self.allowed is None else self.allowed.expand(*lead, -1)

    @property
    def dense(self) -> Categorical:
        """The same with all logits, shape ``(*particles, batch, vocabulary)``."""
        if self._dense is None:
            logits = self._linear(self.features, self.allowed)
            self._dense = Categorical(logits=logits, validate_args=False)
        return self._dense

    @property
    def logits(self) -> Tensor:
        """The logarithm of each token's probability, ``(*particles, batch, vocabulary)``."""
        return self.dense.logits

    @property
    def mean(self) -> Tensor:
        """There is none."""
        raise NotImplementedError("tokens are no numbers, and have no mean")

    @property
    def mode(self) -> Tensor:
        return self.dense.mode

    def entropy(self) -> Tensor:
        return self.dense.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002
        return self.dense.enumerate_support(expand)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.dense.sample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of tokens, 0 of −1; shape ``(*sample, *batch)``, nats."""
        lead = torch.broadcast_shapes(value.shape, self.batch_shape)
        token = value.expand(lead).reshape(-1)
        features, allowed = self._expanded(lead)
        features = features.reshape(len(token), -1)
        allowed = None if allowed is None else allowed.reshape(len(token), -1)
        known = token >= 0
        if torch.compiler.is_compiling():  # a graph knows no number of tokens
            each = self._scored(features, token.clamp(min=0), allowed)
            return torch.where(known, each, torch.zeros_like(each)).reshape(lead)
        at = known.nonzero()[:, 0]
        size = len(at) if torch.is_grad_enabled() else _LOGITS // len(self.weight)
        parts = [
            self._scored(features[some], token[some], None if allowed is None else allowed[some])
            for some in at.split(max(1, size))
        ]
        each = torch.cat(parts)
        return each.new_zeros(len(token)).index_copy(0, at, each).reshape(lead)

    def _scored(self, features: Tensor, token: Tensor, allowed: Tensor | None) -> Tensor:
        return -cross_entropy(self._linear(features, allowed), token.long(), reduction="none")

    def _linear(self, features: Tensor, allowed: Tensor | None) -> Tensor:
        # under autocast networks compute in bfloat16; densities do not
        logits = linear(features, self.weight, self.bias).to(self.weight.dtype)
        return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)
