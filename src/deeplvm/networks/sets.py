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
        return (_weights(scores, count).unsqueeze(-1) * members).sum(-2)


class Alignment(nn.Module):
    r"""How much each member says to a query, weights that sum to 1: a node ``"a | w, h[-1], k"``.

    .. math:: a_i \propto \exp(v^\top \tanh(U h_i + W q + b))

    over the members that count. What they say together is :class:`WeightedMean`.

    Neural Machine Translation by Jointly Learning to Align and Translate (Bahdanau et al., 2015),
    https://arxiv.org/abs/1409.0473

    Args:
        features: Width of a member.
        query: Width of a query.
        keys: Width in which both are compared; ``features`` by default.

    Shape:
        Members ``(*particles, batch, members, features)``, a query ``(*particles, batch, query)``
        and how many count, as in :class:`MeanPool`, give ``(*particles, batch, members)``.

    Examples:
        >>> weights = Alignment(4, 2)(torch.randn(8, 3, 4), torch.zeros(8, 2), torch.tensor(2))
        >>> bool((weights[:, 2] == 0).all()), bool((weights.sum(-1) - 1).abs().max() < 1e-6)
        (True, True)
    """

    def __init__(self, features: int, query: int, keys: int | None = None) -> None:
        super().__init__()
        self.member = nn.Linear(features, keys or features)
        self.query = nn.Linear(query, keys or features, bias=False)
        self.score = nn.Linear(keys or features, 1, bias=False)

    def forward(self, members: Tensor, query: Tensor, count: Tensor | None = None) -> Tensor:
        """The weight of each member, 0 of those that do not count."""
        both = self.member(members) + self.query(query).unsqueeze(-2)
        return _weights(self.score(both.tanh()).squeeze(-1), count)


class WeightedMean(nn.Module):
    r"""What members say together, :math:`\sum_i a_i h_i`: a node ``"m | a, w"``.

    Args:
        features: Width of a member.

    Shape:
        Weights ``(*particles, batch, members)`` and members ``(*particles, batch, members,
        features)`` give ``(*particles, batch, features)``.

    Examples:
        >>> WeightedMean(1)(torch.tensor([0.25, 0.75]), torch.tensor([[4.0], [8.0]]))
        tensor([7.])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features

    def forward(self, weights: Tensor, members: Tensor) -> Tensor:
        """The weighted mean."""
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


def _weights(scores: Tensor, count: Tensor | None) -> Tensor:
    """A softmax over the members that count; of none, all weights are zero."""
    if count is None:
        return scores.softmax(-1)
    there = _there(scores.shape[-1], count)
    lowest = torch.finfo(scores.dtype).min
    return torch.where(there, scores, lowest).softmax(-1) * there


def _there(members: int, count: Tensor) -> Tensor:
    """Which members count, shape ``(*particles, batch, members)``."""
    return torch.arange(members, device=count.device) < count.unsqueeze(-1)
