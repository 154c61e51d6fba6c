r"""Reparameterised draws whose noise is spread over the particles: less variance in their mean.

Each particle alone has the distribution that it should, so the ELBO's gradient stays unbiased and
every weight :math:`p / q` has the mean :math:`p(x)`; together the particles are no longer
independent. :func:`~deeplvm.iwae` of them is a bound as well, another one than of independent
particles. Evaluation, whose errors are those of independent draws, takes plain ones.

Monte Carlo Methods in Financial Engineering (Glasserman, 2003), chapters 4 and 5,
https://doi.org/10.1007/978-0-387-21617-1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution
from torch.quasirandom import SobolEngine

from deeplvm.core.draws import Drawn, Reparameterised
from deeplvm.core.trace import base_of, expand_to, sum_right
from deeplvm.distributions.multivariate_normal import MultivariateNormal

_BITS = 30  # of a Sobol point, as torch makes them


class SpreadNoise:
    """What the draws here share: uniform numbers, and a latent's value of them.

    A latent is suited if each of its elements has an inverse distribution function (Normal,
    Laplace, Logistic, Uniform, Exponential, …, and monotone transforms of these), or is a normal
    vector with a full covariance.

    Raises:
        ValueError: If a latent is not, or there are too few particles.
    """

    measured = Reparameterised()

    def uniform(self, name: str, like: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers, shape and type of ``like``, ``(*batch_shape, *elements)``."""
        raise NotImplementedError

    def suits(self, distribution: Distribution) -> bool:
        """Whether its value can be made of uniform numbers."""
        return _has_inverse(distribution)

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with spread noise."""
        if not _has_inverse(distribution):
            kind = type(base_of(distribution)).__name__
            raise ValueError(
                f"{name!r} is drawn from a {kind}, whose values are not made of one normal or "
                f"uniform number an element, so its noise cannot be spread by "
                f"{type(self).__name__}(); use Reparameterised()."
            )
        if len(batch_shape) < 2 or batch_shape[-2] < 2:
            raise ValueError(
                f"{type(self).__name__}() spreads the noise of {name!r} over particles, and there "
                f"is one; use particles=2 or more."
            )
        expanded = expand_to(distribution, batch_shape, batch_dims)
        like, value_of = _of_uniform(expanded)
        numbers = self.uniform(name, like.detach(), batch_shape)
        least = torch.finfo(numbers.dtype).eps / 2
        value = value_of(numbers.clamp(least, 1 - least))
        log_prob = sum_right(expanded.log_prob(value), len(batch_shape))
        return Drawn(value, log_prob, batch_shape, 0.0)


@dataclass(frozen=True)
class Antithetic(SpreadNoise):
    r"""Particles in pairs, with noise u and 1 − u: :math:`\mu + \sigma \epsilon` and
    :math:`\mu - \sigma \epsilon`.

    Exact where the integrand is odd about the mean (a linear one); where it is even, a pair is
    worth one draw.

    A New Monte Carlo Technique: Antithetic Variates (Hammersley & Morton, 1956),
    https://doi.org/10.1017/S0305004100031455

    Raises:
        ValueError: If the number of particles is odd.

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> draw = Antithetic()("z", Gaussian(3)(), (4, 2), 0)  # four particles, two rows
        >>> bool((draw.value.mean(0) - Gaussian(3)().mean).abs().max() < 1e-5)
        True
    """  # noqa: D205 - one formula

    def uniform(self, name: str, like: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
        """A half, and what it lacks of 1."""
        axis, particles = len(batch_shape) - 2, batch_shape[-2]
        if particles % 2:
            raise ValueError(
                f"Antithetic() draws {name!r} in pairs, and there are {particles} particles; use "
                f"particles={particles + 1}."
            )
        half = torch.rand_like(like).narrow(axis, 0, particles // 2)
        return torch.cat([half, 1 - half], axis)


@dataclass(frozen=True)
class LatinHypercube(SpreadNoise):
    r"""One particle in each of K equally probable intervals, of every element: a Latin hypercube.

    :math:`u_k = (\pi(k) + v_k) / K` with a random permutation :math:`\pi` for each element and
    uniform :math:`v`. The variance of a sum of functions of single elements falls with
    :math:`K^{-3}`, that of what remains as with independent draws.

    A Comparison of Three Methods for Selecting Values of Input Variables in the Analysis of Output
    from a Computer Code (McKay, Beckman & Conover, 1979), https://doi.org/10.2307/1268522

    Examples:
        >>> from deeplvm.conditionals import StandardNormal
        >>> draw = LatinHypercube()("z", StandardNormal(3)(), (100, 2), 0)
        >>> bool((draw.value.mean(0).abs() < 0.05).all())  # independent draws: 0.1
        True
    """

    def uniform(self, name: str, like: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
        """One number in each interval, in an order of each element's own."""
        axis = len(batch_shape) - 2
        order = torch.rand_like(like).argsort(axis)
        return (order + torch.rand_like(like)) / batch_shape[-2]


