"""Mixtures: of Gaussians by one network, and of any conditionals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

from deeplvm.conditionals.heads import (
    Head,
    MeanAndStd,
    Network,
    Shape,
    at_least,
    event_shape_of,
    in_units,
    optional_units,
    positive,
    shown,
    standardised,
)
from deeplvm.core.trace import expand_to
from deeplvm.distributions import mixture as distributions
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.gradients import Drawn


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal Gaussians, :math:`\sum_k w_k N(x; \mu_k, \mathrm{diag}(\sigma_k^2))`.

    The network gives weights, means and standard deviations of all components; without one they
    are free parameters (a mixture prior). A draw carries gradients to all of them by implicit
    reparameterisation (:class:`~deeplvm.distributions.mixture.NormalMixture`); with
    ``draw={"z": Stratified()}`` each component is drawn once instead.

    Args:
        shape: the event shape.
        network: maps the parents to features; a linear head is added.
        components: how many Gaussians.
        minimum_scale: the lower bound of a standard deviation, in standardised units.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Implicit Reparameterization Gradients (Figurnov et al., 2018),
    https://arxiv.org/abs/1805.08498

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = GaussianMixture(2, MLP(3, 8), components=4)
        >>> posterior(torch.zeros(5, 3)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        components: int = 2,
        minimum_scale: float = 1e-3,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__()
        owner = "GaussianMixture"
        self.event_shape = event_shape_of(shape, owner)
        self.components = at_least(components, 1, owner, "components")
        self.minimum_scale = minimum_scale
        elements = components * self.event_shape.numel()
        self.sizes = [components, elements, elements]
        self.head = Head(network, Size((sum(self.sizes),)), 1, owner)
        self.units = optional_units(units, self.event_shape, owner)
        # components that start alike would stay alike
        start = torch.zeros(sum(self.sizes))
        start[components : components + elements] = torch.randn(elements)
        self.head.start_at(start)

    def forward(self, *parents: Tensor) -> distributions.NormalMixture:
        (raw,) = self.head.each(*parents)
        logits, loc, scale = raw.split(self.sizes, -1)
        shape = (*raw.shape[:-1], self.components, *self.event_shape)
        loc, scale = loc.reshape(shape), positive(scale.reshape(shape), self.minimum_scale)
        loc, scale = in_units(self.units, loc, scale)
        return distributions.NormalMixture(logits, loc, scale, len(self.event_shape))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)


class MixtureDensity(nn.Module):
    r"""Independent elements, each a mixture of Gaussians of its own.

    .. math:: p(x) = \prod_i \sum_k w_{ik}\, N(x_i; \mu_{ik}, \sigma_{ik}^2)

    Elements of :class:`~deeplvm.conditionals.Autoregressive` that may have several modes. It has
    no reparameterised draw.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        components: how many Gaussians an element.
        minimum_scale: the lower bound of a standard deviation.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Mixture Density Networks (Bishop, 1994), https://publications.aston.ac.uk/id/eprint/373/

    Examples:
        >>> MixtureDensity(3, components=2)().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        components: int = 2,
        minimum_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        owner = "MixtureDensity"
        self.event_shape = event_shape_of(shape, owner)
        self.components = at_least(components, 1, owner, "components")
        self.minimum_scale = minimum_scale
        self.head = Head(network, self.event_shape, 3 * components, owner)
        # apart from each other: components that start alike would stay alike
        for index in range(components):
            self.head.start_at(2.0 * (index + 0.5) / components - 1.0, components + index)

    def forward(self, *parents: Tensor) -> Independent:
        raw = self.head(*parents)
        dims = len(self.event_shape)
        logits, loc, scale = raw.movedim(-1 - dims, -1).chunk(3, -1)
        each = Normal(loc, positive(scale, self.minimum_scale), validate_args=False)
        weights = Categorical(logits=logits, validate_args=False)
        elements = MixtureSameFamily(weights, each, validate_args=False)
        return Independent(elements, dims, validate_args=False)


