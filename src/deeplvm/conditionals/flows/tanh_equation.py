"""The scalar equation that every flow built from one hidden layer of tanh comes down to."""

from __future__ import annotations

import torch
from torch import Tensor


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
