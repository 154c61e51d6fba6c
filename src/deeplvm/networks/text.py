"""Networks over the tokens of a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordDropout(nn.Module):
    r"""Words left out of what a decoder reads, :math:`e_t = m_t w_t + (1 - m_t) u`.

    A node ``"e | x[-1]"``: in training each word w is kept with the probability ``keep``, and
    otherwise a learned vector u stands in its place, so that a latent has something to tell that
    the words before do not. Measured, and for draws, all words are there; but where the rate is 0
    none ever is, and the decoder sees nothing but the latent and the number of words so far.

    Generating Sentences from a Continuous Space (Bowman et al., 2016),
    https://arxiv.org/abs/1511.06349

    Args:
        features: width of a word's vector.
        keep: the probability that a word stays, 0 to 1.

    Shape:
        Words of shape ``(*particles, batch, features)`` give the same.

    Examples:
        >>> inputless = WordDropout(3, keep=0.0)
        >>> bool((inputless(torch.randn(5, 3)) == inputless.nothing).all())
        True
    """

    def __init__(self, features: int, keep: float) -> None:
        super().__init__()
        if not 0 <= keep <= 1:
            raise ValueError(f"WordDropout expects a rate keep of 0 to 1, found {keep}.")
        self.keep, self.out_features = keep, features
        self.nothing = nn.Parameter(torch.zeros(features))

    def forward(self, words: Tensor) -> Tensor:
        """The words that are kept, and the learned vector in the place of the others."""
        if self.keep == 0:
            return self.nothing.expand(words.shape)
        if not self.training:
            return words
        kept = torch.rand_like(words[..., :1]) < self.keep
        return torch.where(kept, words, self.nothing)

    def extra_repr(self) -> str:
        return f"{self.out_features}, keep={self.keep:g}"


class Ends(nn.Module):
    """What a :class:`SequenceEncoder` of both directions knows at its ends: one code a row.

    A node ``"f | a, n"``: forwards the code of the last step of each row, backwards that of the
    first, each of which has read all steps.

    Args:
        hidden: Width of the code of each direction.

    Shape:
        Codes ``(*particles, batch, steps, 2 * hidden)`` and lengths ``(batch,)`` give
        ``(*particles, batch, 2 * hidden)``.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden, self.out_features = hidden, 2 * hidden

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """The two codes side by side."""
        ahead, back = codes.split(self.hidden, -1)
        last = (lengths.long() - 1).expand(codes.shape[:-2])[..., None, None]
        last = ahead.gather(-2, last.expand(*last.shape[:-1], self.hidden))
        return torch.cat([last.squeeze(-2), back[..., 0, :]], -1)