class Mixture(nn.Module):
    r"""A mixture of conditionals of the same parents, :math:`\sum_k w_k(\cdot)\, p_k(x | \cdot)`.

    Only where all components are diagonal Gaussians has it a reparameterised draw, that of
    :class:`GaussianMixture`. As a latent of any others it is drawn with
    ``draw={"z": Stratified()}``, if each component has such a draw, or with a score-function
    estimator; as a prior or a likelihood, which are scored, nothing is needed.

    Args:
        components: conditionals of one event shape, each with its own network. Components that
            start with the same parameters stay the same.
        network: maps the parents to the weights' features; without one the weights are free
            parameters, the same for all rows.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape.

    Examples:
        >>> from deeplvm.conditionals import Laplace, StandardNormal
        >>> one = Mixture([StandardNormal(1), StandardNormal(1)])()
        >>> one.has_rsample, one.log_prob(torch.zeros(1)).item()  # - log(2 pi) / 2
        (True, -0.9189385175704956)
        >>> Mixture([StandardNormal(1), Laplace(1)])().has_rsample
        False
    """

    def __init__(self, components: Sequence[nn.Module], network: Network = None) -> None:
        super().__init__()
        at_least(len(components), 1, "Mixture", "a number of components")
        shapes = {tuple(getattr(each, "event_shape", ())) for each in components}
        if len(shapes) > 1:
            found = ", ".join([str(shape) for shape in sorted(shapes)])
            raise ValueError(f"Mixture expects components of one event shape, found {found}.")
        self.event_shape = Size(shapes.pop())
        self.components = nn.ModuleList(components)
        self.head = Head(network, Size((len(components),)), 1, "The weights of a mixture")

    def forward(self, *parents: Tensor) -> Distribution:
        (logits,) = self.head.each(*parents if self.head.network is not None else ())
        parts = [each(*parents) for each in self.components]
        normals = [each for each in parts if isinstance(each, DiagonalNormal)]
        if len(normals) < len(parts):
            return distributions.Mixture(logits, parts)
        dims, at = len(self.event_shape), -1 - len(self.event_shape)
        loc = torch.stack(torch.broadcast_tensors(*[each.loc for each in normals]), at)
        scale = torch.stack(torch.broadcast_tensors(*[each.scale for each in normals]), at)
        return distributions.NormalMixture(logits, loc, scale, dims)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: as the first component's owner would show it."""
        return shown(self.components[0], value)


@dataclass(frozen=True)
class Stratified:
    r"""Every component of a mixture drawn once, weighted by its probability.

    The draws become a new leading particle dimension whose log-measure is :math:`\log w_k(x)`:

    .. math:: L = \sum_k w_k\, E_{q_k}[\log p(x, z) - \log q(z | x)], \qquad
              q = \sum_k w_k\, q_k

    and the importance-weighted bound of the same particles is SIWAE. The weights get exact
    gradients, and components of any reparameterised family may be mixed.

    Automatic Differentiation Variational Inference with Mixtures (Morningstar et al., 2021),
    https://arxiv.org/abs/2003.01687

    Raises:
        ValueError: the distribution is not a mixture, or repeats inside a row.
    """

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Lay a draw of each component along a new leading dimension."""
        mixtures = (distributions.Mixture, distributions.NormalMixture)
        if not isinstance(distribution, mixtures) or len(distribution.batch_shape) > batch_dims:
            raise ValueError(
                f"{name!r} is drawn from a {type(distribution).__name__}; Stratified() is for a "
                f"Mixture or a GaussianMixture that does not repeat inside a row."
            )
        expanded = expand_to(distribution, batch_shape, batch_dims)
        value = expanded.stratified()  # type: ignore[attr-defined]
        shape = (len(value), *batch_shape)
        weight = distribution.log_weights.expand(*batch_shape, -1).movedim(-1, 0)
        return Drawn(value, expanded.log_prob(value), shape, weight)
