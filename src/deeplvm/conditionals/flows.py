"""Normalizing flows as conditionals, built from zuko's transformations.

zuko switches off the validation of every torch distribution when it is imported. This module is
the only one that imports it, and puts that back.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

_before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
import zuko  # noqa: E402 - between the saving and the restoring

Distribution._validate_args, Distribution.arg_constraints = _before  # type: ignore[method-assign]
for _found in vars(zuko.distributions).values():
    if isinstance(_found, type) and _found.__module__ == zuko.distributions.__name__:
        # What zuko wants of its own distributions, and of nobody else's.
        _found._validate_args, _found.arg_constraints = False, {}  # type: ignore[attr-defined]


class InverseAutoregressiveFlow(nn.Module):
    r"""A posterior :math:`q(z | x)` bent by inverse autoregressive transformations.

    .. math:: z_t = \mu_t(z_{t-1}, h) + \sigma_t(z_{t-1}, h)\, z_{t-1}, \qquad
              \log q(z_T | x) = \log N(\epsilon; 0, I) - \sum_t \sum_i \log \sigma_{t,i}

    A draw and its density cost one pass of each step, whatever the number of dimensions; the
    density of a value drawn elsewhere costs as many passes as there are dimensions.

    Args:
        features: Number of dimensions.
        network: Maps the parents to the context ``h`` that enters every step.
        transforms: Number of steps; the order of the dimensions is reversed after each.
        hidden: Widths of the masked network of each step.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    >>> import torch
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
    ) -> None:
        super().__init__()
        self.event_shape = (features,)
        self.network = network
        context = int(network.out_features)  # type: ignore[arg-type]
        flow = zuko.flows.MAF(
            features, context, transforms=transforms, hidden_features=tuple(hidden)
        )
        # A masked autoregressive flow draws one dimension after the other; its inverse all at
        # once.
        steps = [zuko.lazy.LazyInverse(step) for step in flow.transform.transforms]
        self.flow = zuko.lazy.Flow(zuko.lazy.LazyComposedTransform(*steps), flow.base)

    def forward(self, *parents: Tensor) -> Distribution:
        """The flow given its context, batch shape ``(*particles, batch)``."""
        return self.flow(self.network(*parents))


class FlowPrior(nn.Module):
    r"""A masked autoregressive flow without parents: a learned prior or a density of its own.

    Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
    https://arxiv.org/abs/1705.07057

    Args:
        features: Number of dimensions.
        network: Maps the parents, if there are any, to a context.
        transforms: Number of steps.
        hidden: Widths of the masked network of each step.
    """

    def __init__(
        self,
        features: int,
        network: nn.Module | None = None,
        *,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        self.event_shape = (features,)
        self.network = network
        context = 0 if network is None else int(network.out_features)  # type: ignore[arg-type]
        self.flow = zuko.flows.MAF(
            features, context, transforms=transforms, hidden_features=tuple(hidden)
        )

    def forward(self, *parents: Tensor) -> Distribution:
        """The flow, given its context if it has one."""
        return self.flow(self.network(*parents) if self.network is not None else None)
