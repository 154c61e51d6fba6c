"""The normaliser of a density that is known up to it, estimated and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.results import Estimate


class Normaliser(nn.Module):
    r""":math:`\log Z` of parameters, measured again where these have changed.

    What is measured takes its random numbers from a generator of its own, so that it is a function
    of the parameters alone. It is saved with the model.
    """

    value: Tensor
    stderr: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("stderr", torch.zeros(()))
        self._of: list[Tensor] = []

    def forward(
        self,
        parameters: Sequence[Tensor],
        measure: Callable[[], tuple[Tensor, Tensor]],
        slope: Callable[..., Tensor],
    ) -> Tensor:
        r""":math:`\log Z` with its gradient.

        Args:
            parameters: What it depends on.
            measure: Gives it and its standard error.
            slope: From the parameters to a number with the gradient of :math:`\log Z`; called
                only where one is asked for.
        """
        if torch.compiler.is_compiling():  # a graph reads what was measured before
            return self.value
        self.settle(parameters, measure)
        return _Settled.apply(self.value.to(parameters[0]), slope, *parameters)

    @torch.no_grad()
    def settle(
        self, parameters: Sequence[Tensor], measure: Callable[[], tuple[Tensor, Tensor]]
    ) -> None:
        """Measure it if the parameters are others than before."""
        same = len(self._of) == len(parameters) and all(
            [_equal(one, other) for one, other in zip(self._of, parameters, strict=True)]
        )
        if not same:
            value, stderr = measure()
            self.value.copy_(value)
            self.stderr.copy_(stderr)
            self._of = [each.detach().clone() for each in parameters]

    @property
    def estimate(self) -> Estimate:
        """What was measured last."""
        return Estimate(float(self.value), float(self.stderr))


class _Settled(torch.autograd.Function):
    """A number with the gradient of another one, which is made when it is asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Callable[..., Tensor], *on: Tensor) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(*on)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        on = [each.detach().requires_grad_() for each in ctx.saved_tensors]
        with torch.enable_grad():
            found = torch.autograd.grad(ctx.slope(*on), on, outer[0], allow_unused=True)
        return None, None, *found


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean of weights, and its standard error."""
    count = len(log_weights)
    value = log_weights.logsumexp(0) - torch.tensor(float(count)).log().to(log_weights)
    spread = (log_weights - value).exp().var()
    return value, (spread / count).sqrt()


def own_generator(like: Tensor) -> torch.Generator:
    """A generator that begins anew: the same numbers whoever asks, and none of anybody else's."""
    return torch.Generator(like.device).manual_seed(0)


def _equal(one: Tensor, other: Tensor) -> bool:
    alike = one.device == other.device and one.dtype == other.dtype
    return alike and torch.equal(one, other)
