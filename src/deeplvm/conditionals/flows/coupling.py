"""Coupling flows: NICE and Real NVP, for vectors and maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Unpack

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import elu, linear

from deeplvm.conditionals.flows.activation_normalisation import ActivationNormalisation
from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, Transform, context_width
from deeplvm.conditionals.flows.masked import SMALL, Perceptron
from deeplvm.conditionals.flows.multi_scale import MultiScale
from deeplvm.conditionals.heads import Network, Shape, at_least, event_shape_of
from deeplvm.networks.broadcasting import fold_particles
from deeplvm.registry import Count


def coupling_mask(shape: Shape, mask: str, *, swapped: bool = False) -> Tensor:
    """Which elements a coupling keeps, true in a tensor of the event's shape.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.
        mask: ``"half"``: the first half of a vector; ``"channel"``: the first half of a map's
            channels; ``"checkerboard"``: every second element, in a map neighbours in a row and
            in a column.
        swapped: keep the others.

    Raises:
        ValueError: the mask is not known for such an event, or keeps all of it.

    Examples:
        >>> coupling_mask((1, 2, 3), "checkerboard").int()
        tensor([[[1, 0, 1],
                 [0, 1, 0]]], dtype=torch.int32)
    """
    sizes = event_shape_of(shape, "A coupling")
    kinds = {1: ("half", "checkerboard"), 3: ("checkerboard", "channel")}.get(len(sizes), ())
    if mask not in kinds:
        raise ValueError(
            f"A coupling of an event of shape {tuple(sizes)} has no mask {mask!r}; a vector has "
            "'half' and 'checkerboard', a map (channels, height, width) 'checkerboard' and "
            "'channel'."
        )
    if mask == "checkerboard":
        places = [torch.arange(size) for size in sizes[-2:]]
        grid = torch.meshgrid(*places, indexing="ij")
        kept = torch.stack(grid).sum(0) % 2 == 0
    else:
        half = torch.arange(sizes[0]) < (sizes[0] + 1) // 2
        kept = half.reshape(-1, *[1] * (len(sizes) - 1))
    kept = kept.expand(sizes) != swapped
    if bool(kept.all()) or not bool(kept.any()):
        raise ValueError(
            f"A coupling with mask {mask!r} has nothing to change in an event of shape "
            f"{tuple(sizes)}; it needs two elements, or two channels, at least."
        )
    return kept.clone()


class Dense(nn.Module):
    """Raw numbers of every element of an event, by a perceptron of the kept ones and a context.

    Args:
        kept: which elements it sees, of the event's shape.
        context: width of the context.
        hidden: widths of the hidden layers.
        outputs: raw numbers for each element.
    """

    def __init__(self, kept: Tensor, context: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs, self.shape = outputs, kept.shape
        widths = [*hidden, outputs * kept.numel()]
        masks = [kept.flatten().expand(widths[0], -1)]
        masks += [torch.ones(high, low).bool() for low, high in pairwise(widths)]
        self.network = Perceptron(masks, context)

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the first layer, shape ``(*leading, hidden)``."""
        return self.network.prepare(context)

    def forward(self, value: Tensor, prepared: Tensor) -> tuple[Tensor, ...]:
        """``outputs`` tensors, each of the value's shape."""
        raw = self.network(value.flatten(-len(self.shape)), prepared).chunk(self.outputs, -1)
        return tuple([each.unflatten(-1, self.shape) for each in raw])


