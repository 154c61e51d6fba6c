"""Inverse and masked autoregressive flows, and a transform run backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, Transform, context_width
from deeplvm.conditionals.flows.masked import MaskedConvolutions, MaskedPerceptron, in_place_elu
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
) -> MaskedPerceptron | MaskedConvolutions:
    """The masked network of an event: MADE for a vector, convolutions for a map.

    Raises:
        ValueError: The event is neither.
    """
    sizes = event_shape_of(shape, "An autoregressive step")
    if len(sizes) == 1:
        return MaskedPerceptron(
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


class Inverted(Transform):
    r"""Another transform run backwards, :math:`z' = f^{-1}(z)`: draws and densities change roles.

    An inverse autoregressive step turns into a masked autoregressive one, whose density costs one
    pass and whose draw as many as there are elements.

    Args:
        transform: f.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.parameters_per_row = transform.parameters_per_row
        self.reads_context = transform.reads_context

    def prepare(self, context: Tensor) -> Tensor:
        """What f prepares."""
        return self.transform.prepare(context)

    def start(self, raw: Tensor) -> None:
        """As f starts."""
        self.transform.start(raw)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        before, log_det = self.transform.inverse(value, context)
        return before, -log_det

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        after, log_det = self.transform(value, context)
        return after, -log_det


class MaskedAutoregressive(NetworkTransform):
    r"""One step, :math:`x_i = u_i\, e^{\alpha_i} + \mu_i`, both functions of :math:`x_{<i}`.

    In the direction of a density, :math:`u_i = (x_i - \mu_i)\, e^{-\alpha_i}`, all elements cost
    one pass of the network; a draw costs one for each. :math:`\log|\det| = \sum_i \alpha_i`.
    """

    # |alpha| stays below: a step stretches or shrinks twentyfold at most, and can be inverted
    limit = 3.0

    def __init__(
        self, shape: Shape, context: int, hidden: Sequence[int], *, reverse: bool = False
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape_of(shape, type(self).__name__))
        self.network = autoregressive_network(shape, context, hidden, 2, reverse=reverse)

    def _parts(self, value: Tensor, context: Tensor, weights: Any = None) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(value, context, weights)
        return shift, self.limit * torch.tanh(raw / self.limit)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        after = torch.zeros_like(value)
        log_scale = after
        weights = self.network.masked()
        for _ in range(value.shape[value.dim() - self.event_dims :].numel()):
            shift, log_scale = self._parts(
                after, context, weights
            )  # each pass settles one more element
            after = shift + value * log_scale.exp()
        return after, self._sum(log_scale)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parts(value, context)
        return (value - shift) * (-log_scale).exp(), self._sum(log_scale)


class MaskedAutoregressiveFlow(Flow):
    r"""A density by autoregressive Gaussians: a prior or a likelihood whose score is one pass.

    .. math:: p(x_i | x_{<i}, h) = N(x_i;\, \mu_i(x_{<i}, h),\, e^{2 \alpha_i(x_{<i}, h)})

    stacked: the noise that a step explains its value with is the next one's value. It is the
    inverse of an inverse autoregressive flow: the density of a value costs one pass of each step,
    a draw as many as there are elements. As a posterior, which must draw, take
    :class:`~deeplvm.conditionals.flows.autoregressive.InverseAutoregressiveFlow`.

    The order of the elements is reversed from step to step. A vector has masked multilayer
    perceptrons (MADE), a map ``(channels, height, width)`` masked convolutions.

    Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
    https://arxiv.org/abs/1705.07057

    Examples:
        >>> prior = MaskedAutoregressiveFlow(3, transforms=2)
        >>> prior().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 5,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        sizes = event_shape_of(shape, type(self).__name__)
        width, total = autoregressive_context(sizes, network, context)
        steps = self._steps(
            transforms, lambda t: MaskedAutoregressive(sizes, width, hidden, reverse=t % 2 == 1)
        )
        super().__init__(sizes, network, steps, context=total, **base)
