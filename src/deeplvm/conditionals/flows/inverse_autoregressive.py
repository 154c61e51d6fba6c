"""Inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.flows.flow import Flow, Transform, context_width
from deeplvm.conditionals.flows.masked import MaskedNetwork
from deeplvm.conditionals.heads import event_shape_of


class InverseAutoregressive(Transform):
    r"""One step, :math:`z' = \sigma z + (1 - \sigma) m` with :math:`\sigma = \mathrm{sigmoid}(s)`.

    :math:`(m, s)` of an element depend on earlier elements and on the context. The order of the
    elements is reversed after the step. :math:`\log|\det| = \sum_i \log \sigma_i`.

    Args:
        features: number of elements.
        context: width of the context.
        hidden: widths of the masked network.
    """

    reads_context = True
    # The gate starts nearly open, as an LSTM's forget gate does: the step is close to the
    # identity.
    forget_bias = 1.5
    # The gate stays between sigmoid(1.5 - 7) = 0.004 and 0.9998: a step can always be inverted.
    limit = 7.0

    def __init__(self, features: int, context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = MaskedNetwork(features, context, hidden, 2)

    def _gates(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self.network(value, context)
        return m, self.forget_bias + self.limit * torch.tanh(s / self.limit)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self._gates(value, context)
        after = m + torch.sigmoid(s) * (value - m)
        return after.flip(-1), logsigmoid(s).sum(-1)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        value = value.flip(-1)
        before = torch.zeros_like(value)
        for _ in range(value.shape[-1]):  # each pass settles one more element
            m, s = self._gates(before, context)
            before = m + (value - m) / torch.sigmoid(s)
        _, s = self._gates(before, context)
        return before, logsigmoid(s).sum(-1)


class InverseAutoregressiveFlow(Flow):
    r"""A posterior :math:`q(z | x)` bent by inverse autoregressive steps.

    .. math:: z_0 = \mu + \sigma_0\, \epsilon, \qquad
              z_t = \sigma_t\, z_{t-1} + (1 - \sigma_t)\, m_t, \qquad
              \log q(z_T) = -\sum_i \Big(\tfrac12 \epsilon_i^2 + \tfrac12 \log 2\pi
              + \sum_{t=0}^T \log \sigma_{t,i}\Big)

    The network's features give :math:`\mu, \sigma_0` and the context of every step. The sum over
    t starts at 0, the Gaussian's own scale. A draw and its density cost one pass of each step,
    whatever the number of dimensions; the density of a value drawn elsewhere as many passes as
    there are dimensions.

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
        network: nn.Module | None = None,
        *,
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        minimum_scale: float = 1e-3,
        units: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        (size,) = event_shape_of(features, type(self).__name__)
        width = context_width(network, context)
        super().__init__(
            features,
            network,
            [InverseAutoregressive(size, width, hidden) for _ in range(transforms)],
            context=width,
            minimum_scale=minimum_scale,
            units=units,
        )