@dataclass(frozen=True, eq=False)
class QuasiRandom(SpreadNoise):
    r"""The points of a scrambled Sobol sequence, shifted at random for each row.

    All elements of a draw are filled evenly together. A random digital shift (exclusive or of the
    binary digits) makes every point uniform; the particles of each further draw, another latent
    or step, are put into a random order, as their points are the same (Latin supercube sampling,
    Owen, 1998, https://doi.org/10.1145/272991.273010). Best with a power of two particles.

    Quasi-Monte Carlo Variational Inference (Buchholz, Wenzel & Mandt, 2018),
    https://arxiv.org/abs/1807.01604; On the Distribution of Points in a Cube and the Approximate
    Evaluation of Integrals (Sobol, 1967), https://doi.org/10.1016/0041-5553(67)90144-9

    Args:
        seed: Of the scrambling; the shifts follow torch's own stream.

    Raises:
        ValueError: If a latent has more than 21,201 elements.

    Examples:
        >>> from deeplvm.conditionals import StandardNormal
        >>> draw = QuasiRandom(seed=0)("z", StandardNormal(3)(), (128, 2), 0)
        >>> bool((draw.value.mean(0).abs() < 0.05).all())
        True
    """

    seed: int = 0
    _points: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    traceable = False

    def uniform(self, name: str, like: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
        """The same points for every row, each row's in an order and with a shift of its own."""
        particles, elements = batch_shape[-2], like.shape[len(batch_shape) :].numel()
        if elements > SobolEngine.MAXDIM:
            raise ValueError(
                f"{name!r} has {elements:,} elements, and Sobol points have at most "
                f"{SobolEngine.MAXDIM:,}; use LatinHypercube()."
            )
        key = (particles, elements)
        if key not in self._points:
            engine = SobolEngine(elements, scramble=True, seed=self.seed)
            drawn = engine.draw(particles, dtype=torch.float64)
            self._points[key] = (drawn * 2**_BITS).long()
        noise = torch.rand((*batch_shape, elements), dtype=torch.float64, device=like.device)
        shift = (noise.narrow(-3, 0, 1) * 2**_BITS).long()
        order = torch.rand(batch_shape, device=like.device).argsort(-2)  # (*lead, K, B)
        points = self._points[key].to(like.device)[order]  # (*lead, K, B, elements)
        return ((points ^ shift) + 0.5).div(2**_BITS).reshape(like.shape).to(like.dtype)


def _has_inverse(distribution: Distribution) -> bool:
    if isinstance(distribution, Independent):
        return _has_inverse(distribution.base_dist)
    if isinstance(distribution, TransformedDistribution):
        single = [t.domain.event_dim == 0 and t.bijective for t in distribution.transforms]
        return all(single) and _has_inverse(distribution.base_dist)
    if isinstance(distribution, MultivariateNormal | torch.distributions.MultivariateNormal):
        return True
    own = type(distribution).icdf is not Distribution.icdf and not distribution.event_shape
    return distribution.has_rsample and own


def _of_uniform(distribution: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A tensor of the shape of the uniform numbers of a value, and the value as their function."""
    if isinstance(distribution, Independent):
        return _of_uniform(distribution.base_dist)
    if isinstance(distribution, Normal):
        location, scale = distribution.loc, distribution.scale
        return location, lambda uniform: location + scale * torch.special.ndtri(uniform)
    if isinstance(distribution, MultivariateNormal | torch.distributions.MultivariateNormal):
        ours = isinstance(distribution, MultivariateNormal)
        root = distribution.root() if ours else distribution.scale_tril
        shape = (*distribution.batch_shape, root.shape[-1])

        def value(uniform: Tensor) -> Tensor:
            offset = (root @ torch.special.ndtri(uniform).unsqueeze(-1)).squeeze(-1)
            return distribution.loc + offset.reshape(distribution.loc.shape)

        return distribution.loc.new_empty(()).expand(shape), value
    like = distribution
    while isinstance(like, TransformedDistribution):
        like = like.base_dist
    one = next(v for v in vars(like).values() if isinstance(v, Tensor) and v.is_floating_point())
    return one.new_empty(()).expand(distribution.batch_shape), distribution.icdf
