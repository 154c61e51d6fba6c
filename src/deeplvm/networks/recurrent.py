"""Cells with a memory, for the deterministic state of a Recurrent joint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeplvm.networks.broadcasting import join


class GRU(nn.Module):
    r"""One step of a gated recurrent unit, :math:`h_t = \mathrm{GRU}((u_1, \dots, u_n), h_{t-1})`.

    A deterministic node such as ``"h | x, z, h[-1]"``: all parents but the last are joined as the
    input, the last is the state.

    Args:
        in_features: width of the joined input.
        hidden: width of the state.

    Shape:
        Parents of leading shapes that broadcast to ``(*particles, batch)``; the result has shape
        ``(*particles, batch, hidden)``.

    Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation
    (Cho et al., 2014), https://arxiv.org/abs/1406.1078

    Examples:
        >>> cell = GRU(3, 4)
        >>> cell(torch.zeros(8, 2), torch.zeros(5, 8, 1), torch.zeros(5, 8, 4)).shape
        torch.Size([5, 8, 4])
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = hidden
        self.out_shape = (hidden,)
        self.cell = nn.GRUCell(in_features, hidden)

    def forward(self, *parents: Tensor) -> Tensor:
        """The next state."""
        if len(parents) < 2:
            raise TypeError(
                f"GRU expects its inputs and then the state, as in 'h | x, h[-1]', found "
                f"{len(parents)} parents."
            )
        state = parents[-1]
        given = join(parents[:-1], self.in_features, self.cell.weight_ih, "GRU")
        leading = torch.broadcast_shapes(given.shape[:-1], state.shape[:-1])
        # GRUCell wants one batch dimension.
        rows = leading.numel() if isinstance(leading, torch.Size) else torch.Size(leading).numel()
        flat = given.expand(*leading, self.in_features).reshape(rows, self.in_features)
        before = state.expand(*leading, self.out_features).reshape(rows, self.out_features)
        return self.cell(flat, before).reshape(*leading, self.out_features)
