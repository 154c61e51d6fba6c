"""From features to the raw parameters of a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import softplus

from deeplvm.core.joint import view_of
from deeplvm.networks.broadcasting import fold_particles, join
from deeplvm.networks.features import out_shape_of
from deeplvm.networks.mlp import MLP
from deeplvm.registry import Positive

# An event shape as it is written, a map of the parents to features (none: free parameters), and
# the mean and standard deviation of the data.
Shape = int | Sequence[int]
Network = nn.Module | None
MeanAndStd = tuple[Tensor | float, Tensor | float]
# Where a positive parameter comes from: see :class:`Scale`.
Source = Literal["network", "dimension", "global"] | Positive


def event_shape_of(shape: Shape, owner: str) -> Size:
    """The event shape that a user wrote as a number or a tuple.

    Raises:
        ValueError: a size is not positive.
    """
    event_shape = Size((shape,) if isinstance(shape, int) else shape)
    if min(event_shape, default=1) < 1:
        raise ValueError(
            f"{owner} expects an event shape of positive sizes, found {tuple(event_shape)}."
        )
    return event_shape


def at_least(number: int, minimum: int, owner: str, name: str) -> int:
    """The number, if it is large enough.

    Raises:
        ValueError: it is below ``minimum``.
    """
    if number < minimum:
        raise ValueError(f"{owner} expects {name} of at least {minimum}, found {number}.")
    return number


def shown(conditional: nn.Module | None, value: Tensor) -> Tensor:
    """A value as its conditional shows it to the networks of other names."""
    view = view_of(conditional)
    return value if view is None else view(value)


class Head(nn.Module):
    r"""The last linear map: raw, unbounded parameters of every element of an event.

    A vector of features gets a ``Linear``; a map of features whose height and width are those of
    the event gets a 1x1 ``Conv2d``. Without a network the parameters are learned directly.

    Args:
        network: maps parents to features and says their shape by ``out_features`` or
            ``out_shape``; ``None`` for free parameters.
        event_shape: the shape of one value.
        outputs: how many raw parameters each element has.
        owner: the name of the conditional, for error messages.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give ``(*particles, batch, outputs,
        *event)``; free parameters have no leading dimensions.

    ``correction``, where it is set, is added to the raw parameters; its shape is that of one row,
    ``raw_shape``, after ``(batch,)``.
    """

    correction: Tensor | None = None

    def __init__(
        self, network: nn.Module | None, event_shape: Size, outputs: int, owner: str
    ) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.outputs = outputs
        self.owner = owner
        self.network = network
        self.folded = False
        if network is None:
            self.free = nn.Parameter(torch.zeros(outputs, *event_shape))
            return
        out_shape = out_shape_of(network)
        if out_shape is None:
            raise ValueError(
                f"{owner} cannot see what {type(network).__name__} returns: it has neither "
                "'out_features' nor 'out_shape'. Wrap it: Features(network, out_shape=...)."
            )
        self.out_dims = len(out_shape)
        elements = outputs * event_shape.numel()
        channels = _channels(out_shape, event_shape)
        self.layer: nn.Linear | nn.Conv2d
        if channels:
            self.layer = nn.Conv2d(out_shape[0], outputs * channels, 1)
        else:
            self.layer = nn.Linear(math.prod(out_shape), elements)
        initialization = getattr(network, "initialization", None)
        if initialization is not None:
            initialization(self.layer)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.free.dtype if self.network is None else self.layer.weight.dtype

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of one row's raw parameters, as a linear map or a convolution gives them."""
        if self.network is None:
            return (self.free.numel(),)
        if isinstance(self.layer, nn.Conv2d):
            _, height, width = out_shape_of(self.network) or ()
            return (self.layer.out_channels, height, width)
        return (self.layer.out_features,)

    @property
    def affine(self) -> bool:
        """Whether it is a linear map of the parents: the network has no hidden layers."""
        empty = isinstance(self.network, MLP) and len(self.network.layers) == 0
        return empty and isinstance(self.layer, nn.Linear)

    def forward(self, *parents: Tensor) -> Tensor:
        """Raw parameters, shape ``(*particles, batch, outputs, *event)``."""
        raw, mapped = self._raw(*parents)
        return raw.reshape(*raw.shape[: raw.ndim - mapped], self.outputs, *self.event_shape)

    def each(self, *parents: Tensor) -> tuple[Tensor, ...]:
        """The raw parameters one by one, each of shape ``(*particles, batch, *event)``."""
        raw, mapped = self._raw(*parents)
        # parameter after parameter along the first mapped axis: cut there, and shape each
        parts = (raw,) if self.outputs == 1 else raw.chunk(self.outputs, -mapped)
        if mapped == 1 and len(self.event_shape) == 1:
            return parts
        return tuple(
            [part.reshape(part.shape[: part.ndim - mapped] + self.event_shape) for part in parts]
        )

    def _raw(self, *parents: Tensor) -> tuple[Tensor, int]:
        """All raw parameters, and how many of the last dimensions hold them."""
        raw, mapped = self._uncorrected(*parents)
        return raw if self.correction is None else raw + self.correction, mapped

    def _uncorrected(self, *parents: Tensor) -> tuple[Tensor, int]:
        network = self.network
        if network is None:
            if parents:
                raise TypeError(
                    f"{self.owner} has no network, so it takes no parents, found {len(parents)}; "
                    f"give it one: {self.owner}(..., MLP(...))."
                )
            return self.free.flatten(), 1
        if not parents:
            raise TypeError(
                f"{self.owner} has a network, so it needs parents, found none; write them after "
                "'|', or leave the network out for free parameters."
            )
        if len(parents) > 1 and isinstance(network, nn.Linear):
            parents = (join(parents, network.in_features, network.weight, self.owner),)
        features = network(*parents)
        mapped = 3 if isinstance(self.layer, nn.Conv2d) else 1
        if mapped == 3:
            raw = fold_particles(self.layer, 3)(features)
        else:
            raw = self.layer(features.flatten(-self.out_dims) if self.out_dims > 1 else features)
        # under autocast networks compute in bfloat16; densities do not
        return raw.to(self.layer.weight.dtype), mapped

    @torch.no_grad()
    def start_at(self, raw: Tensor | float, index: int = 0) -> None:
        """Set the bias so that zero features give ``raw``, broadcastable to the event."""
        bias = self.free if self.network is None else self.layer.bias
        if bias is None:
            return
        target = bias.view(self.outputs, -1)[index]
        value = torch.as_tensor(raw, dtype=bias.dtype, device=bias.device).expand(self.event_shape)
        # a 1x1 convolution has one bias a channel: the mean over the pixels
        target.copy_(value.reshape(target.numel(), -1).mean(-1))


