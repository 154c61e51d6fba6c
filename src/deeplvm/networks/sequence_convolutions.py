"""Convolutions over the steps of a sequence: causal ones, to a vector, and from one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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
        self.layers: Any = nn.ModuleList([_Dilated(width, each, kernel) for each in dilations])
        self.normalise = nn.LayerNorm(width)

    @property
    def receptive_field(self) -> int:
        """How many steps are seen at a step, that one among them."""
        return 1 + sum([layer.reach for layer in self.layers])

    def forward(self, *parents: Tensor) -> Tensor:
        """All steps, shape ``(*lead, steps, width)``."""
        return fold_particles(self._sequence, 2)(self._joined(parents))

    def _sequence(self, given: Tensor) -> Tensor:
        hidden = self.first(given)
        layer: Any
        for layer in self.layers:
            inner = layer.enter(hidden).transpose(1, 2)  # (rows, width / 2, steps)
            inner = layer.convolution(pad(inner, (layer.reach, 0)))
            hidden = hidden + layer.leave(inner.transpose(1, 2))
        return self.normalise(hidden)

    def next_step(self, memory: dict[str, Tensor], /, *parents: Tensor) -> Tensor:
        """The next step; ``memory`` has what each layer reads, ``(*lead, reach, width / 2)``."""
        hidden = self.first(self._joined(parents))
        layer: Any
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


class ConvolutionalSequenceEncoder(nn.Module):
    r"""A sequence to a vector: convolutions of stride 2 over its first steps, and a linear map.

    Args:
        in_features: width of a step.
        longest: how many steps are read, rounded up to a multiple of :math:`2^k` of k layers;
            those beyond are not.
        channels: of each layer.
        features: width of the result.

    Shape:
        Steps ``(*particles, batch, steps, in_features)``, and how many of them count,
        ``(*particles, batch)``, give ``(*particles, batch, features)``.

    A Hybrid Convolutional Variational Autoencoder for Text Generation (Semeniuta et al., 2017),
    https://arxiv.org/abs/1702.02390

    Examples:
        >>> encoder = ConvolutionalSequenceEncoder(3, 20, (8, 16), 5)
        >>> encoder(torch.zeros(4, 7, 3), torch.tensor([7, 2, 1, 3])).shape
        torch.Size([4, 5])
    """

    def __init__(
        self, in_features: int, longest: int, channels: Sequence[int], features: int
    ) -> None:
        super().__init__()
        self.out_features = features
        self.longest, short = _halved(longest, channels, type(self).__name__)
        widths = [in_features, *channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * short, features))

    def forward(self, steps: Tensor, count: Tensor) -> Tensor:
        """The features of the steps that count."""
        there = torch.arange(steps.shape[-2], device=steps.device) < count.unsqueeze(-1)
        steps = steps * there.unsqueeze(-1)
        lead = steps.shape[:-2]
        rows = pad(steps.flatten(0, -3), (0, 0, 0, self.longest - steps.shape[-2]))
        return self.layers(rows.transpose(1, 2)).reshape(*lead, self.out_features)


class SequenceDeconvolutions(nn.Module):
    r"""Vectors to a sequence, transposed convolutions of stride 2; it reads nothing of the steps.

    A node ``"d | e, z"`` over all steps of a Recurrent
    (:class:`~deeplvm.networks.OverSteps`). Of the first parent it is asked only how many steps
    there are.

    Args:
        in_features: width of the other parents together.
        longest: how many steps there are features for, rounded up to a multiple of :math:`2^k` of
            k layers; those of later steps are zeros.
        channels: of each layer, the last first, as the encoder has them.
        features: of a step.

    Shape:
        Something of every step, ``(*lead, steps, ...)``, and vectors ``(*lead, 1, features_i)``
        give ``(*lead, steps, features)``.

    A Hybrid Convolutional Variational Autoencoder for Text Generation (Semeniuta et al., 2017),
    https://arxiv.org/abs/1702.02390

    Examples:
        >>> decoder = SequenceDeconvolutions(2, 20, (8, 16), 5)
        >>> decoder(torch.zeros(4, 7, 3), torch.zeros(6, 4, 1, 2)).shape
        torch.Size([6, 4, 7, 5])
    """

    def __init__(
        self, in_features: int, longest: int, channels: Sequence[int], features: int
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, features
        self.longest, short = _halved(longest, channels, type(self).__name__)
        widths = [features, *channels][::-1]
        self.first = nn.Linear(in_features, widths[0] * short)
        layers: list[nn.Module] = [nn.Unflatten(-1, (widths[0], short))]
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), nn.ConvTranspose1d(before, after, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(self.first, *layers)

    def forward(self, steps: Tensor, *vectors: Tensor) -> Tensor:
        """Features of all steps."""
        known, count = self._map([each[..., 0, :] for each in vectors]), steps.shape[-2]
        known = pad(known, (0, 0, 0, count - self.longest))
        return known.expand(*torch.broadcast_shapes(steps.shape[:-2], known.shape[:-2]), -1, -1)

    def next_step(self, memory: dict[str, Tensor], /, step: Tensor, *vectors: Tensor) -> Tensor:
        """Features of the next step; ``memory`` has those of all to come."""
        if "to come" not in memory:
            memory["to come"] = self._map(vectors)
        now, *_ = memory["to come"].split(1, -2)
        memory["to come"] = pad(memory["to come"][..., 1:, :], (0, 0, 0, 1))
        return now.squeeze(-2)

    def _map(self, vectors: Sequence[Tensor]) -> Tensor:
        """Features of the longest sequence, ``(*lead, longest, features)``."""
        joined = join(tuple(vectors), self.in_features, self.first.weight, type(self).__name__)
        return fold_particles(self.layers, 1)(joined).transpose(-1, -2)


def _halved(longest: int, channels: Sequence[int], owner: str) -> tuple[int, int]:
    """So many steps as can be halved by each layer, and how many are left."""
    if min(longest, *channels) < 1:
        raise ValueError(
            f"{owner} expects channels and longest of at least 1, found "
            f"channels={tuple(channels)}, longest={longest}."
        )
    short = -(-longest // 2 ** len(channels))
    return short * 2 ** len(channels), short
