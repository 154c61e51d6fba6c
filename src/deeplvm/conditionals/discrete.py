"""Binary, categorical and ordered values, and pixels of a given number of levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent

from deeplvm import distributions
from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import (
    Head,
    Network,
    Shape,
    at_least,
    event_shape_of,
    positive,
    raw_of,
)
from deeplvm.distributions.discrete import scaled_level


class Bernoulli(Elementwise):
    r"""Independent binary elements, :math:`\prod_i p_i^{x_i} (1 - p_i)^{1 - x_i}`.

    For values 0 and 1 only: grey values between them have no normalised density here
    (:class:`ContinuousBernoulli` is theirs).

    Args:
        mean: the data's mean, broadcastable to ``shape``: the output starts there (clamped to
            0.01 to 0.99), as in the IWAE paper.

    Examples:
        >>> from deeplvm.networks import MLP
        >>> likelihood = Bernoulli(784, MLP(20, 500))
        >>> likelihood(torch.zeros(5, 100, 20)).log_prob(torch.zeros(100, 784)).shape
        torch.Size([5, 100])
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, mean: Tensor | float | None = None
    ) -> None:
        super().__init__(shape, network)
        if mean is not None:
            self.head.start_at(torch.as_tensor(mean).clamp(0.01, 0.99).logit())

    def distribution(self, logits: Tensor) -> Distribution:
        return self.independent(distributions.Bernoulli(logits=logits, validate_args=False))


