"""Linear Gaussian states of a sequence, and their exact posterior given Gaussian potentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from deeplvm.conditionals.conjugate import potentials_of, whitened
from deeplvm.conditionals.heads import MeanAndStd, at_least, optional_units, standardised
from deeplvm.conditionals.multivariate import FullCovarianceGaussian
from deeplvm.conditionals.products import View
from deeplvm.core.steps import Masked
from deeplvm.distributions.chains import GaussianChain, LinearNormal, conditioned_on
from deeplvm.networks.mlp import MLP

_MEMORY = 0.9  # of a state at first; its stationary variance is one


class LinearGaussian(nn.Module):
    r"""A step of a linear dynamical system, :math:`z_t \sim N(A z_{t-1} + B u_t + b, Q)`.

    In a :class:`~deeplvm.Recurrent`, as ``"z | z[-1]"``; where ``start={"z": state.start}`` says
    that there is no step before, it is :math:`z_1 \sim N(m, P)`. All is learned.

    Where q does not draw z, and what reads it is linear Gaussian too, ``draw={"z":
    Enumerated()}`` integrates it out exactly (:func:`~deeplvm.sums.sum_out`); where not,
    :class:`KalmanSmoother` is a q that knows its dynamics.

    Args:
        features: d, the dimensions of z.
        inputs: the width of u, parents after z[-1]; none by default.
        units: mean and standard deviation of u, which is standardised by them.
        minimum_scale: the lower bound of the standard deviation of each step.

    Shape:
        Parents ``(*particles, batch, d)`` and ``(*particles, batch, inputs)`` give that batch
        shape.

    A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960),
    https://doi.org/10.1115/1.3662552

    Examples:
        >>> from deeplvm import Recurrent
        >>> state = LinearGaussian(2)
        >>> p = Recurrent({"z | z[-1]": state}, start={"z": state.start}, repeats=6)
        >>> tuple(p({}, batch_shape=(5,))["z"].value.shape)
        (5, 6, 2)
    """

    affine = True

    def __init__(
        self,
        features: int,
        inputs: int = 0,
        *,
        units: MeanAndStd | None = None,
        minimum_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        owner = "LinearGaussian"
        at_least(features, 1, owner, "features")
        shape = Size((at_least(inputs, 0, owner, "inputs"),))
        self.units = optional_units(units, shape, owner)
        self.event_shape = Size((features,))
        self.first = FullCovarianceGaussian(features, minimum_scale=minimum_scale)
        self.step = FullCovarianceGaussian(
            features, MLP(features + inputs), covariance="global", minimum_scale=minimum_scale
        )
        unit = torch.eye(features)
        with torch.no_grad():
            layer: Any = self.step.head.layer
            layer.weight[:, :features] = _MEMORY * unit
            layer.bias.zero_()
            noise: Any = self.step.free
            noise.copy_(self.step.raw((1 - _MEMORY**2) ** 0.5 * unit))

    @property
    def start(self) -> Tensor:
        """What stands where there is no step before: not a number, shape ``(d,)``."""
        return torch.full(self.event_shape, torch.nan)

    def forward(self, before: Tensor, *inputs: Tensor) -> LinearNormal:
        """The normal of a step given the one before it, and the inputs of the step."""
        first = before.isnan().any(-1)
        none, square = first.unsqueeze(-1), first[..., None, None]
        before = torch.where(none, 0.0, before)
        read = [standardised(self.units, each) for each in inputs]
        start, step = self.first(), self.step(torch.zeros_like(before), *read)
        layer: Any = self.step.head.layer
        gain = torch.where(square, 0.0, layer.weight[:, : self.event_shape[0]])
        offset = torch.where(none, start.loc, step.loc)
        return LinearNormal(
            before, gain, offset, torch.where(square, start.root(), step.root())
        )  # fmt: skip

    def over(self, count: int, *inputs: Tensor) -> GaussianChain:
        """The chain of so many steps, given the inputs of each, ``(*batch, count, inputs)``."""
        like: Tensor = self.step.head.layer.bias  # type: ignore[assignment]
        before = torch.zeros(count, *self.event_shape, dtype=like.dtype, device=like.device)
        before = torch.cat([before[:1] * torch.nan, before[1:]])
        normal = self(before, *inputs)
        return GaussianChain(normal.gain, normal.offset, normal.root())


class KalmanSmoother(nn.Module):
    r"""The exact posterior of a linear Gaussian state given a Gaussian potential a step.

    .. math:: q(z | x) \propto p(z) \prod_t \psi(z_t; x), \qquad
              \psi(z_t; x) = N(\mu_t(x); z_t, \Sigma_t(x))

    A network says of each step where z is and how sure it is; the dynamics of p are not guessed
    but read, and what is missing or said weakly follows from its neighbours by messages in both
    directions, at a cost linear in the steps. It is the posterior itself where the potentials are
    proportional to :math:`p(x_t | z_t)`. Divergences from p are in closed form.

    Args:
        prior: the conditional of p, the same module.
        potential: a conditional of the parents that returns normals of z, one a step.
        length: the name of the length of a row, which is then the last parent.
        inputs: how many parents go to the prior, as its inputs; they are the first ones.
        views: how each parent of the potential is shown to it: the ``embed`` of the conditional
            that owns it, as for :class:`~deeplvm.conditionals.ProductOfExperts`.

    A step of which a parent is missing (all of it NaN) has no potential.

    Shape:
        Parents ``(*particles, batch, T, ...)`` give batch shape ``(*particles, batch, T)``.

    Composing Graphical Models with Neural Networks for Structured Representations and Fast
    Inference (Johnson et al., 2016), https://arxiv.org/abs/1603.06277

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> smoother = KalmanSmoother(LinearGaussian(2), Gaussian(2, MLP(3, 8)))
        >>> x = torch.zeros(5, 6, 3)
        >>> x[:, 2:4] = torch.nan
        >>> smoother(x).mean.shape
        torch.Size([5, 6, 2])
    """

    accepts_missing = True

    def __init__(
        self,
        prior: LinearGaussian,
        potential: nn.Module,
        *,
        length: str | None = None,
        inputs: int = 0,
        views: list[View | None] | None = None,
    ) -> None:
        super().__init__()
        shape = getattr(potential, "event_shape", prior.event_shape)
        if not isinstance(prior, LinearGaussian) or shape != prior.event_shape:
            raise ValueError(
                f"KalmanSmoother expects a LinearGaussian and potentials of its event shape, "
                f"found {type(prior).__name__} {tuple(getattr(prior, 'event_shape', ()))} and "
                f"{type(potential).__name__} {tuple(shape)}."
            )
        self.event_shape = prior.event_shape
        self.prior, self.potential = prior, potential
        self.length, self.inputs, self.views = length, inputs, views

    def repetitions(self, name: str) -> tuple[KalmanSmoother]:
        """It draws all steps of its name, so that p's step before is known to a closed form."""
        return (self,)

    def reaches(self, lag: int) -> bool:
        """Whether the step that lies so far away is known: of all of them the law is."""
        return True

    def forward(self, *parents: Tensor) -> Distribution:
        """The posterior, up to the length where there is one."""
        lengths = parents[-1] if self.length else None
        read = parents[self.inputs : -1 if self.length else None]
        normal, seen = potentials_of(self.potential, read, self.views)
        count = normal.batch_shape[-1]
        weight, value = whitened(normal)
        value = torch.where(seen.unsqueeze(-1), value, 0.0)
        weight = torch.where(seen[..., None, None], weight, 0.0)
        chain = self.prior.over(count, *parents[: self.inputs])
        if lengths is None:
            return conditioned_on(chain, weight, value)[0]
        steps = torch.arange(1, count + 1, device=value.device)
        path, _ = conditioned_on(chain, weight, value, steps == lengths.unsqueeze(-1))
        return Masked(path, steps <= lengths.unsqueeze(-1), str(self.length))