class Convolutions(nn.Module):
    """Raw numbers of every element of a map, by 3x3 convolutions of the kept ones and a context.

    Args:
        kept: which elements it sees, shape ``(channels, height, width)``.
        context: width of the context, a vector.
        hidden: channels of the hidden layers, one at least.
        outputs: raw numbers for each element.
    """

    kept: Tensor

    def __init__(self, kept: Tensor, context: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        at_least(len(hidden), 1, "A coupling of maps", "a number of hidden layers")
        self.outputs = outputs
        dtype = torch.get_default_dtype()
        self.register_buffer("kept", kept.to(dtype), persistent=False)
        widths = [len(kept), *hidden, outputs * len(kept)]
        layers = [nn.Conv2d(low, high, 3, padding=1) for low, high in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        self.context = nn.Parameter(torch.empty(hidden[0], context))
        nn.init.uniform_(self.context, -1.0, 1.0)
        with torch.no_grad():
            self.context.div_(max(context, 1) ** 0.5)
            layers[-1].weight.mul_(SMALL)
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the first layer, shape ``(*leading, hidden, 1, 1)``."""
        return linear(context, self.context)[..., None, None]

    def forward(self, value: Tensor, prepared: Tensor) -> tuple[Tensor, ...]:
        """``outputs`` tensors, each of the value's shape."""
        first, *others = self.layers
        hidden = fold_particles(first, 3)(self.kept * value) + prepared
        leading = hidden.shape[:-3]
        hidden = hidden.reshape(-1, *hidden.shape[-3:])
        for layer in others:
            hidden = layer(elu(hidden, inplace=True))
        # under autocast the network computes in bfloat16; the density does not
        raw = hidden.to(value.dtype).reshape(*leading, *hidden.shape[1:])
        return raw.chunk(self.outputs, -3)


class Coupling(NetworkTransform):
    r"""One step that keeps some elements, and shifts and stretches the others by them.

    With b the kept elements' mask,

    .. math:: z' = b \odot z + (1 - b) \odot (z\, e^{s(b \odot z, h)} + t(b \odot z, h)),
              \qquad \log|\det| = \sum_i (1 - b_i)\, s_i

    and without s where it is additive, which preserves volume. Either direction costs one pass.

    Args:
        kept: b, of the event's shape, true where an element is kept; see :func:`coupling_mask`.
        additive: whether it shifts only.
        dense: whether its network is a perceptron of a map's elements too, not convolutions.
    """

    # |s| stays below: a step stretches or shrinks twentyfold at most, and can be inverted
    limit = 3.0
    changed: Tensor

    def __init__(
        self,
        kept: Tensor,
        context: int,
        hidden: Sequence[int],
        *,
        additive: bool = False,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.event_dims = kept.dim()
        self.additive = additive
        changed = (~kept).to(torch.get_default_dtype())
        self.register_buffer("changed", changed, persistent=False)
        form = Dense if dense or kept.dim() == 1 else Convolutions
        self.network = form(kept, context, hidden, 1 if additive else 2)

    def _parts(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log-scale, zero where elements are kept."""
        shift, raw = self.network(value, context)
        return self.changed * shift, self.changed * self.limit * torch.tanh(raw / self.limit)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.additive:
            return value + self.changed * self.network(value, context)[0], 0.0
        shift, log_scale = self._parts(value, context)
        return value * log_scale.exp() + shift, self._sum(log_scale)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.additive:
            return value - self.changed * self.network(value, context)[0], 0.0
        shift, log_scale = self._parts(value, context)
        return (value - shift) * (-log_scale).exp(), self._sum(log_scale)


def alternating(
    shape: Sequence[int],
    context: int,
    hidden: Sequence[int],
    mask: str,
    transforms: Count,
    *,
    additive: bool = False,
    dense: bool = False,
    normalised: bool = False,
) -> list[Transform]:
    """Couplings of which each changes what the one before kept, perhaps with a normalisation."""
    steps: list[Transform] = []
    for step in range(at_least(transforms, 1, "A coupling flow", "transforms")):
        kept = coupling_mask(shape, mask, swapped=step % 2 == 1)
        steps.append(Coupling(kept, context, hidden, additive=additive, dense=dense))
        steps += [ActivationNormalisation(shape)] if normalised else []
    return steps


class NICE(Flow):
    r"""A density by additive couplings: everything but the first draw preserves volume.

    .. math:: z'_2 = z_2 + t(z_1, h)

    and the next step changes :math:`z_1`. The scale of the first draw is the paper's diagonal
    scaling.

    Args:
        transforms: Number of couplings; two change every element.
        mask: ``"half"``, ``"checkerboard"`` or ``"channel"``, see :func:`coupling_mask`; by
            default half of a vector, the checkerboard of a map.
        dense: Whether maps have perceptrons, as in the paper, instead of convolutions.

    NICE: Non-linear Independent Components Estimation (Dinh et al., 2014),
    https://arxiv.org/abs/1410.8516
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 4,
        mask: str | None = None,
        hidden: Sequence[int] = (64, 64),
        dense: bool = False,
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        sizes = event_shape_of(shape, type(self).__name__)
        width = context_width(network, context)
        steps = alternating(
            sizes, width, hidden, mask or usual(sizes), transforms, additive=True, dense=dense
        )
        super().__init__(sizes, network, steps, context=width, **base)


class RealNVP(Flow):
    r"""A density by affine couplings; draws and densities cost one pass of each step.

    .. math:: z'_2 = z_2 \odot e^{s(z_1, h)} + t(z_1, h)

    and the next step changes :math:`z_1`. Of maps it can work at several scales.

    Args:
        transforms: Number of couplings; two change every element. With several scales, the
            number at each, before and again after a squeeze (three in the paper).
        mask: ``"half"``, ``"checkerboard"`` or ``"channel"``, see :func:`coupling_mask`; by
            default half of a vector, the checkerboard of a map. Several scales have their own.
        scales: Resolutions of a map, see
            :class:`~deeplvm.conditionals.flows.multi_scale.MultiScale`.
        normalised: Whether an activation normalisation follows each coupling, which starts from
            the data; the paper has batch normalisation there.

    Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803

    Examples:
        >>> from deeplvm.networks import MLP
        >>> likelihood = RealNVP((1, 8, 8), MLP(2, 16), scales=2, transforms=2, hidden=(8,))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 4,
        mask: str | None = None,
        hidden: Sequence[int] = (64, 64),
        scales: int = 1,
        normalised: bool = False,
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        sizes = event_shape_of(shape, type(self).__name__)
        width = context_width(network, context)
        if scales > 1 and mask is not None:
            raise ValueError(f"RealNVP with {scales} scales has masks of its own; leave mask out.")

        def steps(mask: str, shape: tuple[int, ...]) -> list[Transform]:
            return alternating(shape, width, hidden, mask, transforms, normalised=normalised)

        def fine(shape: tuple[int, ...]) -> list[Transform]:
            # a single pixel has no neighbours
            return steps("checkerboard" if Size(shape[1:]).numel() > 1 else "channel", shape)

        own: list[Transform] = (
            [MultiScale(sizes, scales, fine, partial(steps, "channel"))]
            if scales > 1
            else steps(mask or usual(sizes), sizes)
        )
        super().__init__(sizes, network, own, context=width, **base)


def usual(shape: Size) -> str:
    """The mask of an event of which nobody said one."""
    return "half" if len(shape) == 1 else "checkerboard"
