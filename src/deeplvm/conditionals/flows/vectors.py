"""Transforms that see an event as one vector of its elements."""

from __future__ import annotations

import torch
from torch import Tensor

from deeplvm.conditionals.flows.flow import Transform
from deeplvm.conditionals.heads import Shape, event_shape_of


class VectorTransform(Transform):
    """An invertible map of the d elements of an event, in row-major order.

    A family gives ``move`` and ``move_back``, in which a value is ``(*leading, d)``.

    Args:
        shape: the event shape, of d elements in all.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, type(self).__name__)
        self.features = self.event_shape.numel()

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        after, log_det = self.move(self._flat(value), context)
        return self._as_event(after), log_det

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        before, log_det = self.move_back(self._flat(value), context)
        return self._as_event(before), log_det

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        r""":math:`z_t`, and the log-determinant a row."""
        raise NotImplementedError

    def move_back(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        r""":math:`z_{t-1}`, and the log-determinant of the forward map there."""
        raise NotImplementedError

    def _flat(self, value: Tensor) -> Tensor:
        dims = len(self.event_shape)
        return value if dims == 1 else value.reshape(*value.shape[: value.ndim - dims], -1)

    def _as_event(self, flat: Tensor) -> Tensor:
        if len(self.event_shape) == 1:
            return flat
        return flat.reshape(*flat.shape[:-1], *self.event_shape)


def dot(first: Tensor, second: Tensor) -> Tensor:
    """The inner product over the last dimension, which is kept with size 1."""
    return (first * second).sum(-1, keepdim=True)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices ``(*batch, n, d)`` times vectors ``(*leading, d)``, in their dtype under autocast.

    Particles that share a matrix do not copy it.
    """
    device = vector.device.type
    if not torch.is_autocast_enabled(device):
        return torch.einsum("...nd,...d->...n", matrix, vector)
    with torch.autocast(device, enabled=False):
        return torch.einsum("...nd,...d->...n", matrix, vector)


def solve_tanh_equation(target: Tensor, strength: Tensor, iterations: int = 20) -> Tensor:
    r"""The s of :math:`s + c \tanh(s) = t`, for :math:`c > -1`: the left side grows with s.

    For :math:`t > 0` both :math:`t - c` and :math:`t / (1 + c)` lie on the same side of the root,
    the left one where :math:`c > 0` (the left side of the equation is concave) and the right one
    where :math:`c < 0` (it is convex). From there every Newton step comes closer and none goes
    past the root, so there is nothing to guard against; the equation is odd, which gives
    :math:`t < 0`.

    The search runs without a graph. One more Newton step with it gives the gradient of the
    implicit function, :math:`\mathrm{d}s = (\mathrm{d}t - \tanh(s)\, \mathrm{d}c) /
    (1 + c\, (1 - \tanh^2 s))`; gradients of gradients would need two.

    Args:
        target: t, any shape.
        strength: c, broadcastable to it.
        iterations: 20 reach the rounding of float64 for :math:`-1 + 10^{-6} \le c \le 10^8`,
            and 12 do for :math:`|c| \le 0.999`.

    Examples:
        >>> s = solve_tanh_equation(torch.tensor(1.0), torch.tensor(-0.5))
        >>> print(f"{s + -0.5 * s.tanh():.6f}")
        1.000000
    """
    with torch.no_grad():
        size = target.abs()
        far, near = size - strength, size / (1 + strength)
        s = torch.where(strength > 0, torch.maximum(far, near), torch.minimum(far, near))
        for _ in range(iterations):
            s = _newton(s, size, strength)
        s = s.copysign(target)
    return _newton(s, target, strength)


def _newton(s: Tensor, target: Tensor, strength: Tensor) -> Tensor:
    tanh = s.tanh()
    return s - (s + strength * tanh - target) / (1 + strength * (1 - tanh.square()))
