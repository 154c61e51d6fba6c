"""Real values between 0 and 1."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from deeplvm import distributions
from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape, positive


class ContinuousBernoulli(Elementwise):
    r"""Independent grey values in [0, 1] with density :math:`\propto e^{\eta x}`.

    The normalised form of the "Bernoulli" likelihood on grey pixels.

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem &
    Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Examples:
        >>> ContinuousBernoulli(2)().mean.tolist()
        [0.5, 0.5]
    """

    def __init__(self, shape: Shape, network: Network = None) -> None:
        super().__init__(shape, network)

    def distribution(self, logits: Tensor) -> Distribution:
        return self.independent(distributions.ContinuousBernoulli(logits))


class Beta(Elementwise):
    r"""Independent values in (0, 1), :math:`p(x) \propto x^{a - 1} (1 - x)^{b - 1}`.

    For values strictly between 0 and 1: at 0 and 1 the density is zero or infinite. Data that
    reach them want :class:`ContinuousBernoulli`.

    Args:
        minimum_concentration: the lower bound of a and b; below it draws round to 0 and 1.

    Examples:
        >>> Beta(2)().mean.tolist()
        [0.5, 0.5]
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, minimum_concentration: float = 0.1
    ) -> None:
        super().__init__(shape, network, 2)
        self.minimum_concentration = minimum_concentration

    def distribution(self, *both: Tensor) -> Distribution:
        up, down = [positive(raw, self.minimum_concentration) for raw in both]
        return self.independent(distributions.Beta(up, down))
