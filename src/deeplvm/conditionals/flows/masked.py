"""Networks of a value and a context; masked, what they say of element i rests on earlier ones.

A masked weight is multiplied by its mask at every pass, not set to zero once: whatever moves the
parameters (weight decay, averaging, noise, a loaded file), an element never sees a later one. An
inverse takes many passes at the same parameters and multiplies once: they are handed what
``masked()`` returned. Nothing outlives the call, as no mark of a tensor tells all of its changes
(a fused optimiser, ``.data`` and shared memory leave its version as it was).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from deeplvm.networks.broadcasting import fold_particles
from deeplvm.networks.masked import MaskedLinear, start_uniform

# The last layer starts with weights so much smaller, so that a step starts near the identity.
SMALL = 0.01


def in_place_elu() -> nn.Module:
    """The activation of the papers, written over its argument, which nothing else reads."""
    return nn.ELU(inplace=True)


class Perceptron(nn.Module):
    r"""Raw numbers by a multilayer perceptron of a value and a context.

    .. math:: h_1 = a((M_1 \odot W_1) z + V h + b_1), \qquad
              h_{l+1} = a((M_{l+1} \odot W_{l+1}) h_l + b_{l+1})

    and no activation after the last layer.

    Args:
        masks: M of each layer, shape ``(out, in)``, true where a weight is.
        context: width of the context h, which is not masked.
        activation: a, a module class or function without arguments.

    Shape:
        A value ``(*leading, in)`` and a prepared context ``(*leading, hidden)`` that broadcast
        give ``(*leading, out)``.
    """

    def __init__(
        self,
        masks: Sequence[Tensor],
        context: int,
        activation: Callable[[], nn.Module] = in_place_elu,
    ) -> None:
        super().__init__()
        first, *others = masks
        self.context = nn.Linear(context, len(first)) if context else None
        self.first = MaskedLinear(first, beside=context, bias=not context)
        self.others = nn.ModuleList([MaskedLinear(mask) for mask in others])
        self.activation = activation()
        (self.others[-1] if others else self.first).shrink(SMALL)  # type: ignore[operator]
        if self.context is not None:
            start_uniform(
                self.context.weight, torch.ones_like(self.context.weight), first.shape[1]
            )
            nn.init.zeros_(self.context.bias)
            with torch.no_grad():
                self.context.weight.mul_(1.0 if others else SMALL)

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the first layer, shape ``(*leading, hidden)``, or no columns."""
        return context if self.context is None else self.context(context)

    def masked(self) -> list[list[Tensor]]:
        """The weights of every layer with their masks."""
        return [layer.masked() for layer in (self.first, *self.others)]  # type: ignore[operator]

    def forward(
        self, value: Tensor, prepared: Tensor, weights: Sequence[Sequence[Tensor]] | None = None
    ) -> Tensor:
        """The raw numbers; ``prepared`` and ``weights`` are of :meth:`prepare`, :meth:`masked`."""
        first, *others = self.masked() if weights is None else weights
        hidden = self.first(value, None if self.context is None else prepared, first)
        for layer, own in zip(self.others, others, strict=True):
            hidden = layer(self.activation(hidden), weights=own)
        # under autocast the network computes in bfloat16; the density does not
        return hidden.to(value.dtype)


