r"""Directions: the von Mises–Fisher and the uniform distribution on the unit sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl

# Wood's proposals are accepted with probability 0.65 or more: all fail once in 10^14 draws.
PROPOSALS = 31
_LARGE_ORDER = 60


def _debye(terms: int = 8) -> tuple[tuple[float, ...], ...]:
    r"""Coefficients of the polynomials :math:`u_k(p)`, the constant first (DLMF 10.41.9).

    :math:`u_{k+1} = \tfrac12 p^2 (1 - p^2) u_k' + \tfrac18 \int_0^p (1 - 5 t^2) u_k(t)\, dt`.
    """
    u = [Fraction(1)]
    found = [u]
    for _ in range(terms - 1):
        following = [Fraction(0)] * (len(u) + 3)
        for power, c in enumerate(u):
            following[power + 1] += c * Fraction(power, 2) + c * Fraction(1, 8 * (power + 1))
            following[power + 3] -= c * Fraction(power, 2) + c * Fraction(5, 8 * (power + 3))
        u = following
        found.append(u)
    return tuple([tuple([float(c) for c in each]) for each in found])


_DEBYE = _debye()
_NODES, _WEIGHTS = [each.tolist() for each in numpy.polynomial.legendre.leggauss(64)]


class _UnitSphere(constraints.Constraint):
    """Vectors of length one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = 1e3 * torch.finfo(value.dtype).eps
        return (value.square().sum(-1) - 1).abs() < tolerance


UNIT_SPHERE = _UnitSphere()


