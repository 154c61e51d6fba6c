"""Sets: many members as one, whatever their order."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MeanPool(nn.Module):
    r"""The mean of the members of a set, :math:`\frac{1}{n} \sum_{i \le n} h_i`.

    Deep Sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114

    Args:
        features: Width of a member.

    Shape:
        Members ``(*particles, batch, members, features)``, and how many of them count, from the
        first on, ``(*particles, batch)``, where not all do, give ``(*particles, batch,
        features)``: zeros of an empty set.

    Examples:
        >>> pool = MeanPool(1)
        >>> pool(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([2]))
        tensor([[2.]])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features

    def forward(self, members: Tensor, count: Tensor | None = None) -> Tensor:
        """The mean of those that count."""
        if count is None:
            return members.mean(-2)
        there = _there(members.shape[-2], count).to(members.dtype)
        total = (there.unsqueeze(-1) * members).sum(-2)
        return total / there.sum(-1, keepdim=True).clamp(min=1)


class AttentionPool(nn.Module):
    r"""The mean of the members that a query asks for, :math:`\sum_i w_i h_i`.

    .. math:: w \propto \exp(\langle W_q q, W_k h_i \rangle / \sqrt{d})

    over the members that count; the order of the members does not matter.

    Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762, with one
    head.

    Args:
        features: Width of a member.
        query: Width of a query.
        keys: d, the width in which both are compared; ``features`` by default.

    Shape:
        Members ``(*particles, batch, members, features)``, a query ``(*particles, batch, query)``
        and how many count, as in :class:`MeanPool`, give ``(*particles, batch, features)``.

    Examples:
        >>> pool = AttentionPool(4, 2)
        >>> pool(torch.zeros(8, 3, 4), torch.zeros(5, 8, 2)).shape
        torch.Size([5, 8, 4])
    """

    def __init__(self, features: int, query: int, keys: int | None = None) -> None:
        super().__init__()
        self.out_features = features
        self.query = nn.Linear(query, keys or features, bias=False)
        self.key = nn.Linear(features, keys or features, bias=False)

    def forward(self, members: Tensor, query: Tensor, count: Tensor | None = None) -> Tensor:
        """The weighted mean of those that count."""
        asked = self.query(query).unsqueeze(-2) / math.sqrt(self.key.out_features)
        scores = (asked * self.key(members)).sum(-1)  # (*particles, batch, members)
        if count is None:
            weights = scores.softmax(-1)
        else:  # of none, all weights are zero
            there = _there(members.shape[-2], count)
            lowest = torch.finfo(scores.dtype).min
            weights = torch.where(there, scores, lowest).softmax(-1) * there
        return (weights.unsqueeze(-1) * members).sum(-2)


class Memory(nn.Module):
    r"""The last members that were met, the newest first: a state ``"m | h, m[-1]"``.

    Args:
        features: Width of a member.
        slots: How many are kept.

    Shape:
        A member ``(*particles, batch, features)`` and the state give the next state,
        ``(*particles, batch, slots, features)``.

    Examples:
        >>> Memory(1, 2)(torch.tensor([[3.0]]), torch.tensor([[[2.0], [1.0]]])).squeeze(-1)
        tensor([[3., 2.]])
    """

    def __init__(self, features: int, slots: int) -> None:
        super().__init__()
        self.out_shape = (slots, features)

    def forward(self, member: Tensor, state: Tensor) -> Tensor:
        """The state with the member in front, and without the oldest."""
        leading = torch.broadcast_shapes(member.shape[:-1], state.shape[:-2])
        fresh = member.expand(*leading, member.shape[-1]).unsqueeze(-2)
        kept = state.expand(*leading, *state.shape[-2:])[..., :-1, :]
        return torch.cat([fresh, kept], -2)


def _there(members: int, count: Tensor) -> Tensor:
    """Which members count, shape ``(*particles, batch, members)``."""
    return torch.arange(members, device=count.device) < count.unsqueeze(-1)
