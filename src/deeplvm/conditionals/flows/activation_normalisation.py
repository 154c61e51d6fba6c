"""Activation normalisation: a scale and a shift that begin with the statistics of the data."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.flows.flow import Flow, Transform
from deeplvm.conditionals.heads import Shape, event_shape_of
from deeplvm.networks.data_dependent_initialisation import starting


class ActivationNormalisation(Transform):
    r"""A learned scale and shift of every element, or of every channel of a map.

    .. math:: z' = \mu + e^{s}\, z, \qquad \log|\det| = \sum_i s_i

    They start as the identity. :func:`~deeplvm.training.fit` sets those that still are by the
    first rows of the data, once and before training (:func:`start_from` does so by hand), such
    that going from data to noise (``inverse``) every element has mean 0 and standard deviation 1
    there. From then on they are parameters as any other: a step of training is the same from the
    first to the last, compiled or not, on one process or many, and a checkpoint holds all there
    is.

    Args:
        shape: the event: a number of elements, or a map ``(channels, height, width)``.

    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039
    """

    # smaller standard deviations count as this: a constant element has no scale of its own
    least = 1e-3

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.event_shape: Size = event_shape_of(shape, type(self).__name__)
        each = (self.event_shape[0], *[1] * (len(self.event_shape) - 1))
        self.shift = nn.Parameter(torch.zeros(each))
        self.log_scale = nn.Parameter(torch.zeros(each))
        self.watching = False

    @property
    def started(self) -> bool:
        """Whether it is not the identity any more."""
        return bool(self.shift.any() or self.log_scale.any())

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.shift + self.log_scale.exp() * value, self._log_det()

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        if self.watching:
            self._watch(value)
        return (value - self.shift) * (-self.log_scale).exp(), self._log_det()

    def _log_det(self) -> Tensor:
        return self.event_shape[1:].numel() * self.log_scale.sum()

    def _watch(self, value: Tensor) -> None:
        """Take mean and standard deviation of the values."""
        dims = len(self.event_shape)
        others = [d for d in range(value.dim()) if d != value.dim() - dims]
        std, mean = torch.std_mean(value, others, correction=0)
        self.shift.copy_(mean.reshape(self.shift.shape))
        self.log_scale.copy_(std.clamp(min=self.least).log().reshape(self.shift.shape))


def start_from(flow: Flow, value: Tensor, *parents: Tensor) -> None:
    r"""Let the activation normalisations of a flow start from data, those that have not yet.

    The values go through the flow from data to noise, and each normalisation takes the mean and
    the standard deviation of what arrives there. To be called before training, with some hundred
    rows, the same on every process.

    Args:
        flow: a flow that can be inverted.
        value: rows of data, shape ``(batch, *event)``.
        parents: their parents, as the flow takes them.

    Raises:
        ValueError: the flow has no activation normalisation.

    Examples:
        >>> flow = Flow(2, transforms=[ActivationNormalisation(2)])
        >>> start_from(flow, torch.tensor([[10.0, -1.0], [14.0, 1.0]]))
        >>> flow.transforms[0].shift
        Parameter containing:
        tensor([12.,  0.], requires_grad=True)
    """
    if not any([isinstance(each, ActivationNormalisation) for each in flow.modules()]):
        raise ValueError(
            "The flow has no activation normalisation to start from data; add "
            "ActivationNormalisation(shape) to its transforms."
        )
    with starting(flow):
        flow(*parents).log_prob(value)
