"""One noise for all rows, kept: what an estimate draws becomes a constant of its graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deeplvm.randomness import Dealt, RowNoise


class KeptNoise(RowNoise):
    """The noise of rows that all have the same (``common``), kept when it is first dealt.

    A graph cannot be made of draws: they are made once, of one row, and are numbers from then on,
    ``(particles, 1, *event)``, which every row reads.

    Args:
        seed: Decides the numbers; those of :func:`~deeplvm.likelihood.importance_sampling` with
            this seed, of a selection whose rows have common noise.
        kept: What was dealt before, in that order; ``None`` to deal and keep.
    """

    def __init__(self, seed: int, kept: Sequence[Tensor] | None = None) -> None:
        super().__init__(str(seed), torch.zeros(1, dtype=torch.int64))
        self.kept: list[Tensor] = [] if kept is None else list(kept)
        self.again = None if kept is None else iter(self.kept)

    @contextmanager
    def drawing(self, name: str, batch_shape: tuple[int, ...]) -> Iterator[None]:
        """Random functions inside read the numbers that are kept."""
        dealt = _Kept(self, f"{name}/{self._visit(name)}", batch_shape)
        with _Functions(dealt):
            yield


class _Kept(Dealt):
    """Numbers that are kept, whatever the number of rows is that asks for them."""

    def __init__(self, noise: KeptNoise, what: str, batch_shape: tuple[int, ...]) -> None:
        super().__init__(noise, what, (*batch_shape[:-1], 1), common=False)
        self.own, self.asked = noise, batch_shape

    def uniform(self, like: Tensor) -> Tensor:
        return self._next(like, super().uniform)

    def normal(self, like: Tensor) -> Tensor:
        return self._next(like, super().normal)

    def _next(self, like: Tensor, deal: Any) -> Tensor:
        if self.own.again is not None:
            numbers, one = next(self.own.again).to(like.dtype), self.batch_shape
            there = [tuple(numbers.shape[at : at + len(one)]) for at in range(numbers.dim())]
            if one not in there:  # particles and rows along one axis
                apart = numbers.reshape(*one, -1, *numbers.shape[1:])
                wide = apart.expand(*self.asked, *apart.shape[len(one) :])
                return wide.reshape(like.shape)
            return numbers.expand(like.shape)
        self.own.kept.append(deal(like))
        return self.own.kept[-1]


class _Functions(TorchFunctionMode):
    """Random functions of torch as what deals says.

    A graph is traced above the operators, where a dispatch mode, as other noise has, sees nothing.
    """

    def __init__(self, dealt: Dealt) -> None:
        super().__init__()
        self.dealt = dealt

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        overloads = getattr(torch.ops.aten, name, None) if name in _RANDOM else None
        if overloads is None:
            return func(*args, **kwargs)
        if name in ("rand", "randn") and args and isinstance(args[0], int):
            args = (args,)
        kind = "Tensor_Tensor" if name == "normal" else "default"
        return self.dealt.dealt(getattr(overloads, kind), args, kwargs)


_RANDOM = frozenset((
    "normal_", "uniform_", "exponential_", "cauchy_", "log_normal_", "geometric_", "bernoulli_",
    "bernoulli", "rand", "randn", "rand_like", "randn_like", "normal", "multinomial",
    "_standard_gamma", "_sample_dirichlet", "poisson", "binomial",
))  # fmt: skip
