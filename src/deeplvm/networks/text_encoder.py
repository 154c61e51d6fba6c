"""Texts that tell themselves how long they are, read to a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeplvm.networks.sequences import SequenceEncoder
from deeplvm.networks.text import Ends


class TextEncoder(nn.Module):
    r"""Words as numbers to a vector: the ends of a recurrent network that reads both ways.

    A node ``"e | x"``. It reads up to the first end, whatever lies beyond, and with a table of its
    own; so it needs no length, and serves texts inside a sequence too: the turns of a dialogue.

    Args:
        vocabulary: how many tokens there are; 0 is the end.
        features: width of a word's vector.
        hidden: width of the network in each direction.
        pooled: whether the result is one vector, or one a word, zeros beyond the end.

    Shape:
        Words ``(*particles, batch, *steps, words)`` give ``(*particles, batch, *steps,
        out_features)``, out_features twice ``hidden``; not pooled, ``(*particles, batch, *steps,
        words, out_features)``.

    Examples:
        >>> encoder = TextEncoder(9, 3, 4)
        >>> once, again = encoder(torch.tensor([[5, 7, 0, 0, 0], [5, 7, 0, 8, 2]]))
        >>> once.shape, torch.equal(once, again)
        (torch.Size([8]), True)
    """

    accepts_missing = True  # words as numbers

    def __init__(
        self, vocabulary: int, features: int, hidden: int, *, pooled: bool = True
    ) -> None:
        super().__init__()
        self.table, self.count = nn.Embedding(vocabulary, features), WordCount()
        self.reader, self.ends = SequenceEncoder(features, hidden), Ends(hidden)
        self.pooled, self.out_features = pooled, 2 * hidden

    def forward(self, words: Tensor) -> Tensor:
        """One vector a text, or one a word."""
        count = self.count(words)
        words = torch.nan_to_num(words, nan=0.0) if words.is_floating_point() else words
        states = self.reader(self.table(words.long().clamp(min=0)), count)
        return self.ends(states, count) if self.pooled else states


class WordCount(nn.Module):
    """How many words a text has, its end among them: a node ``"k | x"``.

    Examples:
        >>> WordCount()(torch.tensor([[5, 7, 0, 8, 2], [5, 7, 3, 8, 2]]))
        tensor([3, 5])
    """

    accepts_missing = True  # words as numbers
    out_shape = ()

    def forward(self, words: Tensor) -> Tensor:
        """From ``(*lead, words)`` to ``(*lead)``."""
        before = (words > 0).long().cumprod(-1).sum(-1)  # nothing missing, and nothing beyond
        return (before + 1).clamp(max=words.shape[-1])
