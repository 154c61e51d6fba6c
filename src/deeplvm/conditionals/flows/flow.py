"""Flow: a conditional whose draw is a simple one after transforms that the parents bend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import (
    Head,
    MeanAndStd,
    Network,
    Shape,
    at_least,
    event_shape_of,
    optional_units,
    positive,
    standardised,
)
from deeplvm.distributions.transformed import Bound, TransformedDraw


class Transform(nn.Module):
    r"""An invertible map of one event, :math:`z_t = f_t(z_{t-1}; h)`; a family is a subclass.

    Everything broadcasts over leading dimensions ``(*particles, batch)``: a value of shape
    ``(*leading, *event)``, a context ``(*leading, C)`` or ``(batch, C)``.

    Attributes:
        parameters_per_row: How many raw numbers a row it reads, its own and no other transform's
            (amortised parameters, as the u, w, b of a planar step).
        reads_context: Whether it reads, after those, the context features that all transforms of
            a flow share (as a step of IAF, whose networks have weights of their own).
    """

    parameters_per_row: int = 0
    reads_context: bool = False

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        r""":math:`z_t`, and :math:`\log |\det \partial z_t / \partial z_{t-1}|` a row."""
        raise NotImplementedError

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        """:math:`z_{t-1}`, and the log-determinant of the forward map there.

        Raises:
            NotImplementedError: There is none in closed form.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no inverse: a draw carries its density, but a value drawn "
            f"elsewhere cannot be scored. Use it as a posterior, or take a family that is "
            f"invertible (real_nvp, nsf, maf) as a prior or likelihood."
        )

    def prepare(self, context: Tensor) -> Tensor:
        """What ``forward`` and ``inverse`` get as their context: made once a row, for all draws.

        A place for what depends on the context alone, such as its part of a first layer.
        """
        return context

    def start(self, raw: Tensor) -> None:
        """Set the starting values of the ``parameters_per_row`` raw numbers, in place.

        By default they start at zero.
        """


class NetworkTransform(Transform):
    """A transform whose ``network`` reads the value and the context that a flow shares.

    Autoregressive families and couplings are subclasses; these are arguments of most.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.
        context: width of the context (of an autoregressive step of a map, its channels).
        hidden: widths of the network: units for a vector, channels for a map. Without any a step
            is linear.
        reverse: whether the last element is the first in order.
    """

    reads_context = True
    event_dims: int = 1
    network: Any

    def prepare(self, context: Tensor) -> Tensor:
        """The context's part of the network's first layer."""
        return self.network.prepare(context)

    def _sum(self, each: Tensor) -> Tensor:
        """The sum over an event."""
        return each.flatten(-self.event_dims).sum(-1)


class Base(TypedDict, total=False):
    """What every flow takes about the draw that it starts from and ends in; see :class:`Flow`."""

    minimum_scale: float
    units: MeanAndStd | Transform | None
    noise: Literal["normal", "logistic"]


