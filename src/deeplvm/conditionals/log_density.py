"""Computed names: what else is known of a value, which the model itself does not count."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import Head, Network


class LogDensity(nn.Module):
    r"""The log-density that a conditional gives its last parent, :math:`a = \log r(x | z)`.

    A node ``"a | z, x"`` of p for :func:`~deeplvm.objectives.auxiliary_elbo`: p(x, z) stays as it
    is. Parents come as they are, not as networks see them.

    Args:
        conditional: of x given the other parents, ``Bernoulli(784, MLP(20))``.

    Shape:
        Parents ``(*particles, batch, ...)`` and values ``(*particles, batch, *event)`` give
        ``(*particles, batch)``.

    Examples:
        >>> from deeplvm.conditionals import Bernoulli
        >>> node = LogDensity(Bernoulli(3, nn.Linear(2, 4)))
        >>> node(torch.zeros(5, 8, 2), torch.ones(8, 3)).shape
        torch.Size([5, 8])
    """

    accepts_missing = True  # the value itself, and not what networks see of it
    out_shape = ()

    def __init__(self, conditional: nn.Module) -> None:
        super().__init__()
        self.conditional = conditional

    def forward(self, *parents: Tensor) -> Tensor:
        """The log-density of the last parent given the others."""
        return self.conditional(*parents[:-1]).log_prob(parents[-1])


class BagOfWords(nn.Module):
    r"""How probable a word is in a text, at any place: :math:`\log \mathrm{softmax}(f(z))_x`.

    A node ``"a | z, x"`` over the steps of a text, for
    :func:`~deeplvm.objectives.auxiliary_elbo`. One softmax serves all words of a text, where the
    other parents are the same in all steps.

    Args:
        vocabulary: how many words there are.
        network: of the other parents.

    Shape:
        Parents ``(*particles, batch, 1, features_i)`` and words ``(batch, steps)`` give
        ``(*particles, batch, steps)``; those of one step, ``(*particles, batch, features_i)`` and
        ``(*particles, batch)``, give ``(*particles, batch)``. Words below 0 count for nothing.

    Learning Discourse-level Diversity for Neural Dialog Models using Conditional Variational
    Autoencoders (Zhao et al., 2017), https://arxiv.org/abs/1703.10960

    Examples:
        >>> bag = BagOfWords(4, nn.Linear(2, 8))
        >>> bag(torch.zeros(5, 8, 1, 2), torch.zeros(8, 6)).shape
        torch.Size([5, 8, 6])
    """

    accepts_missing = True  # words as numbers
    out_shape = ()

    def __init__(self, vocabulary: int, network: Network) -> None:
        super().__init__()
        self.head = Head(network, Size(), vocabulary, "BagOfWords")

    def forward(self, *parents: Tensor) -> Tensor:
        """The logarithm of the probability of each word."""
        *given, words = parents
        said = self.head(*given).log_softmax(-1)
        alike = said.dim() > 1 and said.shape[-2] == 1  # in all steps, which are gathered at once
        said = said.squeeze(-2) if alike else said
        words = words if alike else words.unsqueeze(-1)
        lead = torch.broadcast_shapes(said.shape[:-1], words.shape[:-1])
        words = words.expand(*lead, words.shape[-1])
        found = said.expand(*lead, said.shape[-1]).gather(-1, words.long().clamp(min=0))
        found = torch.where(words < 0, torch.zeros_like(found), found)
        return found if alike else found.squeeze(-1)
