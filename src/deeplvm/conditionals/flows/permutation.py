"""Transforms that mix elements: a reversal, a random order, a learned matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import conv2d, linear

from deeplvm.conditionals.flows.flow import Transform
from deeplvm.conditionals.heads import Shape, event_shape_of
from deeplvm.networks.broadcasting import fold_particles


class Permutation(Transform):
    r"""The elements of a vector, or the channels of a map, in another order; preserves volume.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.
        order: ``order[i]`` is the place before of what is i-th after. Without one a random order
            is drawn now, and kept with the parameters.

    Raises:
        ValueError: the order does not name every place once.

    Examples:
        >>> step = Permutation(3, order=[1, 2, 0])
        >>> step(torch.tensor([[10.0, 20.0, 30.0]]), torch.zeros(1, 0))[0]
        tensor([[20., 30., 10.]])
    """

    order: Tensor

    def __init__(self, shape: Shape, order: Sequence[int] | None = None) -> None:
        super().__init__()
        sizes = event_shape_of(shape, type(self).__name__)
        self.axis = -len(sizes)
        drawn = torch.randperm(sizes[0]) if order is None else torch.as_tensor(order)
        if sorted(drawn.tolist()) != list(range(sizes[0])):
            raise ValueError(
                f"A permutation of {sizes[0]} elements needs an order that names each of "
                f"0 to {sizes[0] - 1} once, found {drawn.tolist()}."
            )
        self.register_buffer("order", drawn)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, float]:
        return value.index_select(value.dim() + self.axis, self.order), 0.0

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, float]:
        return value.index_select(value.dim() + self.axis, self.order.argsort()), 0.0


def reversal(shape: Shape) -> Permutation:
    """The last element first, the first one last; of a map, its channels.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.
    """
    return Permutation(shape, list(reversed(range(event_shape_of(shape, "A reversal")[0]))))


class InvertibleLinear(Transform):
    r"""A learned matrix, :math:`z' = P L (U + \mathrm{diag}(s))\, z`.

    P is a fixed permutation, L lower triangular with a unit diagonal, U strictly upper
    triangular, and :math:`\log|\det| = \sum_i \log |s_i|`. Of a map the channels of every pixel
    are multiplied (a 1x1 convolution), and the log-determinant counts for each pixel. It starts
    as a random rotation.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.

    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        sizes: Size = event_shape_of(shape, type(self).__name__)
        self.size = sizes[0]
        self.pixels = sizes[1:].numel()
        self.mapped = len(sizes) > 1
        rotation, _ = torch.linalg.qr(torch.randn(self.size, self.size))
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(upper.diagonal().abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diagonal().sign().clone())

    def _triangles(self) -> tuple[Tensor, Tensor]:
        one = torch.eye(self.size, dtype=self.lower.dtype, device=self.lower.device)
        diagonal = torch.diag(self.sign * self.log_scale.exp())
        return self.lower.tril(-1) + one, self.upper.triu(1) + diagonal

    def _log_det(self) -> Tensor:
        return self.pixels * self.log_scale.sum()

    def _times(self, matrix: Tensor, value: Tensor) -> Tensor:
        if not self.mapped:
            return linear(value, matrix)
        kernel = matrix.reshape(*matrix.shape, *[1] * 2)
        return fold_particles(lambda maps: conv2d(maps, kernel), 3)(value)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        return self._times(self.permutation @ lower @ upper, value), self._log_det()

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        turned = torch.linalg.solve_triangular(
            lower, self.permutation.t(), upper=False, unitriangular=True
        )
        return self._times(
            torch.linalg.solve_triangular(upper, turned, upper=True), value
        ), self._log_det()
