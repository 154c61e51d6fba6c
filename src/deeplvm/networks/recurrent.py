"""Cells with a memory, for the deterministic state of a Recurrent joint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from deeplvm.networks.broadcasting import join
from deeplvm.unrolled import FirstState

_PLAIN: dict[str, Any] = {  # one layer in one direction, rows first
    "has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False,
    "batch_first": True,
}  # fmt: skip


class Cell(nn.Module):
    """A deterministic node ``"h | x, z, h[-1]"``: the last parent is the state, the rest joined.

    Where the inputs of all steps are known, and it has a ``scan``, a Recurrent asks it for all
    states at once: the last parent is then a :class:`~deeplvm.unrolled.FirstState`.

    Args:
        width: of the joined input, or its channels.
        state: shape of the state.
    """

    def __init__(self, width: int, state: Sequence[int]) -> None:
        super().__init__()
        self.width, self.out_shape = width, tuple(state)

    def step(self, given: Tensor, before: Tensor) -> Tensor:
        """The next state of rows, from inputs and states of one batch dimension."""
        raise NotImplementedError

    def forward(self, *parents: Tensor) -> Tensor:
        """The next state, shape ``(*particles, batch, *state)``."""
        owner, dims = type(self).__name__, len(self.out_shape)
        if len(parents) < 2:
            raise TypeError(
                f"{owner} expects its inputs and then the state, as in 'h | x, h[-1]', found "
                f"{len(parents)} parents."
            )
        state = parents[-1]
        given = join(parents[:-1], self.width, next(self.parameters()), owner, dims)
        if isinstance(state, FirstState):
            return state.unfold(self.scan, given)  # type: ignore[attr-defined]
        leading = torch.broadcast_shapes(given.shape[:-dims], state.shape[:-dims])
        rows = math.prod(leading)  # cells want one batch dimension
        both = [
            each.expand(*leading, *each.shape[-dims:]).reshape(rows, *each.shape[-dims:])
            for each in (given, state)
        ]
        return self.step(*both).reshape(*leading, *self.out_shape)


class GRU(Cell):
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
        super().__init__(in_features, (hidden,))
        self.in_features, self.out_features = in_features, hidden
        self.cell = nn.GRUCell(in_features, hidden)

    def step(self, given: Tensor, before: Tensor) -> Tensor:
        """The next state."""
        return self.cell(given, before)

    def scan(self, given: Tensor, first: Tensor) -> Tensor:
        """All states, ``(rows, steps, hidden)``, from all inputs and the state before them."""
        cell = self.cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        return torch.gru(given, first[None], weights, **_PLAIN)[0]


class LSTM(Cell):
    r"""One step of long short-term memory, of state :math:`s_t = (h_t, c_t)` side by side.

    .. math:: c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \qquad h_t = \sigma(o) \tanh(c_t)

    with f, i, g, o linear in the inputs and :math:`h_{t-1}`. A node such as ``"s | x, s[-1]"``;
    what it puts out is ``"h | s": Output()``, the first half. The forget gate starts open.

    Args:
        in_features: width of the joined input.
        hidden: width of the output; the state has twice as many.
        forget: bias of the forget gate at first.

    Shape:
        Parents of leading shapes that broadcast to ``(*particles, batch)``; the result has shape
        ``(*particles, batch, 2 * hidden)``.

    Long Short-Term Memory (Hochreiter & Schmidhuber, 1997),
    https://doi.org/10.1162/neco.1997.9.8.1735; the bias of 1 is that of An Empirical Exploration
    of Recurrent Network Architectures (Jozefowicz et al., 2015),
    https://proceedings.mlr.press/v37/jozefowicz15.html

    Examples:
        >>> cell = LSTM(3, 4)
        >>> state = cell(torch.zeros(8, 2), torch.zeros(5, 8, 1), torch.zeros(5, 8, 8))
        >>> state.shape, Output()(state).shape
        (torch.Size([5, 8, 8]), torch.Size([5, 8, 4]))
    """

    def __init__(self, in_features: int, hidden: int, *, forget: float = 1.0) -> None:
        super().__init__(in_features, (2 * hidden,))
        self.in_features, self.hidden, self.out_features = in_features, hidden, 2 * hidden
        self.cell = nn.LSTMCell(in_features, hidden)
        with torch.no_grad():  # torch orders the gates i, f, g, o
            self.cell.bias_hh.zero_()
            self.cell.bias_ih[hidden : 2 * hidden] = forget

    def step(self, given: Tensor, before: Tensor) -> Tensor:
        """The next state."""
        return torch.cat(self.cell(given, before.chunk(2, -1)), -1)

    def scan(self, given: Tensor, first: Tensor) -> Tensor:
        """All states, ``(rows, steps, 2 * hidden)``, from all inputs and the state before them."""
        cell, (hidden, memory) = self.cell, first.chunk(2, -1)
        states = []
        # of the inputs in one product; torch.lstm would keep the last memory alone
        for each in linear(given, cell.weight_ih, cell.bias_ih + cell.bias_hh).unbind(1):
            i, f, g, o = (each + linear(hidden, cell.weight_hh)).chunk(4, -1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * memory.tanh()
            states.append(torch.cat([hidden, memory], -1))
        return torch.stack(states, 1)


class ConvolutionalLSTM(Cell):
    r"""Long short-term memory whose inputs and state are maps, and whose gates convolutions.

    Args:
        in_channels: of all inputs together.
        channels: of the output; the state has twice as many, the output first.
        size: height and width of the maps.
        kernel: side of the convolutions, odd.
        forget: bias of the forget gate at first.

    Shape:
        Maps ``(*particles, batch, channels_i, height, width)`` and the state give ``(*particles,
        batch, 2 * channels, height, width)``.

    Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting (Shi et
    al., 2015), https://arxiv.org/abs/1506.04214, without peepholes.

    Examples:
        >>> cell = ConvolutionalLSTM(3, 4, (5, 7))
        >>> state = cell(torch.zeros(8, 3, 5, 7), torch.zeros(2, 8, 8, 5, 7))
        >>> state.shape, Output(3)(state).shape
        (torch.Size([2, 8, 8, 5, 7]), torch.Size([2, 8, 4, 5, 7]))
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: Sequence[int],
        *,
        kernel: int = 3,
        forget: float = 1.0,
    ) -> None:
        super().__init__(in_channels, (2 * channels, *size))
        _odd(kernel, "ConvolutionalLSTM")
        self.channels = channels
        self.gates = nn.Conv2d(in_channels + channels, 4 * channels, kernel, padding=kernel // 2)
        with torch.no_grad():
            self.gates.bias[channels : 2 * channels] = forget  # type: ignore[index]

    def step(self, given: Tensor, before: Tensor) -> Tensor:
        """The next state."""
        hidden, cell = before.chunk(2, -3)
        i, f, g, o = self.gates(torch.cat([given, hidden], -3)).chunk(4, -3)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * cell.tanh(), cell], -3)


