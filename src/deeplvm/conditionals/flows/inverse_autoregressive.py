"""Inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, context_width
from deeplvm.conditionals.flows.masked import MaskedConvolutions, MaskedNetwork, in_place_elu
from deeplvm.conditionals.heads import Network, Shape, event_shape_of
from deeplvm.networks.features import out_shape_of
from deeplvm.registry import Count


def autoregressive_network(
    shape: Shape,
    context: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    reverse: bool,
    activation: Callable[[], nn.Module] = in_place_elu,
) -> MaskedNetwork | MaskedConvolutions:
    """The masked network of an event: MADE for a vector, convolutions for a map.

    Raises:
        ValueError: The event is neither.
    """
    sizes = event_shape_of(shape, "An autoregressive step")
    if len(sizes) == 1:
        return MaskedNetwork(
            sizes[0], context, hidden, outputs, reverse=reverse, activation=activation
        )
    if len(sizes) == 3:
        return MaskedConvolutions(
            sizes, context, hidden, outputs, reverse=reverse, activation=activation
        )
    raise ValueError(
        f"An autoregressive step expects a vector, or a map (channels, height, width), found an "
        f"event of shape {tuple(sizes)}; write a matrix as a map of one channel."
    )


def autoregressive_context(shape: Size, network: Network, context: int | None) -> tuple[int, int]:
    """Width of the context of a step, and of a row: a map has a map of so many channels."""
    if len(shape) == 1 or network is None:
        width = context_width(network, context)
        return width, width
    features = out_shape_of(network) or ()
    channels = context if context is not None else features[0] if len(features) == 3 else 8
    return channels, channels * shape[-2:].numel()


class InverseAutoregressive(NetworkTransform):
    r"""One step, :math:`z' = \sigma z + (1 - \sigma) m` with :math:`\sigma = \mathrm{sigmoid}(s)`.

    :math:`(m, s)` of an element depend on earlier elements and on the context, so that the
    Jacobian is triangular and :math:`\log|\det| = \sum_i \log \sigma_i`. With ``location_only``
    :math:`z' = z + m`, which preserves volume.

    Args:
        forget_bias: where s starts. The gate starts nearly open, as an LSTM's forget gate does:
            the step is close to the identity.
        location_only: whether the step shifts only.
        activation: of the masked network, a module class or function without arguments.
    """

    # The gate stays between sigmoid(1.5 - 7) = 0.004 and 0.9998: a step can always be inverted.
    limit = 7.0

    def __init__(
        self,
        shape: Shape,
        context: int,
        hidden: Sequence[int],
        *,
        reverse: bool = False,
        forget_bias: float = 1.5,
        location_only: bool = False,
        activation: Callable[[], nn.Module] = in_place_elu,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape_of(shape, type(self).__name__))
        self.forget_bias = forget_bias
        self.location_only = location_only
        outputs = 1 if location_only else 2
        self.network = autoregressive_network(
            shape, context, hidden, outputs, reverse=reverse, activation=activation
        )

    def _gates(self, value: Tensor, context: Tensor, weights: Any = None) -> tuple[Tensor, Tensor]:
        m, s = self.network(value, context, weights)
        return m, self.forget_bias + self.limit * torch.tanh(s / self.limit)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.location_only:
            return value + self.network(value, context)[0], 0.0
        m, s = self._gates(value, context)
        return torch.lerp(m, value, torch.sigmoid(s)), self._sum(logsigmoid(s))

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        before = torch.zeros_like(value)
        passes = value.shape[value.dim() - self.event_dims :].numel()
        weights = self.network.masked()
        if self.location_only:
            for _ in range(passes):
                before = value - self.network(before, context, weights)[0]
            return before, 0.0
        for _ in range(passes):  # each pass settles one more element
            m, s = self._gates(before, context, weights)
            before = m + (value - m) / torch.sigmoid(s)
        _, s = self._gates(before, context, weights)
        return before, self._sum(logsigmoid(s))


class InverseAutoregressiveFlow(Flow):
    r"""A posterior :math:`q(z | x)` bent by inverse autoregressive steps.

    .. math:: z_0 = \mu + \sigma_0\, \epsilon, \qquad
              z_t = \sigma_t\, z_{t-1} + (1 - \sigma_t)\, m_t, \qquad
              \log q(z_T) = -\sum_i (\tfrac12 \epsilon_i^2 + \tfrac12 \log 2\pi
              + \sum_{t=0}^T \log \sigma_{t,i})

    The network's features give :math:`\mu, \sigma_0` and the context of every step. The sum over
    t starts at 0, the Gaussian's own scale. A draw and its density cost one pass of each step,
    whatever the number of dimensions; the density of a value drawn elsewhere as many passes as
    there are dimensions, and one.

    The order of the elements is reversed after every step: every second network reads them from
    the last to the first, and nothing is moved. A vector has masked multilayer perceptrons (MADE),
    a map ``(channels, height, width)`` masked convolutions (PixelCNN).

    One step without hidden layers and ``location_only`` is :math:`z = z_0 + L z_0 + V h`, L
    strictly lower triangular: a Gaussian of any covariance (appendix A of the paper).

    Args:
        forget_bias: Where the raw gate s of every step starts; +1 to +2 in the paper.
        location_only: Whether steps only shift, :math:`z_t = z_{t-1} + m_t`.
        activation: Of the masked networks, a module class or function without arguments; the
            paper's ELU by default. ``nn.SiLU`` costs a third of the ELU's time on a CPU.

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
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 2,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        forget_bias: float = 1.5,
        location_only: bool = False,
        activation: Callable[[], nn.Module] = in_place_elu,
        **base: Unpack[Base],
    ) -> None:
        event_shape = event_shape_of(shape, type(self).__name__)
        width, total = autoregressive_context(event_shape, network, context)
        step = partial(
            InverseAutoregressive,
            event_shape,
            width,
            hidden,
            forget_bias=forget_bias,
            location_only=location_only,
            activation=activation,
        )
        steps = self._steps(transforms, lambda t: step(reverse=t % 2 == 1))
        super().__init__(event_shape, network, steps, context=total, **base)