class Categorical(nn.Module):
    r"""Independent categories :math:`p(x = k) = \mathrm{softmax}(\eta)_k`, values 0 .. classes-1.

    Args:
        classes: the number of categories.
        network: maps the parents to features; ``None`` for free logits, uniform at first.
        shape: the event shape; ``()`` for one label.
        probabilities: where it starts, broadcastable to ``(*shape, classes)``, positive; uniform
            if left out.
        features: how many learned numbers other networks see of a category, for vocabularies: a
            row of a table is looked up, and no one-hot vector made; ``None`` for one-hot vectors.
        ordered: whether they are levels, as of a pixel: these have a mean, and other networks see
            them scaled to [-1, 1].

    Other networks see the value one-hot or by its row of the table, a missing one (NaN) as zeros.

    Examples:
        >>> label = Categorical(10)
        >>> label().log_prob(torch.tensor(3))
        tensor(-2.3026, grad_fn=<SqueezeBackward1>)
        >>> label.embed(torch.tensor([2.0, float("nan")]))[:, :4]
        tensor([[0., 0., 1., 0.],
                [0., 0., 0., 0.]])
        >>> Categorical(10_000, shape=25, features=64).embed(torch.zeros(32, 25)).shape
        torch.Size([32, 25, 64])
    """

    levels: Tensor

    def __init__(
        self,
        classes: int,
        network: Network = None,
        shape: Shape = (),
        *,
        probabilities: Tensor | None = None,
        features: int | None = None,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Categorical")
        self.ordered = ordered
        self.classes = at_least(classes, 1, "Categorical", "classes")
        self.head = Head(network, self.event_shape, classes, "Categorical")
        if probabilities is not None:
            each = probabilities.log().expand(*self.event_shape, classes).movedim(-1, 0)
            for index, raw in enumerate(each):
                self.head.start_at(raw, index)
        # floating, not saved: it carries the dtype that the module was moved to
        self.register_buffer("levels", torch.arange(float(classes)), persistent=False)
        self.table: nn.Embedding | None = None
        if features is not None:
            self.table = nn.Embedding(classes, at_least(features, 1, "Categorical", "features"))

    def forward(self, *parents: Tensor) -> Independent:
        logits = self.head(*parents).movedim(-1 - len(self.event_shape), -1)
        if self.ordered:
            levels = distributions.LevelCategorical(logits)
            return Independent(levels, len(self.event_shape), validate_args=False)
        elements = torch.distributions.Categorical(logits=logits, validate_args=False)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """One-hot vectors or rows of the table, ``(*particles, batch, *event, classes)``.

        Zeros for what is missing. The last axis has ``features`` numbers where there is a table;
        there is none of ordered levels, which are scaled to [-1, 1].
        """
        if self.ordered:
            return scaled_level(value.to(self.levels.dtype), max(self.classes, 2))
        if self.table is None:
            return one_hot(value, self.levels)
        if not value.is_floating_point():
            return self.table(value.long())
        known = ~torch.isnan(value)
        return self.table(torch.where(known, value, 0).long()) * known.unsqueeze(-1)


class Classes(nn.Module):
    """Vectors whose last axis is the categories, by logits from a head; a family is a subclass.

    Args:
        classes: the number of categories, the last axis of a value.
        network: maps the parents to features; ``None`` for free logits, uniform at first.
        shape: the shape of the categories; ``()`` for one, whose value has shape ``(classes,)``.
        least: the fewest categories there can be.
    """

    # of logits, shape ``(*particles, batch, *shape, classes)``: a Distribution of vectors
    distribution: Callable[..., Any]

    def __init__(self, classes: int, network: Network, shape: Shape, least: int = 1) -> None:
        super().__init__()
        owner = type(self).__name__
        self._shape = event_shape_of(shape, owner)
        self.classes = at_least(classes, least, owner, "classes")
        self.event_shape = Size((*self._shape, classes))
        self.head = Head(network, self._shape, classes, owner)

    @property
    def element(self) -> Tensor:
        """The category that each number of a value belongs to, of the event's shape."""
        categories = torch.arange(self._shape.numel()).reshape(*self._shape, 1)
        return categories.expand(self.event_shape)

    def forward(self, *parents: Tensor) -> Distribution:
        one = self.distribution(self.head(*parents).movedim(-1 - len(self._shape), -1))
        return Independent(one, len(self._shape), validate_args=False) if self._shape else one


class OneHot(Classes):
    r"""One category as a vector of a single 1, :math:`\log p(x) = \sum_k x_k \log p_k`.

    The values of :class:`Categorical` in the form that relaxations and linear maps want.

    Arguments are those of :class:`Classes`.

    Examples:
        >>> OneHot(4, shape=3).event_shape
        torch.Size([3, 4])
    """

    one_hot = True  # the last axis of a value is one category

    def __init__(self, classes: int, network: Network = None, shape: Shape = ()) -> None:
        super().__init__(classes, network, shape)

    def distribution(self, logits: Tensor) -> Distribution:
        return distributions.OneHotCategorical(logits)


class Ordinal(nn.Module):
    r"""Ordered levels 0 .. n-1 by cumulative logits, :math:`P(x \le k) = \sigma(t_k - f)`.

    The network gives one location f an element; the thresholds :math:`t_0 < t_1 < \dots` are
    learned, one row an element, and start where the levels are equally probable for f = 0.

    Args:
        levels: the number n of levels, at least 2.
        network: maps the parents to features; ``None`` for a free f, 0 at first.
        shape: the event shape; ``()`` for one value.
        minimum_gap: the smallest distance of two thresholds, so that no level is impossible.

    Other networks see the value one-hot, a missing one (NaN) as zeros.

    Regression Models for Ordinal Data (McCullagh, 1980),
    https://doi.org/10.1111/j.2517-6161.1980.tb01109.x

    Examples:
        >>> Ordinal(4)().mean  # 0, 1, 2, 3 equally probable
        tensor(1.5000, grad_fn=<SumBackward1>)
    """

    levels: Tensor

    def __init__(
        self, levels: int, network: Network = None, shape: Shape = (), *, minimum_gap: float = 1e-3
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Ordinal")
        self.minimum_gap = minimum_gap
        at_least(levels, 2, "Ordinal", "levels")
        self.head = Head(network, self.event_shape, 1, "Ordinal")
        even = (torch.arange(1.0, levels) / levels).logit().expand(*self.event_shape, levels - 1)
        self.first = nn.Parameter(even[..., 0].clone())
        self.gaps = nn.Parameter(raw_of(even.diff(dim=-1) - minimum_gap))
        self.register_buffer("levels", torch.arange(float(levels)), persistent=False)

    def thresholds(self) -> Tensor:
        """The thresholds, rising, shape ``(*event, levels - 1)``."""
        steps = positive(self.gaps, self.minimum_gap)
        return torch.cat([self.first.unsqueeze(-1), steps], -1).cumsum(-1)

    def forward(self, *parents: Tensor) -> Independent:
        (location,) = self.head.each(*parents)
        logits = distributions.cumulative_logits(location, self.thresholds())
        elements = distributions.Ordinal(logits=logits, validate_args=False)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """One-hot vectors, shape ``(*particles, batch, *event, levels)``; missing is zeros."""
        return one_hot(value, self.levels)


def one_hot(value: Tensor, levels: Tensor) -> Tensor:
    """Whether each value is each level, in the dtype of ``levels``; NaN is no level."""
    return (value.unsqueeze(-1) == levels).to(levels.dtype)


def _least_scale(levels: int) -> float:
    """Of a logistic in units of [-1, 1]: an eighth of a level, of few levels 1e-3."""
    return 1e-3 if levels <= 256 else 0.255 / (levels - 1)


class DiscretizedLogistic(Elementwise):
    r"""Independent levels 0 .. n-1 of a rounded logistic variable; a probability of each level.

    The network speaks the levels scaled to [-1, 1], and so do other networks that see the value.
    The lowest level takes everything below it and the highest everything above.

    Args:
        levels: n; values are the integers 0 .. n-1 in any dtype.
        scale: where the scale comes from: ``"network"``, ``"dimension"``, ``"global"`` or the
            number itself, in units of [-1, 1].
        minimum_scale: the lower bound of a learned scale; by default 1e-3, an eighth of an 8-bit
            level, and an eighth of a level where there are more.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    Examples:
        >>> import torch
        >>> pixels = DiscretizedLogistic(3)
        >>> pixels.embed(torch.tensor([0, 51, 255]))
        tensor([-1.0000, -0.6000,  1.0000])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        levels: int = 256,
        scale: str | float = "network",
        minimum_scale: float | None = None,
    ) -> None:
        at_least(levels, 2, type(self).__name__, "levels")
        least = _least_scale(levels) if minimum_scale is None else minimum_scale
        # a quarter of the half range at first: every level is then possible, none improbable
        super().__init__(shape, network, scale=(scale, least, 0.25))
        self.levels = levels

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self.independent(distributions.DiscretizedLogistic(loc, scale, self.levels))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, scaled to [-1, 1], same shape."""
        return scaled_level(value.to(self.head.dtype), self.levels)


class DiscretizedLogisticMixture(nn.Module):
    r"""Levels 0 .. n-1 of a mixture of rounded logistic variables, for each element or pixel.

    .. math:: p(x) = \prod_i \sum_k w_{ik}\, p(x_i | \mu_{ik}, s_{ik})

    Coupled, a component is of all channels of a pixel, and the mean of each channel is linear in
    those before it (PixelCNN++); see
    :class:`~deeplvm.distributions.pixels.CoupledLogisticMixture`. Its coefficients are in (-1, 1).

    Args:
        shape: the event shape; coupled, its first axis is the channels.
        network: maps the parents to features; ``None`` for free parameters.
        components: how many logistics.
        levels: n; values are the integers 0 .. n-1 in any dtype.
        coupled: whether channels of a pixel follow from each other; of one channel the same.
        minimum_scale: the lower bound of a scale; see :class:`DiscretizedLogistic`.

    Other networks see the levels scaled to [-1, 1].

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Examples:
        >>> from deeplvm.networks import MLP
        >>> colours = DiscretizedLogisticMixture((3, 8, 8), MLP(2, 16), coupled=True)
        >>> colours(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        components: int = 5,
        levels: int = 256,
        coupled: bool = False,
        minimum_scale: float | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.event_shape = event_shape_of(shape, owner)
        self.components = at_least(components, 1, owner, "components")
        self.levels = at_least(levels, 2, owner, "levels")
        if coupled and not self.event_shape:
            raise ValueError(f"{owner}, coupled, expects a shape whose first axis is channels.")
        self.coupled = coupled and self.event_shape[0] > 1
        channels = self.event_shape[0] if self.coupled else 1
        self.minimum_scale = _least_scale(levels) if minimum_scale is None else minimum_scale
        each = (1, channels, channels, channels * (channels - 1) // 2)
        self.sizes = [components * size for size in each]
        pixels = self.event_shape[1:] if self.coupled else self.event_shape
        self.head = Head(network, pixels, sum(self.sizes), owner)
        # apart from each other: components that start alike would stay alike
        middles = (torch.arange(components) + 0.5) * (2 / components) - 1
        for index, middle in enumerate(middles.repeat_interleave(channels).tolist()):
            self.head.start_at(middle, components + index)

    @property
    def element(self) -> Tensor:
        """The element that each number belongs to, of the event's shape: coupled, its pixel."""
        elements = self.head.event_shape
        return torch.arange(elements.numel()).reshape(elements).expand(self.event_shape)

    def forward(self, *parents: Tensor) -> Distribution:
        raw = self.head(*parents)
        dims = len(self.head.event_shape)
        logits, loc, scale, coefficients = raw.split(self.sizes, -1 - dims)
        scale = positive(scale, self.minimum_scale, 0.25)
        if not self.coupled:
            logits, loc, scale = [part.movedim(-1 - dims, -1) for part in (logits, loc, scale)]
            elements = distributions.DiscretizedLogisticMixture(logits, loc, scale, self.levels)
            return Independent(elements, dims, validate_args=False)
        loc, scale, pairs = [
            part.unflatten(-1 - dims, (self.components, -1))
            for part in (loc, scale, coefficients.tanh())
        ]
        return distributions.CoupledLogisticMixture(logits, loc, scale, pairs, self.levels, dims)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, scaled to [-1, 1], same shape."""
        return scaled_level(value.to(self.head.dtype), self.levels)