class VonMisesFisher(Distribution):
    r"""Density :math:`C_d(\kappa)\, e^{\kappa \mu^\top x}` of directions x in d dimensions.

    .. math:: C_d(\kappa) = \frac{\kappa^{d/2 - 1}}{(2 \pi)^{d/2} I_{d/2 - 1}(\kappa)}

    with respect to the area of the unit sphere. A draw is
    :math:`w \mu + \sqrt{1 - w^2}\, v`, with v uniform among the directions orthogonal to
    :math:`\mu` and :math:`w = \mu^\top x` drawn by Wood's rejection sampler, the first accepted
    of 31 proposals (none is, and the last stands, about once in :math:`10^{14}` draws). Its
    gradient by :math:`\kappa` is implicit,
    :math:`dw / d\kappa = -\partial_\kappa F(w) / f(w)`, by quadrature; it has no second one.

    Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
    https://arxiv.org/abs/1804.00891; the sampler is that of Simulation of the von Mises Fisher
    distribution (Wood, 1994), https://doi.org/10.1080/03610919408813161, the gradient of Implicit
    Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018),
    https://arxiv.org/abs/1805.08498

    Args:
        loc: the mean direction :math:`\mu` of length one, shape ``(*batch, d)``, d at least 2.
        concentration: :math:`\kappa \ge 0`, shape ``(*batch,)``.

    Raises:
        ValueError: there are less than two dimensions.

    Examples:
        >>> loc = torch.tensor([0.0, 0.0, 1.0])
        >>> directions = VonMisesFisher(loc, torch.tensor(10.0))
        >>> print(f"{directions.log_prob(loc):.4f}")  # log(kappa / (2 pi)) in three dimensions
        0.4647
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = True
    support = UNIT_SPHERE

    def __init__(self, loc: Tensor, concentration: Tensor) -> None:
        _at_least_two(loc.shape[-1])
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    @property
    def dimensions(self) -> int:
        """d, that of the space around the sphere."""
        return self.event_shape[0]

    @property
    def mean(self) -> Tensor:
        r""":math:`A(\kappa) \mu`, inside the sphere."""
        return self.mean_cosine.unsqueeze(-1) * self.loc

    mode = property(lambda self: self.loc)

    @property
    def mean_cosine(self) -> Tensor:
        r""":math:`A(\kappa) = E[\mu^\top x] = I_{d/2}(\kappa) / I_{d/2-1}(\kappa)`."""
        return self.concentration * _log_bessel(self.concentration, self.dimensions)[1]

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> VonMisesFisher:
        shape = Size(batch_shape)
        return VonMisesFisher(
            self.loc.expand(shape + self.event_shape), self.concentration.expand(shape)
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        concentration = self.concentration.expand(shape[:-1])
        gap = cosine_gap(concentration, self.dimensions)
        if torch.is_grad_enabled():
            still = concentration.detach()
            with torch.no_grad():
                slope = gap_slope(gap, still, self.mean_cosine, self.dimensions)
            gap = gap + slope * (concentration - still)
        loc = self.loc.expand(shape)
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        across = noise - (noise * loc).sum(-1, keepdim=True) * loc
        across = across / across.norm(dim=-1, keepdim=True)
        gap = gap.unsqueeze(-1)
        return (1 - gap) * loc + (gap * (2 - gap)).sqrt() * across

    def log_prob(self, value: Tensor) -> Tensor:
        # kappa (cos - 1), from the chord: the cosine has no digits left near the mean direction
        fall = -0.5 * self.concentration * (value - self.loc).square().sum(-1)
        return fall - self._scaled_log_area()

    def log_normalizer(self) -> Tensor:
        r""":math:`\log C_d(\kappa)`, shape ``(*batch,)``, nats."""
        return -self._scaled_log_area() - self.concentration

    def entropy(self) -> Tensor:
        return self._scaled_log_area() + self.concentration * (1 - self.mean_cosine)

    def _scaled_log_area(self) -> Tensor:
        log_bessel, _ = _log_bessel(self.concentration, self.dimensions)
        return log_bessel + 0.5 * self.dimensions * math.log(2 * math.pi)

    def __repr__(self) -> str:
        return f"VonMisesFisher({tuple(self.batch_shape)}, {tuple(self.event_shape)})"


class UniformSphere(Distribution):
    r"""Every direction in d dimensions alike, :math:`p(x) = \Gamma(d/2) / (2 \pi^{d/2})`.

    Args:
        dimensions: d, at least 2.
        batch_shape: how many of them.
        like: a tensor of the dtype and on the device of the draws.

    Examples:
        >>> print(f"{UniformSphere(3).log_prob(torch.tensor([0.0, 0.0, 1.0])):.4f}")  # -log(4 pi)
        -2.5310
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = True
    support = UNIT_SPHERE

    def __init__(
        self, dimensions: int, batch_shape: Sequence[int] = (), like: Tensor | None = None
    ) -> None:
        _at_least_two(dimensions)
        self.like = torch.zeros(()) if like is None else like
        super().__init__(Size(batch_shape), Size([dimensions]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.like.new_zeros(self._extended_shape())

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> UniformSphere:
        return UniformSphere(self.event_shape[0], batch_shape, self.like)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        noise = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        return noise / noise.norm(dim=-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -_log_area(self.event_shape[0]))

    def entropy(self) -> Tensor:
        return self.like.new_full(self.batch_shape, _log_area(self.event_shape[0]))

    def __repr__(self) -> str:
        return f"UniformSphere({tuple(self.batch_shape)}, {tuple(self.event_shape)})"


@register_kl(VonMisesFisher, UniformSphere)
def _kl_to_uniform(q: VonMisesFisher, p: UniformSphere) -> Tensor:
    kl = _log_area(p.event_shape[0]) - q.entropy()
    return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_directions(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    cosine = (q.mean * p.loc).sum(-1)
    return -q.entropy() - p.log_normalizer() - p.concentration * cosine


def _at_least_two(dimensions: int) -> None:
    if dimensions < 2:
        raise ValueError(f"A direction has 2 dimensions or more, found {dimensions}.")


def _log_area(dimensions: int) -> float:
    half = 0.5 * dimensions
    return math.log(2.0) + half * math.log(math.pi) - math.lgamma(half)


def _log_bessel(concentration: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    r"""The logarithm of the Bessel function at :math:`\nu = d/2 - 1`, and a ratio of two.

    :math:`\log I_\nu(\kappa) - \nu \log \kappa - \kappa` and
    :math:`\rho_\nu = I_{\nu+1} / (\kappa I_\nu)`. The uniform asymptotic expansion has its digits
    at orders of 60 and more; the ratios come down from there by
    :math:`\rho_{\nu-1} = 1 / (2 \nu + \kappa^2 \rho_\nu)`, which loses none. Nothing is
    singular at :math:`\kappa = 0`.

    Digital Library of Mathematical Functions, 10.41.3 and 10.29.1, https://dlmf.nist.gov/10.41
    """
    order = 0.5 * dimensions - 1
    steps = max(0, math.ceil(_LARGE_ORDER - order))
    square = concentration.square()
    total, ratio = _expansion(concentration, order + steps)
    for step in range(steps, 0, -1):
        ratio = 1 / (2 * (order + step) + square * ratio)
        total = total - ratio.log()
    return total, ratio


def _expansion(concentration: Tensor, order: float) -> tuple[Tensor, Tensor]:
    r"""Both numbers of :func:`_log_bessel` for a large order.

    The ratio is :math:`\tfrac1\kappa \tfrac{d}{d\kappa} \log(I_\nu(\kappa) / \kappa^\nu)`,
    differentiated by hand: a difference of two orders would lose what :math:`\kappa` is large by.
    """
    root = (1 + (concentration / order).square()).sqrt()
    p = 1 / root
    series, slope = torch.zeros_like(p), torch.zeros_like(p)
    for k, coefficients in enumerate(_DEBYE):
        polynomial, derivative = torch.zeros_like(p), torch.zeros_like(p)
        for coefficient in reversed(coefficients):
            derivative = derivative * p + polynomial
            polynomial = polynomial * p + coefficient
        series = series + polynomial / order**k
        slope = slope + derivative / order**k
    # nu root - kappa without their difference
    excess = order**2 / (order * root + concentration)
    exponent = excess - order * (math.log(order) + (1 + root).log())
    log_value = exponent - 0.5 * math.log(2 * math.pi * order) - 0.5 * root.log() + series.log()
    ratio = 1 / (order * (1 + root)) - (0.5 * p.square() + p**3 * slope / series) / order**2
    return log_value, ratio


@torch.no_grad()
def cosine_gap(concentration: Tensor, dimensions: int) -> Tensor:
    r"""A draw of :math:`1 - w`, the gap of the cosine to the mean direction, by rejection.

    The gap, and not the cosine, keeps its digits where the concentration is large. No loop and
    no branch depends on what is drawn.
    """
    d = dimensions - 1
    shape = (PROPOSALS, *concentration.shape)
    b = d / (2 * concentration + (4 * concentration.square() + d**2).sqrt())
    short = 2 * b / (1 + b)  # 1 - x_0
    half = concentration.new_full(shape, 0.5 * d)
    one, other = torch._standard_gamma(half), torch._standard_gamma(half)
    share = one / (one + other).clamp_min(torch.finfo(one.dtype).tiny)
    gap = 2 * b * share / (1 - (1 - b) * share)
    # log of the ratio of densities: kappa (w - x_0) + d log((1 - x_0 w) / (1 - x_0^2))
    rise = concentration * (short - gap)
    ratio = (short + (1 - short) * gap) / (short * (2 - short))
    uniform = torch.rand(shape, dtype=gap.dtype, device=gap.device)
    accepted = rise + d * ratio.log() >= uniform.log()
    accepted[-1] = True
    limits = torch.finfo(gap.dtype)
    first = accepted.to(torch.uint8).argmax(0, keepdim=True)
    return gap.gather(0, first).squeeze(0).clamp(limits.tiny, 2 - 2 * limits.eps)


def gap_slope(gap: Tensor, concentration: Tensor, mean: Tensor, dimensions: int) -> Tensor:
    r""":math:`d(1 - w) / d\kappa` of a draw whose quantile is held.

    With :math:`w = \cos \theta` and A the mean cosine,
    :math:`\frac{dw}{d\kappa} = \int_0^\theta (\cos t - A)\, e^{\kappa (\cos t - \cos \theta)}
    \sin^{d-2} t\, dt \,/ \sin^{d-3} \theta`, or minus the integral from :math:`\theta` to
    :math:`\pi`, whichever is the tail; by 64 Gauss-Legendre nodes over the part of the tail that
    has mass.
    """
    angle = 2 * (0.5 * gap).sqrt().clamp(max=1.0).arcsin()
    near = 1 - gap > mean
    # the angle's spread, by the curvature of its log-density at the mode
    d = dimensions - 2
    cosine = 2 * concentration / (d + (d**2 + 4 * concentration.square()).sqrt()).clamp_min(1e-6)
    curvature = concentration * cosine + d / (1 - cosine.square()).clamp_min(1e-12)
    width = 12 / curvature.clamp_min(1e-12).sqrt()
    low = torch.where(near, (angle - width).clamp_min(0.0), angle)
    high = torch.where(near, angle, (angle + width).clamp_max(math.pi))
    nodes, weights = [
        torch.tensor(each, dtype=gap.dtype, device=gap.device) for each in (_NODES, _WEIGHTS)
    ]
    span = 0.5 * (high - low).unsqueeze(-1)
    t = 0.5 * (high + low).unsqueeze(-1) + span * nodes
    angle, gap_t = angle.unsqueeze(-1), 2 * (0.5 * t).sin().square()
    log_ratio = concentration.unsqueeze(-1) * (gap.unsqueeze(-1) - gap_t)
    log_ratio = log_ratio + d * (t.sin().log() - angle.sin().log())
    moment = (1 - gap_t - mean.unsqueeze(-1)) * log_ratio.exp()
    integral = (span * weights * moment).sum(-1) * angle.squeeze(-1).sin()
    return torch.where(near, -integral, integral)