class Flow(nn.Module):
    r"""A density :math:`q(z | \text{parents})`: a simple draw after transforms.

    The network's features give location and scale of a first draw, a Gaussian one by default, the
    raw parameters of every transform and the context that transforms share;
    :class:`~deeplvm.distributions.transformed.TransformedDraw` has the mathematics. With a
    network it is a posterior or a likelihood, without one a prior with free parameters.

    A family is a subclass that makes the transforms. It takes these arguments too, with the
    number of ``transforms`` (one at least) in their place; ``context`` only where its transforms
    read one, and then ``hidden``, the widths of the network by which each does (units for a
    vector, channels for a map).

    Args:
        shape: the event shape: a number of elements, or of a map ``(channels, height, width)``.
        network: maps the parents to features; a linear head is added. Without one all parameters
            are free.
        transforms: in the order in which they are applied to a draw.
        context: width of the shared context; by default that of the network's features. Without
            a network there is none. That of autoregressive steps of a map is a map of as many
            channels: those of the network's features, if they are maps, or 8.
        minimum_scale: lower bound of the first draw's scale.
        units: mean and standard deviation of the data, broadcastable to ``shape``: the flow then
            speaks standardised units, and the density is one of the data. Or a transform without
            context that ends in the data's units, such as
            :class:`~deeplvm.conditionals.flows.Logit`.
        noise: what the first draw is, ``"normal"`` or ``"logistic"``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        transforms: Sequence[Transform] = (),
        *,
        context: int | None = None,
        minimum_scale: float = 1e-3,
        units: MeanAndStd | Transform | None = None,
        noise: Literal["normal", "logistic"] = "normal",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.event_shape = event_shape_of(shape, owner)
        self.minimum_scale = minimum_scale
        self.transforms = nn.ModuleList(transforms)
        self.noise = noise
        self.units = (
            units
            if isinstance(units, Transform)
            else optional_units(units, self.event_shape, owner)
        )
        read = any([transform.reads_context for transform in transforms])
        width = context_width(network, context) if read else 0
        elements = self.event_shape.numel()
        own = [int(transform.parameters_per_row) for transform in transforms]
        self.sizes = [elements, elements, *own, width]
        # a column: raw numbers of a row, which a map of features must not share out to its pixels
        self.head = Head(network, Size((sum(self.sizes), 1)), 1, owner)
        self._start()

    def _steps(self, number: int, step: Callable[[int], Transform]) -> list[Transform]:
        """So many transforms, each made knowing how many come before it."""
        return [step(t) for t in range(at_least(number, 1, type(self).__name__, "transforms"))]

    @torch.no_grad()
    def _start(self) -> None:
        """The raw numbers of transforms start where these say, whatever the parents.

        Their weights start at a tenth of the usual size, so that a transform which starts as the
        identity is close to it in every row.
        """
        own = slice(sum(self.sizes[:2]), sum(self.sizes[:-1]))
        bias: Tensor
        if self.head.network is None:
            bias = self.head.free.flatten()
        else:
            bias = self.head.layer.bias  # type: ignore[assignment]
            self.head.layer.weight[own] *= 0.1
        bias[own] = 0.0
        for transform, raw in zip(self.transforms, bias.split(self.sizes)[2:-1], strict=True):
            transform.start(raw)  # type: ignore[operator]

    def forward(self, *parents: Tensor) -> TransformedDraw:
        """The distribution given the parents, batch shape ``(*particles, batch)``."""
        (raw,) = self.head.each(*parents)
        raw = raw.squeeze(-1)
        loc, scale, *own, context = raw.split(self.sizes, -1)
        leading = raw.shape[:-1]
        loc = loc.reshape(*leading, *self.event_shape)
        scale = positive(scale, self.minimum_scale).reshape(*leading, *self.event_shape)
        bound = [
            Bound(transform, transform.inverse, transform.prepare(given))  # type: ignore[arg-type,operator]
            for transform, given in zip(self.transforms, self._contexts(own, context), strict=True)
        ]
        if isinstance(self.units, Transform):
            bound.append(Bound(self.units, self.units.inverse, context))
        elif self.units is not None:
            bound.append(Bound(self._to_units, self._from_units, context))
        dims = len(self.event_shape)
        return TransformedDraw(loc, scale, bound, dims, noise=self.noise)

    def given(self, network: nn.Module) -> Self:
        """The same transforms after a first draw whose location and scale a network puts out.

        Of a flow without parents, with weights of its own: that of classes in Glow, for one.
        """
        made = copy.deepcopy(self)
        made.head = Head(network, Size((sum(self.sizes), 1)), 1, type(self).__name__)
        made._start()
        return made

    def _contexts(self, own: Sequence[Tensor], context: Tensor) -> list[Tensor]:
        """What each transform reads: its own raw parameters, and the shared context after them."""
        return [
            (torch.cat([raw, context], -1) if raw.shape[-1] else context)
            if transform.reads_context
            else raw
            for transform, raw in zip(self.transforms, own, strict=True)
        ]

    def _to_units(self, value: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.units.mean + self.units.std * value, self.units.std.log().sum()  # type: ignore[union-attr]

    def _from_units(self, value: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.units.standardise(value), self.units.std.log().sum()  # type: ignore[union-attr]

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: in the flow's own units where it has others."""
        if isinstance(self.units, Transform):
            return self.units.inverse(value, value)[0]
        return standardised(self.units, value)


def context_width(network: Network, width: int | None) -> int:
    """Features of the shared context: as asked, else as many as the network has."""
    if network is None:
        return 0
    if width is not None:
        return width
    return int(getattr(network, "out_features", 0)) or 64