def _channels(out_shape: tuple[int, ...], event_shape: Size) -> int:
    """How many channels a 1x1 convolution must give an element of the event, 0 if it cannot."""
    if len(out_shape) != 3:
        return 0
    pixels = out_shape[1] * out_shape[2]
    if tuple(event_shape[-2:]) == tuple(out_shape[1:]) or (
        len(event_shape) == 1 and event_shape[0] % pixels == 0
    ):
        return event_shape.numel() // pixels
    return 0


def positive(raw: Tensor, minimum: float, at_zero: float = 1.0) -> Tensor:
    r"""A positive number bounded away from zero, :math:`m + \log(1 + e^{raw + c})`.

    The constant c makes a raw 0 come out as ``minimum + at_zero``. Linear for large raw values,
    so that an extreme output of a network stays finite where an exponential would overflow.

    Examples:
        >>> positive(torch.tensor([-1e4, 0.0, 1e4]), minimum=1e-3)
        tensor([1.0000e-03, 1.0010e+00, 1.0001e+04])
    """
    return softplus(raw + math.log(math.expm1(at_zero))) + minimum


def raw_of(value: Tensor | float, at_zero: float = 1.0) -> Tensor:
    """The raw number that :func:`positive` with minimum 0 turns into ``value``."""
    value = torch.as_tensor(value)
    return value + torch.log(-torch.expm1(-value)) - math.log(math.expm1(at_zero))


class Scale(nn.Module):
    r"""The positive scale of every element: from the network, learned, or fixed.

    Args:
        scale: ``"network"`` (one raw output of the head an element), ``"dimension"`` (a learned
            number an element), ``"global"`` (one learned number), or the number itself.
        event_shape: the shape of one value.
        minimum: the lower bound of a learned scale, in the units of the network.
        owner, name: for error messages.
        at_zero: the scale of a raw 0, above the minimum.
    """

    fixed: Tensor

    def __init__(
        self,
        scale: str | float,
        event_shape: Size,
        minimum: float,
        owner: str,
        name: str = "scale",
        at_zero: float = 1.0,
    ) -> None:
        super().__init__()
        self.source = scale
        self.minimum = minimum
        self.at_zero = at_zero
        self.outputs = 1 if scale == "network" else 0
        if not minimum >= 0:
            raise ValueError(f"{owner} expects minimum_{name} of at least 0, found {minimum}.")
        if scale == "dimension":
            self.raw = nn.Parameter(torch.zeros(event_shape))
        elif scale == "global":
            self.raw = nn.Parameter(torch.zeros(()))
        elif not isinstance(scale, str) and scale > 0:
            self.register_buffer("fixed", torch.tensor(float(scale)), persistent=False)
        elif scale != "network":
            raise ValueError(
                f"{owner} expects {name} 'network', 'dimension', 'global' or a positive number, "
                f"found {scale!r}."
            )

    def forward(self, raw: Sequence[Tensor]) -> Tensor:
        """The scale, broadcastable to the event; ``raw`` is the head's output for it, if any."""
        if self.outputs:
            return positive(raw[0], self.minimum, self.at_zero)
        if isinstance(self.source, str):
            return positive(self.raw, self.minimum, self.at_zero)
        return self.fixed


class Units(nn.Module):
    r"""The data's own units: :math:`x = \text{mean} + \text{std} \cdot u`, u standardised.

    A conditional whose location is ``mean + std * m`` and whose scale is ``std * s`` is a density
    of x itself: the Jacobian of the standardisation is counted.

    Raises:
        ValueError: a standard deviation is not positive or not finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, units: MeanAndStd, event_shape: Size, owner: str) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        mean, std = (torch.as_tensor(unit, dtype=dtype).expand(event_shape) for unit in units)
        if not bool(((std > 0) & std.isfinite() & mean.isfinite()).all()):
            raise ValueError(
                f"{owner} expects units=(mean, std) that are finite, and std > 0; found a "
                f"smallest std of {std.min().item():g}. A constant element has no unit: leave it "
                "out, or give it std 1."
            )
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def standardise(self, value: Tensor) -> Tensor:
        """The value in standardised units, same shape."""
        return (value - self.mean) / self.std

    forward = standardise


def standardised(units: Units | None, value: Tensor) -> Tensor:
    """The value in standardised units, where there are any; same shape."""
    return value if units is None else units.standardise(value)


def in_units(units: Units | None, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A standardised location and scale in the data's units, where there are any."""
    return (loc, scale) if units is None else (units.mean + units.std * loc, units.std * scale)


def optional_units(units: MeanAndStd | None, event_shape: Size, owner: str) -> Units | None:
    """The units, where they were given."""
    return None if units is None else Units(units, event_shape, owner)