class MaskedPerceptron(nn.Module):
    r"""Raw numbers for every element of a vector, by a masked multilayer perceptron (MADE).

    Those of element i depend on elements before i and on all of the context, which is not masked.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509

    Args:
        features: length of the vector.
        context: width of the context.
        hidden: widths of the hidden layers; without any the numbers are linear in the vector.
        outputs: raw numbers for each element.
        passes: groups of neighbouring elements that depend on earlier groups only, and so how
            many passes an inverse needs; 2 for coupling layers, as many as elements by default.
        reverse: whether the last element is the first in order.
        activation: a module class or function without arguments.

    Raises:
        ValueError: there are more groups than elements, or none.
    """

    def __init__(
        self,
        features: int,
        context: int,
        hidden: Sequence[int],
        outputs: int,
        passes: int | None = None,
        *,
        reverse: bool = False,
        activation: Callable[[], nn.Module] = in_place_elu,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.passes: int = features if passes is None else passes
        if not 1 <= self.passes <= features:
            raise ValueError(
                f"A flow of {features} elements takes 1 to {features} passes, found "
                f"passes={passes}."
            )
        order = torch.arange(features) * self.passes // features
        order = order.flip(0) if reverse else order
        degrees = [order, *[spread(width, self.passes, context) for width in hidden]]
        masks = [low <= high[:, None] for low, high in pairwise(degrees)]
        masks.append((degrees[-1] < order[:, None]).repeat(outputs, 1))
        self.network = Perceptron(masks, context, activation)

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the first layer, shape ``(*leading, hidden)``."""
        return self.network.prepare(context)

    def masked(self) -> list[list[Tensor]]:
        """The weights of every layer with their masks, for many passes."""
        return self.network.masked()

    def forward(
        self, value: Tensor, prepared: Tensor, weights: Sequence[Sequence[Tensor]] | None = None
    ) -> tuple[Tensor, ...]:
        """``outputs`` tensors, each of the value's shape."""
        return self.network(value, prepared, weights).chunk(self.outputs, -1)


class MaskedConvolutions(nn.Module):
    r"""Raw numbers for every element of a map, by masked convolutions (PixelCNN).

    The order is that of the pixels, row after row, and of the channels within a pixel: the
    numbers of channel c at a pixel depend on every channel of pixels before it, on the channels
    before c of the pixel itself, and on all of the context, which is a map too and not masked.
    Kernels are two rows high, as the third row of three would be masked. As with PixelCNN, some
    earlier pixels to the right above are out of sight (its blind spot), which costs flexibility
    and not exactness.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759

    Args:
        shape: channels, height and width of the map.
        context: channels of the context.
        hidden: channels of the hidden layers; without any the numbers are linear in the map.
        outputs: raw numbers for each element.
        reverse: whether the last pixel's last channel is the first in order.
        activation: a module class or function without arguments.
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        reverse: bool = False,
        activation: Callable[[], nn.Module] = in_place_elu,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.outputs = outputs
        self.reverse = reverse
        self.channels = context
        self.activation = activation()
        order = torch.arange(self.shape[0])
        order = order.flip(0) if reverse else order
        # earlier pixels are always there, so that some channels may see nothing of their own
        degrees = [order, *[spread(width, len(order), 1) for width in hidden]]
        masks = [self._taps(low <= high[:, None]) for low, high in pairwise(degrees)]
        masks.append(self._taps((degrees[-1] < order[:, None]).repeat(outputs, 1)))
        self.weights = nn.ParameterList([torch.empty(mask.shape) for mask in masks])
        self.biases = nn.ParameterList([torch.zeros(len(mask)) for mask in masks])
        for layer, mask in enumerate(masks):
            dtype = self.biases[0].dtype
            self.register_buffer(f"mask_{layer}", mask.to(dtype), persistent=False)
            start_uniform(self.weights[layer], mask, 9 * context if layer == 0 else 0)
        self.context = nn.Parameter(torch.empty(len(masks[0]), context, 3, 3))
        start_uniform(self.context, torch.ones_like(self.context), 5 * self.shape[0])
        with torch.no_grad():
            self.weights[-1].mul_(SMALL)
            if len(masks) == 1:
                self.context.mul_(SMALL)

    def _taps(self, own: Tensor) -> Tensor:
        """The mask of a kernel, of whose own pixel the channels ``own`` are seen."""
        taps = torch.zeros(*own.shape, 2, 3, dtype=torch.bool)
        taps[..., 0, :] = True  # the row above
        taps[..., 1, 0] = True  # the pixel to the left
        taps[..., 1, 1] = own
        return taps.flip(-1, -2) if self.reverse else taps

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the first layer, shape ``(*leading, hidden, height, width)``."""
        bias = self.biases[0]
        if not self.channels:
            return bias[:, None, None].expand(*context.shape[:-1], -1, *self.shape[1:])
        maps = context.unflatten(-1, (self.channels, *self.shape[1:]))
        return fold_particles(lambda m: conv2d(m, self.context, bias, padding=1), 3)(maps)

    def masked(self) -> list[Tensor]:
        """The kernels of every layer with their masks, for many passes."""
        return [kernel * getattr(self, f"mask_{i}") for i, kernel in enumerate(self.weights)]

    def forward(
        self, value: Tensor, prepared: Tensor, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """``outputs`` tensors, each of the value's shape."""
        weights = self.masked() if weights is None else weights
        folded = value.reshape(-1, *self.shape)
        first = self._convolve(folded, weights[0], None)
        hidden = first.reshape(*value.shape[:-3], *first.shape[1:]) + prepared
        leading = hidden.shape[:-3]
        hidden = hidden.reshape(-1, *hidden.shape[-3:])
        for layer in range(1, len(weights)):
            hidden = self._convolve(self.activation(hidden), weights[layer], self.biases[layer])
        raw = hidden.to(value.dtype).reshape(*leading, *hidden.shape[1:])
        return raw.chunk(self.outputs, -3)

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Rows r - 1 and r give row r; in reverse, rows r and r + 1."""
        rows = conv2d(maps, weight, bias, padding=1)
        return rows[..., 1:, :] if self.reverse else rows[..., :-1, :]


def spread(width: int, features: int, context: int) -> Tensor:
    """Degrees of the units of a hidden layer, in order: how far each one sees.

    One of degree k sees the elements up to the k-th in order; of degree -1 the context alone.
    """
    least = -1 if context or features == 1 else 0
    return least + torch.arange(width) * (features - 1 - least) // width
