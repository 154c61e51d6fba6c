"""Noise that does not depend on how many processes share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SharedNoise(TorchFunctionMode):
    """Every random tensor inside is this process's part of that of the whole batch.

    All processes have the same stream of random numbers. Where one asks for numbers of shape
    ``(*particles, part, *event)``, those of shape ``(*particles, batch, *event)`` are drawn and
    its rows taken, so that they are the rows that a single process would draw. What has no batch
    dimension (weights shared by all rows) is the same in all processes.

    Distributions drawn by rejection (Gamma, Dirichlet, Poisson, binomial) use up a stream by an
    amount that depends on parameters which only another process knows: their draws are right, but
    not the numbers of a single process.

    Args:
        part: Rows of this process.
        batch: Rows of all processes together.
        start: The first of this process's rows among them.
        particles: Draws a row, none without an axis for them.
    """

    def __init__(self, part: int, batch: int, start: int, particles: int | None = None) -> None:
        super().__init__()
        self.part, self.batch, self.start, self.particles = part, batch, start, particles

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPED:
            return self._shaped(func, args, kwargs)
        if func in _FILLED:
            return self._filled(func, args, kwargs)
        if func in _GIVEN:
            return self._given(func, args, kwargs)
        return func(*args, **kwargs)

    def _axis(self, shape: tuple[int, ...]) -> int | None:
        """Where the batch is: behind the particles, or first, or behind enumerated values."""
        if self.particles is not None and shape[:2] == (self.particles, self.part):
            return 1
        found = [axis for axis in range(min(3, len(shape))) if shape[axis] == self.part]
        return found[0] if found else None

    def _whole(self, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
        return (*shape[:axis], self.batch, *shape[axis + 1 :])

    def _shaped(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        """``torch.rand(shape)``."""
        sizes = kwargs.get("size", args)
        shape = tuple(sizes[0]) if sizes and not isinstance(sizes[0], int) else tuple(sizes)
        axis = self._axis(shape)
        if axis is None:
            return func(*args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "size"}
        return func(self._whole(shape, axis), **rest).narrow(axis, self.start, self.part)

    def _filled(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        """``tensor.normal_()``, ``torch.rand_like(tensor)``: only its shape and type are read."""
        like: Tensor = args[0]
        axis = self._axis(tuple(like.shape))
        if axis is None:
            return func(*args, **kwargs)
        whole = like.new_empty(self._whole(tuple(like.shape), axis))
        drawn = func(whole, *args[1:], **kwargs).narrow(axis, self.start, self.part)
        return like.copy_(drawn) if func.__name__.endswith("_") else drawn

    def _given(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """``torch.bernoulli(probabilities)``: parameters of the other rows stand in."""
        shapes = [tuple(each.shape) for each in args if isinstance(each, Tensor) and each.dim()]
        if not shapes:
            return func(*args, **kwargs)
        flat = (self.particles or 0) * self.part
        if func is torch.multinomial and flat > self.part and shapes[0][0] == flat:
            return self._flat(args, kwargs)
        axis = self._axis(max(shapes, key=len))
        if axis is None:
            return func(*args, **kwargs)
        whole = [self._padded(each, axis) for each in args]
        return func(*whole, **kwargs).narrow(axis, self.start, self.part)

    def _flat(self, args: Any, kwargs: Any) -> Tensor:
        """``torch.multinomial`` of categories whose particles and rows were made one axis."""
        values = args[0].unflatten(0, (self.particles, self.part))
        drawn = torch.multinomial(self._padded(values, 1).flatten(0, 1), *args[1:], **kwargs)
        mine = drawn.unflatten(0, (self.particles, self.batch)).narrow(1, self.start, self.part)
        return mine.flatten(0, 1)

    def _padded(self, value: Any, axis: int) -> Any:
        if not isinstance(value, Tensor) or value.dim() <= axis or value.shape[axis] != self.part:
            return value
        one = value.narrow(axis, 0, 1).detach()
        sizes = list(value.shape)
        parts = []
        for rows in (self.start, self.batch - self.start - self.part):
            sizes[axis] = rows
            parts.append(one.expand(sizes))
        return torch.cat([parts[0], value, parts[1]], axis)


_SHAPED = frozenset({torch.rand, torch.randn})
_FILLED = frozenset(
    {
        torch.rand_like,
        torch.randn_like,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.exponential_,
        Tensor.cauchy_,
        Tensor.log_normal_,
        Tensor.geometric_,
        Tensor.random_,
    }
)
_GIVEN = frozenset(
    {
        torch.normal,
        torch.bernoulli,
        torch.multinomial,
        torch.poisson,
        torch.binomial,
        torch._standard_gamma,
        torch._sample_dirichlet,
        torch.dropout,
        F.dropout,
    }
)
