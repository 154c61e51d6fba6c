"""Normalizing flows as conditionals, built on zuko's masked networks.

zuko switches off the validation of every torch distribution when it is imported. This module is
the only one that imports it, and puts that back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from deeplvm.conditionals.heads import Head, positive
from deeplvm.distributions.inverse_autoregressive import InverseAutoregressiveNormal

_before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
import zuko  # noqa: E402 - between the saving and the restoring

Distribution._validate_args, Distribution.arg_constraints = _before  # type: ignore[method-assign]
for _found in vars(zuko.distributions).values():
    if isinstance(_found, type) and _found.__module__ == zuko.distributions.__name__:
        # What zuko wants of its own distributions, and of nobody else's.
        _found._validate_args, _found.arg_constraints = False, {}  # type: ignore[attr-defined]


class MaskedStep(nn.Module):
    r""":math:`(m, s)` of one inverse autoregressive step, by a masked network (MADE).

    Element i depends on elements before i and on all of the context, which is not masked.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509
    """

    # The gate starts nearly open, as an LSTM's forget gate does: the step is close to the
    # identity.
    forget_bias = 1.5
    # The gate stays between sigmoid(1.5 - 7) = 0.004 and 0.9998: a step can always be inverted.
    limit = 7.0

    def __init__(self, features: int, context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        before = torch.ones(features, features).tril(-1).bool()
        sees = torch.cat([before, torch.ones(features, context).bool()], -1)
        self.network = zuko.nn.MaskedMLP(
            torch.cat([sees, sees]),  # pyrefly: ignore[bad-argument-type] - zuko says BoolTensor
            hidden_features=tuple(hidden),
            activation=nn.ELU,
        )

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the value's shape."""
        leading = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        joined = torch.cat(
            [
                value.expand(*leading, value.shape[-1]),
                context.expand(*leading, context.shape[-1]),
            ],
            -1,
        )
        # under autocast the network computes in bfloat16; the density does not
        m, s = self.network(joined).to(value.dtype).chunk(2, -1)
        return m, self.forget_bias + self.limit * torch.tanh(s / self.limit)


class InverseAutoregressiveFlow(nn.Module):
    r"""A posterior :math:`q(z | x)` bent by inverse autoregressive steps.

    The network's features give the mean and scale of a first Gaussian draw and the context of
    every step; :class:`~deeplvm.distributions.inverse_autoregressive.InverseAutoregressiveNormal`
    has the mathematics. A draw and its density cost one pass of each step, whatever the number of
    dimensions.

    Args:
        features: Number of dimensions.
        network: Maps the parents to features.
        transforms: Number of steps; the order of the dimensions is reversed after each.
        hidden: Widths of the masked network of each step.
        context: Width of the context; by default that of the network's features.
        minimum_scale: Lower bound of the first draw's scale.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = InverseAutoregressiveFlow(4, MLP(6, 16), transforms=2)
        >>> z, log_q = posterior(torch.zeros(5, 6)).rsample_and_log_prob()
        >>> z.shape, log_q.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        network: nn.Module,
        *,
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        minimum_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = Size((features,))
        self.minimum_scale = minimum_scale
        width = int(getattr(network, "out_features", features)) if context is None else context
        self.head = Head(network, Size((2 * features + width,)), 1, "InverseAutoregressiveFlow")
        self.steps = nn.ModuleList(
            [MaskedStep(features, width, hidden) for _ in range(transforms)]
        )

    def forward(self, *parents: Tensor) -> Distribution:
        """The distribution given the parents, batch shape ``(*particles, batch)``."""
        features = self.event_shape[0]
        (raw,) = self.head.each(*parents)
        loc, scale, context = (
            raw[..., :features],
            raw[..., features : 2 * features],
            raw[..., 2 * features :],
        )
        return InverseAutoregressiveNormal(
            loc, positive(scale, self.minimum_scale), context, list(self.steps)
        )