class ConvolutionalGRU(Cell):
    r"""A gated recurrent unit whose inputs and state are maps, and whose gates convolutions.

    .. math:: h_t = u \odot h_{t-1} + (1 - u) \odot \tanh(W * (x_t, r \odot h_{t-1}))

    Args:
        in_channels: of all inputs together.
        channels: of the state.
        size: height and width of the maps.
        kernel: side of the convolutions, odd.

    Shape:
        Maps ``(*particles, batch, channels_i, height, width)`` and the state give ``(*particles,
        batch, channels, height, width)``.

    Delving Deeper into Convolutional Networks for Learning Video Representations (Ballas et al.,
    2016), https://arxiv.org/abs/1511.06432

    Examples:
        >>> ConvolutionalGRU(3, 4, (5, 7))(torch.zeros(8, 3, 5, 7), torch.zeros(8, 4, 5, 7)).shape
        torch.Size([8, 4, 5, 7])
    """

    def __init__(
        self, in_channels: int, channels: int, size: Sequence[int], *, kernel: int = 3
    ) -> None:
        super().__init__(in_channels, (channels, *size))
        _odd(kernel, "ConvolutionalGRU")
        self.channels = channels
        self.layer = nn.Conv2d(in_channels + channels, 3 * channels, kernel, padding=kernel // 2)

    def step(self, given: Tensor, before: Tensor) -> Tensor:
        """The next state."""
        padding, two = self.layer.padding, 2 * self.channels
        weights, biases = self.layer.weight, cast("Tensor", self.layer.bias)
        gates = conv2d(
            torch.cat([given, before], -3), weights[:two], biases[:two], padding=padding
        )
        reset, update = gates.sigmoid().chunk(2, -3)
        fresh = conv2d(
            torch.cat([given, reset * before], -3), weights[two:], biases[two:], padding=padding
        )
        return update * before + (1 - update) * fresh.tanh()


class Output(nn.Module):
    """What an :class:`LSTM` or a :class:`ConvolutionalLSTM` puts out: the first half of its state.

    Args:
        event_dims: 1 of a vector, 3 of a map.
    """

    def __init__(self, event_dims: int = 1) -> None:
        super().__init__()
        self.event_dims = event_dims

    def forward(self, state: Tensor) -> Tensor:
        """Shape ``(*particles, batch, hidden)``, or ``(*particles, batch, channels, ...)``."""
        return state.chunk(2, -self.event_dims)[0]


def _odd(kernel: int, owner: str) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{owner} expects an odd kernel, which keeps the size, found {kernel}.")
