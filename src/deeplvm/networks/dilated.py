"""Causal convolutions over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from deeplvm.networks.broadcasting import fold_particles, join


class DilatedConvolutions(nn.Module):
    r"""Causal convolutions with gaps, :math:`y_t = b + \sum_{i=0}^{k-1} W_i x_{t - i d}`.

    A layer is residual: to half the width, a convolution of dilation d, and back, each after a
    rectifier, the first after a layer normalisation too. At a step :attr:`receptive_field` steps
    are seen, that one and those before it: with ``"h | x[-1]"`` that is how many earlier values.

    Args:
        in_features: width of the joined parents.
        width: of the layers, even.
        dilations: d of each layer.
        kernel: k.

    Shape:
        Parents ``(*lead, steps, features_i)`` give ``(*lead, steps, width)``.

    Raises:
        ValueError: the width is odd, or a dilation or the kernel below 1.

    Improved Variational Autoencoders for Text Modeling using Dilated Convolutions (Yang et al.,
    2017), https://arxiv.org/abs/1702.08139; the layers are those of Neural Machine Translation in
    Linear Time (Kalchbrenner et al., 2016), https://arxiv.org/abs/1610.10099

    Examples:
        >>> small = DilatedConvolutions(3, 8)
        >>> small.receptive_field, small(torch.zeros(4, 20, 3)).shape
        (15, torch.Size([4, 20, 8]))
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        dilations: Sequence[int] = (1, 2, 4),
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, width
        if width % 2 or min(width, kernel, *dilations) < 1:
            raise ValueError(
                f"DilatedConvolutions expects an even width, and dilations and a kernel of at "
                f"least 1; found width={width}, dilations={tuple(dilations)}, kernel={kernel}."
            )
        self.first = nn.Linear(in_features, width)
        self.layers = nn.ModuleList([_Dilated(width, each, kernel) for each in dilations])
        self.normalise = nn.LayerNorm(width)

    @property
    def receptive_field(self) -> int:
        """How many steps are seen at a step, that one among them."""
        return 1 + sum([layer.reach for layer in self.layers])  # type: ignore[misc]

    def forward(self, *parents: Tensor) -> Tensor:
        """All steps, shape ``(*lead, steps, width)``."""
        return fold_particles(self._sequence, 2)(self._joined(parents))

    def _sequence(self, given: Tensor) -> Tensor:
        hidden = self.first(given)
        for layer in self.layers:
            inner = layer.enter(hidden).transpose(1, 2)  # (rows, width / 2, steps)
            inner = layer.convolution(pad(inner, (layer.reach, 0)))
            hidden = hidden + layer.leave(inner.transpose(1, 2))
        return self.normalise(hidden)

    def next_step(self, memory: dict[str, Tensor], /, *parents: Tensor) -> Tensor:
        """The next step; ``memory`` has what each layer reads, ``(*lead, reach, width / 2)``."""
        hidden = self.first(self._joined(parents))
        for index, layer in enumerate(self.layers):
            inner, name = layer.enter(hidden).unsqueeze(-2), str(index)
            if name not in memory:
                memory[name] = inner.new_zeros(*inner.shape[:-2], layer.reach, inner.shape[-1])
            seen = torch.cat([memory[name], inner], -2)  # (*lead, reach + 1, width / 2)
            memory[name] = seen[..., 1:, :]
            taps = seen[..., :: layer.dilation, :]  # (*lead, kernel, width / 2)
            said = torch.einsum("...ki,oik->...o", taps, layer.convolution.weight)
            hidden = hidden + layer.leave(said + layer.convolution.bias)
        return self.normalise(hidden)

    def _joined(self, parents: tuple[Tensor, ...]) -> Tensor:
        return join(parents, self.in_features, self.first.weight, type(self).__name__)


class _Dilated(nn.Module):
    """A residual layer of :class:`DilatedConvolutions`, without its convolution over steps."""

    def __init__(self, width: int, dilation: int, kernel: int) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, dilation * (kernel - 1)
        self.normalise = nn.LayerNorm(width)
        self.narrow, self.widen = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.convolution = nn.Conv1d(width // 2, width // 2, kernel, dilation=dilation)

    def enter(self, hidden: Tensor) -> Tensor:
        """What the convolution reads, ``(*lead, width / 2)``."""
        return relu(self.narrow(relu(self.normalise(hidden))))

    def leave(self, convolved: Tensor) -> Tensor:
        """What is added to the features, ``(*lead, width)``."""
        return self.widen(relu(convolved))
