"""The logistic function, which maps all reals onto an interval."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.flows.flow import Transform
from deeplvm.conditionals.heads import Shape, event_shape_of


class Logit(Transform):
    r"""From logits to values that are bounded, such as pixels in [0, 256].

    .. math:: x = a + (b - a)\, \frac{\sigma(y) - \alpha}{1 - 2 \alpha}, \qquad
              \log|\det| = \sum_i \log \frac{b - a}{1 - 2 \alpha}
              + \log \sigma(y_i) + \log \sigma(-y_i)

    As the ``units`` of a flow it is what pixels go through first, so that the flow need not learn
    where they end; the density stays one of the pixels themselves. A draw can lie
    :math:`\alpha (b - a) / (1 - 2 \alpha)` outside.

    Args:
        shape: the event shape.
        low: a.
        high: b.
        alpha: how far from the ends of the unit interval a and b are, above 0 and below 1/2, so
            that a and b have a finite logit.

    Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803,
    section 4.1, with the symmetric :math:`\alpha` of Masked Autoregressive Flow for Density
    Estimation (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057

    Raises:
        ValueError: the interval is empty, or alpha is outside.

    Examples:
        >>> pixels = Logit(2, 0.0, 256.0, alpha=0.05)
        >>> y, _ = pixels.inverse(torch.tensor([0.0, 128.0]), torch.zeros(0))
        >>> print([f"{each:.3f}" for each in y])
        ['-2.944', '0.000']
    """

    def __init__(self, shape: Shape, low: float, high: float, *, alpha: float = 0.05) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, type(self).__name__)
        if not (low < high and 0.0 < alpha < 0.5):
            raise ValueError(
                f"Logit expects low < high and alpha between 0 and 1/2, found low={low:g}, "
                f"high={high:g}, alpha={alpha:g}."
            )
        self.low, self.high, self.alpha = low, high, alpha
        self.width = (high - low) / (1 - 2 * alpha)  # of the whole unit interval

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.low + self.width * (torch.sigmoid(value) - self.alpha),
            self._log_det(value),
        )

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        unit = self.alpha + (value - self.low) / self.width
        eps = torch.finfo(unit.dtype).eps
        inside = unit.clamp(eps, 1 - eps)
        before = inside.log() - torch.log1p(-inside)
        # no draw lies outside: its density there is 0
        return before, self._log_det(before).where(self._all(inside == unit), math.inf)

    def _log_det(self, logit: Tensor) -> Tensor:
        each = math.log(self.width) + logsigmoid(logit) + logsigmoid(-logit)
        return each.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else each

    def _all(self, true: Tensor) -> Tensor:
        return true.flatten(-len(self.event_shape)).all(-1) if self.event_shape else true
