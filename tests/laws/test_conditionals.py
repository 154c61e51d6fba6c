"""Every conditional obeys the laws below (R1.4, R2.4.4, R2.5, R3.1, TB6)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.conditionals import (
    Autoregressive,
    BatchNormalisedGaussian,
    Bernoulli,
    Beta,
    Categorical,
    CommittedGaussian,
    ContinuousBernoulli,
    Dirichlet,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    FullCovarianceGaussian,
    Gamma,
    GatedTransition,
    Gaussian,
    GaussianMixture,
    Laplace,
    LowRankGaussian,
    Mixture,
    MixtureDensity,
    NegativeBinomial,
    OneHot,
    Ordinal,
    Poisson,
    PrecisionWeighted,
    Resampled,
    ResidualGaussian,
    RestrictedBoltzmannMachine,
    Spiked,
    StandardNormal,
    StudentT,
    Tokens,
    UniformSphere,
    VampPrior,
    VonMisesFisher,
)
from deeplvm.conditionals.concrete import BinaryConcrete, Concrete
from deeplvm.conditionals.flows import (
    NICE,
    HouseholderFlow,
    InverseAutoregressiveFlow,
    LinearInverseAutoregressiveFlow,
    MaskedAutoregressiveFlow,
    NeuralAutoregressiveFlow,
    NeuralSplineFlow,
    PlanarFlow,
    RadialFlow,
    RealNVP,
    SylvesterFlow,
)
from deeplvm.conditionals.heads import shown
from deeplvm.conditionals.vamp import Aggregated
from deeplvm.distributions import LowRankPrecisionNormal
from deeplvm.distributions.tokens import TokenCategorical
from deeplvm.networks import MADE, MLP, NADE, ConvolutionalDecoder, GatedPixelCNN

BATCH, PARTICLES = 3, 4
Make = Callable[[tuple[int, ...], nn.Module | None], nn.Module]


@dataclass(frozen=True)
class Member:
    """A conditional by its constructor, with the networks and events it is tried with.

    ``make(shape, network)``; ``domain`` is "real", "positive", "unit" or "counts", or the number
    of levels of a discrete value; ``twin(elements)`` is SciPy's distribution of one element.
    """

    make: Make
    domain: str | int = "real"
    twin: Callable[[Distribution], object] | None = None
    shape: tuple[int, ...] = (3,)
    network: str | None = "vector"
    moments: bool = True  # False for a flow: no mean in closed form, and no marginal
    traced: bool = True  # False where another member traces the same code

    def network_of(self, shape: tuple[int, ...]) -> nn.Module | None:
        if self.network is None:
            return None
        if self.network == "map":
            size = shape if len(shape) == 3 else (1, 1, 1)
            return ConvolutionalDecoder(5, size, channels=(4,), features=3)
        return MLP(5, 8, activation=nn.Tanh)

    def build(self, shape: tuple[int, ...] | None = None) -> nn.Module:
        torch.manual_seed(0)
        shape = self.shape if shape is None else shape
        return self.make(shape, self.network_of(shape))

    def parents(
        self, *, particles: bool = True, dtype: torch.dtype = torch.float64
    ) -> list[Tensor]:
        if self.network is None:
            return []
        generator = torch.Generator().manual_seed(1)
        shapes = [(BATCH, 2), (PARTICLES, BATCH, 3) if particles else (BATCH, 3)]
        return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]

    def batch(self, *, particles: bool = True) -> tuple[int, ...]:
        if self.network is None:
            return ()
        return (PARTICLES, BATCH) if particles else (BATCH,)

    def draw(self, module: nn.Module, parents: list[Tensor]) -> tuple[Distribution, Tensor]:
        torch.manual_seed(2)
        distribution = module(*parents)
        return distribution, distribution.sample()


def elements(distribution: Distribution) -> Distribution:
    return getattr(distribution, "base_dist", distribution)


def normal(d: Distribution) -> object:
    return stats.norm(elements(d).loc.detach(), elements(d).scale.detach())


def multivariate(d: Distribution) -> object:
    return d


def student_t(d: Distribution) -> object:
    d = elements(d)
    return stats.t(d.df.detach(), d.loc.detach(), d.scale.detach())


def negative_binomial(d: Distribution) -> object:
    d = elements(d)
    r, m = d.dispersion.detach().numpy(), d.mean.detach().numpy()
    return stats.nbinom(r, r / (r + m))


@dataclass(frozen=True)
class Inflated:
    """A law with some more zeros, by SciPy's probabilities."""

    law: Any
    logits: Tensor

    def logpmf(self, x: Tensor) -> Tensor:
        share = special.expit(self.logits.detach().numpy())
        return torch.as_tensor(np.log((1 - share) * self.law.pmf(x) + share * (x.numpy() == 0)))


def beta(d: Distribution) -> object:
    return stats.beta(elements(d).concentration1.detach(), elements(d).concentration0.detach())


def gamma(d: Distribution) -> object:
    d = elements(d)
    return stats.gamma(d.concentration.detach(), scale=1 / d.rate.detach())


UNITS = (torch.tensor(30.0), torch.tensor(7.0))
KNOTS = torch.tensor([-2.0, -1.0, 0.0, 1.2, 2.5])

flow = partial(Member, shape=(2,), moments=False, traced=False)

MEMBERS: dict[str, Member] = {
    "StandardNormal": Member(lambda s, _: StandardNormal(s), twin=normal, network=None),
    "StandardNormal, image": Member(
        lambda s, _: StandardNormal(s), twin=normal, network=None, shape=(2, 3, 5), traced=False
    ),
    "Gaussian": Member(Gaussian, twin=normal),
    "Gaussian, learned normal": Member(lambda s, n: Gaussian(s), twin=normal, network=None),
    "Gaussian, scalar": Member(Gaussian, twin=normal, shape=(), traced=False),
    "Gaussian, image from a vector": Member(Gaussian, twin=normal, shape=(2, 3, 5), traced=False),
    "Gaussian, image from a map": Member(Gaussian, twin=normal, shape=(2, 3, 5), network="map"),
    "Gaussian, scale a dimension": Member(
        lambda s, n: Gaussian(s, n, scale="dimension"), twin=normal
    ),
    "Gaussian, global scale": Member(
        lambda s, n: Gaussian(s, n, scale="global"), twin=normal, traced=False
    ),
    "Gaussian, fixed scale": Member(lambda s, n: Gaussian(s, n, scale=0.3), twin=normal),
    "Gaussian, units": Member(lambda s, n: Gaussian(s, n, units=UNITS), twin=normal),
    "CommittedGaussian": Member(lambda s, n: CommittedGaussian(s, n, minimum=0.2), twin=normal),
    "CommittedGaussian, free": Member(
        lambda s, n: CommittedGaussian(s), twin=normal, network=None, traced=False
    ),
    "BatchNormalisedGaussian": Member(
        lambda s, n: BatchNormalisedGaussian(s, n or MLP(5)).eval(), twin=normal
    ),
    "PrecisionWeighted": Member(
        lambda s, n: PrecisionWeighted(
            Gaussian(s, MLP(2, 4, activation=nn.Tanh)), Gaussian(s, MLP(3, 4, activation=nn.Tanh))
        ),
        twin=normal,
    ),
    "GatedTransition": Member(
        lambda s, _: GatedTransition(s[0], 4, inputs=5 - s[0]), twin=normal, shape=(2,)
    ),
    "ResidualGaussian": Member(
        lambda s, n: ResidualGaussian(Gaussian(s, MLP(2, 4, activation=nn.Tanh)), n or MLP(5)),
        twin=normal,
    ),
    "FullCovarianceGaussian": Member(FullCovarianceGaussian),
    "FullCovarianceGaussian, free": Member(
        lambda s, n: FullCovarianceGaussian(s), network=None, traced=False
    ),
    "FullCovarianceGaussian, global": Member(
        lambda s, n: FullCovarianceGaussian(s, n, covariance="global"), traced=False
    ),
    "FullCovarianceGaussian, matrix": Member(FullCovarianceGaussian, shape=(2, 2), traced=False),
    "FullCovarianceGaussian, units": Member(
        lambda s, n: FullCovarianceGaussian(s, n, units=UNITS)
    ),
    "LowRankGaussian": Member(lambda s, n: LowRankGaussian(s, n, rank=2)),
    "LowRankGaussian, free": Member(
        lambda s, n: LowRankGaussian(s, rank=2), network=None, traced=False
    ),
    "LowRankGaussian, global": Member(
        lambda s, n: LowRankGaussian(s, n, rank=1, covariance="global"), traced=False
    ),
    "LowRankGaussian, matrix": Member(
        lambda s, n: LowRankGaussian(s, n, rank=2), shape=(2, 2), traced=False
    ),
    "InverseAutoregressiveFlow": Member(
        lambda s, n: InverseAutoregressiveFlow(s[0], n or MLP(5), hidden=(8,)),
        shape=(2,),
        moments=False,
    ),
    "NeuralAutoregressiveFlow": flow(
        lambda s, n: NeuralAutoregressiveFlow(s, n, sigmoids=3, layers=2, hidden=(8,))
    ),
    "NeuralSplineFlow": flow(lambda s, n: NeuralSplineFlow(s, n, bins=3, hidden=(8,))),
    "HouseholderFlow": flow(HouseholderFlow),
    "HouseholderSylvesterFlow": flow(partial(SylvesterFlow, kind="householder")),
    "LinearInverseAutoregressiveFlow": flow(LinearInverseAutoregressiveFlow),
    "MaskedAutoregressiveFlow": flow(
        lambda s, n: MaskedAutoregressiveFlow(s, n, transforms=2, hidden=(8,))
    ),
    "NICE": flow(lambda s, n: NICE(s, n, hidden=(8,))),
    "OrthogonalSylvesterFlow": flow(SylvesterFlow),
    "PlanarFlow": flow(PlanarFlow),
    "RadialFlow": flow(RadialFlow),
    "RealNVP": flow(lambda s, n: RealNVP(s, n, hidden=(8,))),
    "TriangularSylvesterFlow": flow(partial(SylvesterFlow, kind="triangular")),
    "GaussianMixture": Member(
        lambda s, n: GaussianMixture(s, n, components=3), shape=(2,), moments=False
    ),
    "GaussianMixture, image, units": Member(
        lambda s, n: GaussianMixture(s, n, units=UNITS),
        shape=(2, 3, 2),
        moments=False,
        traced=False,
    ),
    "MixtureDensity": Member(lambda s, n: MixtureDensity(s, n, components=3)),
    "Mixture, free weights": flow(
        lambda s, n: Mixture([Gaussian(s, n), Gaussian(s, MLP(5, 3, activation=nn.Tanh))])
    ),
    "Mixture of any": Member(
        lambda s, n: Mixture(
            [FullCovarianceGaussian(s, MLP(5, 3, activation=nn.Tanh)), Laplace(s, n)],
            MLP(5, 3, activation=nn.Tanh),
        ),
        shape=(2,),
        moments=False,
    ),
    "LowRankGaussian, units": Member(lambda s, n: LowRankGaussian(s, n, units=UNITS)),
    "LowRankGaussian, precision": Member(
        lambda s, n: LowRankGaussian(s, n, rank=2, family=LowRankPrecisionNormal)
    ),
    "LowRankGaussian, precision, units": Member(
        lambda s, n: LowRankGaussian(s, n, rank=2, family=LowRankPrecisionNormal, units=UNITS),
        traced=False,
    ),
    "Bernoulli": Member(Bernoulli, 2, lambda d: stats.bernoulli(elements(d).probs.detach())),
    "Bernoulli, mean": Member(lambda s, n: Bernoulli(s, n, mean=0.2), 2, traced=False),
    "Bernoulli, free": Member(lambda s, n: Bernoulli(s), 2, network=None),
    "Bernoulli, image from a map": Member(
        Bernoulli, 2, shape=(1, 3, 5), network="map", traced=False
    ),
    "Categorical": Member(lambda s, n: Categorical(4, n, s), 4, traced=False),
    "Categorical, label": Member(lambda s, n: Categorical(4, n, s), 4, shape=()),
    "Categorical, free": Member(lambda s, n: Categorical(4, shape=s), 4, shape=(), network=None),
    "Categorical, image from a map": Member(
        lambda s, n: Categorical(4, n, s), 4, shape=(1, 3, 5), network="map", traced=False
    ),
    "Categorical, levels": Member(lambda s, n: Categorical(4, n, s, ordered=True), 4),
    "Tokens": Member(lambda s, n: Tokens(4, n), 4, shape=()),
    "Tokens, free": Member(lambda s, n: Tokens(4), 4, shape=(), network=None, traced=False),
    "OneHot": Member(lambda s, n: OneHot(4, n, s[:-1]), shape=(4,), domain="one-hot"),
    "OneHot, several": Member(lambda s, n: OneHot(4, n, s[:-1]), shape=(3, 4), domain="one-hot"),
    "Ordinal": Member(lambda s, n: Ordinal(5, n, s), 5, traced=False),
    "Ordinal, label": Member(lambda s, n: Ordinal(5, n, s), 5, shape=()),
    "Ordinal, two levels": Member(lambda s, n: Ordinal(2, n, s), 2, traced=False),
    "Ordinal, free": Member(lambda s, n: Ordinal(5, shape=s), 5, network=None),
    "Poisson": Member(
        lambda s, n: Poisson(s, n, mean=3.0),
        "counts",
        lambda d: stats.poisson(elements(d).rate.detach()),
    ),
    "NegativeBinomial": Member(
        lambda s, n: NegativeBinomial(s, n, mean=3.0), "counts", negative_binomial
    ),
    "NegativeBinomial, dispersion by the network": Member(
        lambda s, n: NegativeBinomial(s, n, dispersion="network"),
        "counts",
        negative_binomial,
        traced=False,
    ),
    "NegativeBinomial, almost Poisson": Member(
        lambda s, n: NegativeBinomial(s, n, dispersion=1e6),
        "counts",
        negative_binomial,
        traced=False,
    ),
    "Poisson, zero-inflated": Member(
        lambda s, n: Poisson(s, n, zero_inflated=True),
        "counts",
        lambda d: Inflated(stats.poisson(elements(d).counts.rate.detach()), elements(d).logits),
    ),
    "NegativeBinomial, zero-inflated": Member(
        lambda s, n: NegativeBinomial(s, n, zero_inflated=True, mean=3.0),
        "counts",
        lambda d: Inflated(negative_binomial(elements(d).counts), elements(d).logits),
    ),
    "DiscretizedLogistic": Member(DiscretizedLogistic, 256),
    "DiscretizedLogistic, 17 levels": Member(
        lambda s, n: DiscretizedLogistic(s, n, levels=17, scale="dimension"), 17
    ),
    "DiscretizedLogistic, image from a map": Member(
        lambda s, n: DiscretizedLogistic(s, n, scale=0.05),
        256,
        shape=(2, 3, 5),
        network="map",
        traced=False,
    ),
    "DiscretizedLogisticMixture": Member(
        lambda s, n: DiscretizedLogisticMixture(s, n, components=3, levels=17), 17
    ),
    "DiscretizedLogisticMixture, free": Member(
        lambda s, n: DiscretizedLogisticMixture(s), 256, network=None, traced=False
    ),
    "DiscretizedLogisticMixture, coupled": Member(
        lambda s, n: DiscretizedLogisticMixture(s, n, components=2, levels=17, coupled=True),
        17,
        moments=False,
    ),
    "DiscretizedLogisticMixture, coupled, image from a map": Member(
        lambda s, n: DiscretizedLogisticMixture(s, n, components=2, coupled=True),
        256,
        shape=(3, 3, 5),
        network="map",
        moments=False,
    ),
    "ContinuousBernoulli": Member(ContinuousBernoulli, "unit"),
    "ContinuousBernoulli, free": Member(
        lambda s, n: ContinuousBernoulli(s), "unit", network=None, traced=False
    ),
    "Beta": Member(Beta, "unit", beta),
    "UniformSphere": Member(
        lambda s, _: UniformSphere(s[0]), "sphere", network=None, moments=False
    ),
    "VampPrior": Member(
        lambda s, _: VampPrior(
            Aggregated(Gaussian(s, MLP(5, 4, activation=nn.Tanh)), torch.zeros(5)), components=3
        ),
        shape=(2,),
        network=None,
        moments=False,
    ),
    "VampPrior of any, bounded": flow(
        lambda s, _: VampPrior(
            Aggregated(
                FullCovarianceGaussian(s, MLP(5, 4, activation=nn.Tanh)),
                torch.full((5,), 0.2),
                (torch.zeros(5), torch.ones(5)),
            ),
            components=3,
        ),
        network=None,
    ),
    "VonMisesFisher": Member(lambda s, n: VonMisesFisher(s[0], n), "sphere", moments=False),
    "VonMisesFisher, global": Member(
        lambda s, n: VonMisesFisher(s[0], n, concentration="global"),
        "sphere",
        moments=False,
        traced=False,
    ),
    "VonMisesFisher, free": Member(
        lambda s, n: VonMisesFisher(s[0]), "sphere", network=None, moments=False, traced=False
    ),
    "Concrete": Member(lambda s, n: Concrete(s[-1], n, s[:-1]), "simplex", moments=False),
    "BinaryConcrete": Member(
        BinaryConcrete,
        twin=lambda d: stats.logistic(elements(d).loc.detach(), elements(d).scale.detach()),
    ),
    "Dirichlet": Member(lambda s, n: Dirichlet(s[0], n), "simplex", moments=False),
    "Laplace": Member(
        Laplace, twin=lambda d: stats.laplace(elements(d).loc.detach(), elements(d).scale.detach())
    ),
    "Laplace, units": Member(
        lambda s, n: Laplace(s, n, units=UNITS, scale="dimension"), traced=False
    ),
    "StudentT": Member(StudentT, twin=student_t),
    "StudentT, df by the network": Member(
        lambda s, n: StudentT(s, n, scale="global", df="network"), twin=student_t, traced=False
    ),
    "StudentT, almost Gaussian": Member(
        lambda s, n: StudentT(s, n, df=1e7), twin=student_t, traced=False
    ),
    "StudentT, units": Member(lambda s, n: StudentT(s, n, units=UNITS), twin=student_t),
    "Autoregressive": Member(
        lambda s, n: Autoregressive(Gaussian(s), n, width=12).eval(), moments=False
    ),
    "Autoregressive, categories": Member(
        lambda s, n: Autoregressive(Categorical(4, shape=s), n, width=12, orders=2).eval(),
        4,
        moments=False,
    ),
    "Autoregressive, MADE": Member(
        lambda s, n: Autoregressive(Bernoulli(s), n, causal=MADE, hidden=(8,)),
        2,
        moments=False,
    ),
    "Autoregressive, pixels": Member(
        lambda s, n: Autoregressive(
            Bernoulli(s), n, causal=GatedPixelCNN, shape=s, width=4, layers=2
        ),
        2,
        shape=(2, 2, 3),
        moments=False,
    ),
    "Autoregressive, NADE": Member(
        lambda s, n: Autoregressive(OneHot(s[-1], shape=s[:-1]), n, causal=NADE, hidden=8),
        shape=(3, 4),
        domain="one-hot",
        moments=False,
    ),
    "Resampled": Member(
        lambda s, _: Resampled(s, hidden=(6,), truncation=4).eval(),
        shape=(2,),
        network=None,
        moments=False,
    ),
    "RestrictedBoltzmannMachine": Member(
        lambda s, _: RestrictedBoltzmannMachine(s, hidden=4), 2, network=None, moments=False
    ),
    "Spiked": Member(lambda s, n: Spiked(s, n, knots=KNOTS)),
    "Spiked, truncated": Member(
        lambda s, n: Spiked(s, n, knots=KNOTS, bounds=(-torch.inf, 60.0), truncated=True)
    ),
    "Spiked, whole numbers": Member(
        lambda s, n: Spiked(
            s,
            n,
            knots=torch.tensor([0.0, 1.0, 3.0, 9.0]),
            atoms=torch.tensor([0.0, 4.0]).expand(*s, 2),
            components=2,
            bounds=(0.0, torch.inf),
            step=1.0,
        ),
        "counts",
        moments=False,
    ),
    "Gamma": Member(Gamma, "positive", gamma),
    "Gamma, unit": Member(
        lambda s, n: Gamma(s, n, unit=1e4, concentration="dimension"),
        "positive",
        gamma,
        traced=False,
    ),
}


def members(**where: object) -> pytest.MarkDecorator:
    """Parametrize over the members, or those of which ``accept`` is true."""
    accept = where.get("accept", lambda _: True)
    chosen = {name: member for name, member in MEMBERS.items() if accept(member)}  # type: ignore[operator]
    return pytest.mark.parametrize("member", list(chosen.values()), ids=list(chosen))


def discrete(member: Member) -> bool:
    return isinstance(member.domain, int) or member.domain in ("counts", "one-hot")


def correlated(module: nn.Module) -> bool:
    return isinstance(module, FullCovarianceGaussian | LowRankGaussian)


@members()
def test_shapes_are_those_of_the_parents_and_the_event(member: Member) -> None:
    module = member.build()
    distribution, value = member.draw(module, member.parents())
    assert module.event_shape == member.shape
    assert distribution.batch_shape == member.batch()
    assert distribution.event_shape == member.shape
    assert value.shape == member.batch() + member.shape
    assert distribution.log_prob(value).shape == member.batch()
    # one value a row under several particles: nobody repeats inputs
    row = value[0] if member.network else value
    assert distribution.log_prob(row).shape == member.batch()


@members()
def test_expand(member: Member) -> None:
    distribution, _ = member.draw(member.build(), member.parents(particles=False))
    larger = distribution.expand(torch.Size((5, BATCH)))
    value = larger.sample()
    assert larger.batch_shape == (5, BATCH)
    assert larger.event_shape == member.shape
    assert value.shape == (5, BATCH, *member.shape)
    assert larger.sample((2,)).shape == (2, 5, BATCH, *member.shape)
    torch.testing.assert_close(larger.log_prob(value), distribution.log_prob(value))
    assert larger.log_prob(value[0]).shape == (5, BATCH)


def grid_of(domain: str | int, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Points of one element and their weights (TB6)."""
    if isinstance(domain, int):
        return torch.arange(float(domain)), torch.ones(domain)
    if domain == "counts":
        mean, deviation = distribution.mean.max(), distribution.variance.max().sqrt()
        count = torch.arange(float(int(mean + 60 * deviation)))
        return count, torch.ones_like(count)
    t = torch.linspace(-30, 30, 60001)
    width = t[1] - t[0]
    if domain == "unit":
        x = t.sigmoid()
        return x, x * (1 - x) * width
    if domain == "positive":
        x = t.exp() * distribution.mean.mean()
        return x, x * width
    spread = distribution.variance.mean().sqrt()
    return distribution.mean.mean() + spread * t.sinh(), spread * t.cosh() * width


@members(accept=lambda m: m.domain != "one-hot" and m.network != "map" and m.moments)
@torch.no_grad()
def test_one_element_is_normalised(member: Member) -> None:
    """TB6, exactly: sums within 1e-6, integrals within 1e-3."""
    module = member.build(() if member.shape == () else (1,))
    distribution = module(*member.parents(particles=False))
    grid, weight = grid_of(member.domain, distribution)
    value = grid.reshape(-1, *[1 for _ in (*distribution.batch_shape, *distribution.event_shape)])
    total = torch.einsum("g,g...->...", weight, distribution.log_prob(value).exp())
    tolerance = 1e-6 if discrete(member) else 1e-3
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tolerance)


@members(accept=lambda m: correlated(m.build()) and m.shape == (3,))
@torch.no_grad()
def test_two_correlated_elements_are_normalised(member: Member) -> None:
    distribution = member.build((2,))(*member.parents(particles=False))
    batch = distribution.batch_shape
    t = torch.linspace(-8, 8, 201)
    unit = torch.cartesian_prod(t, t).reshape(-1, *[1 for _ in batch], 2)
    deviation = distribution.variance.sqrt()
    density = distribution.log_prob(distribution.mean + deviation * unit).exp()
    total = density.sum(0) * (t[1] - t[0]) ** 2 * deviation.prod(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)


@torch.no_grad()
def test_one_hot_sums_to_one() -> None:
    member = MEMBERS["OneHot"]
    distribution = member.build()(*member.parents())
    total = distribution.log_prob(torch.eye(4)[:, None, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(member.batch()))


@members(accept=lambda m: m.twin is not None)
@torch.no_grad()
def test_log_prob_is_scipys(member: Member) -> None:
    distribution, value = member.draw(member.build(), member.parents())
    twin = member.twin(distribution)  # type: ignore[misc]
    each = twin.logpmf(value) if discrete(member) else twin.logpdf(value)  # type: ignore[operator]
    dims = tuple(range(len(member.batch()), value.ndim))
    total = torch.as_tensor(each).sum(dims) if dims else torch.as_tensor(each)
    # SciPy's own rounding is the larger one for 1e6 and more degrees of freedom
    torch.testing.assert_close(distribution.log_prob(value), total, rtol=1e-8, atol=1e-7)


@members(accept=lambda m: correlated(m.build()))
@torch.no_grad()
def test_correlated_normals_are_scipys(member: Member) -> None:
    distribution, value = member.draw(member.build(), member.parents())
    batch = distribution.batch_shape
    count, size = batch.numel(), distribution.event_shape.numel()
    covariances = distribution.covariance_matrix.reshape(count, size, size)
    torch.testing.assert_close(
        covariances.diagonal(dim1=-2, dim2=-1), distribution.variance.reshape(count, size)
    )
    torch.testing.assert_close(
        distribution.log_determinant().expand(batch).reshape(count),
        torch.linalg.slogdet(covariances).logabsdet,
    )
    rows = zip(
        value.reshape(count, size),
        distribution.mean.reshape(count, size),
        covariances,
        strict=True,
    )
    expected = [stats.multivariate_normal.logpdf(*map(Tensor.numpy, row)) for row in rows]
    torch.testing.assert_close(
        distribution.log_prob(value).reshape(count), torch.tensor(expected), rtol=1e-9, atol=1e-9
    )


@members()
def test_gradient_is_the_finite_difference(member: Member) -> None:
    module = member.build()
    parents = member.parents(particles=False)
    _, value = member.draw(module, parents)
    names = [name for name, _ in module.named_parameters()]

    def log_prob(*inputs: Tensor) -> Tensor:
        parameters = dict(zip(names, inputs, strict=False))
        x, given = inputs[len(names)], inputs[len(names) + 1 :]
        return torch.func.functional_call(module, parameters, tuple(given)).log_prob(x)

    leaves = [p.detach().clone().requires_grad_() for p in module.parameters()]
    leaves += [value.clone().requires_grad_(not discrete(member))]
    leaves += [parent.clone().requires_grad_() for parent in parents]
    if any(leaf.requires_grad for leaf in leaves):
        assert torch.autograd.gradcheck(log_prob, tuple(leaves), fast_mode=True)


@pytest.mark.parametrize("pattern", ["+", "-", "+-", "-+"])
@members()
def test_extreme_parameters_stay_finite(member: Member, pattern: str) -> None:
    """R1.4: outputs of a network of +-1e4 give finite log-densities and gradients."""
    module = member.build()
    _, value = member.draw(module, member.parents())
    heads = [part for part in module.modules() if hasattr(part, "start_at")]
    with torch.no_grad():
        for head in heads:
            bias = head.free if head.network is None else head.layer.bias  # type: ignore[union-attr]
            signs = torch.tensor([1.0 if sign == "+" else -1.0 for sign in pattern])
            bias.view(-1).copy_(1e4 * signs.repeat(bias.numel())[: bias.numel()])  # type: ignore[operator]
    log_prob = module(*member.parents()).log_prob(value)
    assert log_prob.isfinite().all()
    if log_prob.requires_grad:
        log_prob.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@members()
def test_a_draw_is_scored_as_its_value_is(member: Member) -> None:
    """R2.4.4: log q carried along the draw is log q of the value."""
    distribution = member.build()(*member.parents(particles=False))
    larger = distribution.expand(torch.Size((5, BATCH)))
    for each in (distribution, larger):
        one_pass = getattr(each, "rsample_and_log_prob", None)
        if one_pass is None:
            value = each.sample()
            assert each.log_prob(value).isfinite().all()
            continue
        torch.manual_seed(3)
        value, log_prob = one_pass((2,))
        assert log_prob.shape == (2, *each.batch_shape)
        torch.testing.assert_close(log_prob, each.log_prob(value), rtol=1e-9, atol=1e-9)
        torch.manual_seed(3)
        assert torch.equal(value, each.rsample((2,)))


@members(accept=lambda m: m.network != "map" and m.moments)
@torch.no_grad()
def test_draws_have_the_mean_and_the_variance(member: Member) -> None:
    """Means within 5 standard errors: fails by chance once in 1.7 million elements; seed fixed."""
    distribution, _ = member.draw(member.build(), member.parents(particles=False))
    torch.manual_seed(4)
    draws = distribution.sample((20000,)).double()
    base = elements(distribution) if member.domain == "one-hot" else distribution
    base = elements(base) if isinstance(base, torch.distributions.Independent) else base
    if isinstance(base, torch.distributions.Categorical | TokenCategorical):
        one_hot = nn.functional.one_hot(draws.long()).double()
        mean, variance = base.logits.exp(), one_hot.var(0)
        draws = one_hot
    else:
        mean, variance = distribution.mean, distribution.variance
        # fourth moments are not known: the variances are only compared roughly
        spread = draws.var(0)
        heavy = isinstance(elements(distribution), torch.distributions.StudentT)
        if not heavy:
            torch.testing.assert_close(spread, variance.expand_as(spread), rtol=0.2, atol=1e-3)
    error = (draws.mean(0) - mean).abs()
    assert (error <= 5 * (variance / 20000).sqrt() + 1e-12).all()


@members()
def test_every_parameter_gets_a_gradient(member: Member) -> None:
    module = member.build()
    distribution, value = member.draw(module, member.parents())
    log_prob = distribution.log_prob(value).sum()
    if not list(module.parameters()):
        assert isinstance(module, StandardNormal | UniformSphere)
        return
    seen = shown(module, value)  # by a table of its own, perhaps
    (log_prob + seen.sum() if seen.requires_grad else log_prob).backward()
    used = {name: p for name, p in module.named_parameters() if p.numel()}
    assert not [name for name, p in used.items() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@members()
def test_dtype_is_kept(member: Member, dtype: torch.dtype) -> None:
    module = member.build().to(dtype)
    parents = member.parents(dtype=dtype)
    distribution, value = member.draw(module, parents)
    assert distribution.log_prob(value).dtype == dtype
    assert distribution.log_prob(value).isfinite().all()
    if not discrete(member):
        assert value.dtype == dtype
    if hasattr(module, "embed"):
        assert module.embed(value).dtype == dtype


@members(accept=discrete)
def test_integers_travel_in_any_dtype(member: Member) -> None:
    module = member.build()
    distribution, value = member.draw(module, member.parents())
    expected = distribution.log_prob(value.double())
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.float32):
        torch.testing.assert_close(distribution.log_prob(value.to(dtype)), expected)
        if hasattr(module, "embed"):
            torch.testing.assert_close(module.embed(value.to(dtype)), module.embed(value.double()))


@members(accept=lambda m: m.network is not None)
@torch.no_grad()
def test_a_permutation_of_the_batch_commutes(member: Member) -> None:
    module = member.build()
    parents = member.parents(particles=False)
    distribution, value = member.draw(module, parents)
    order = torch.tensor([2, 0, 1])
    permuted = module(*[parent[order] for parent in parents]).log_prob(value[order])
    torch.testing.assert_close(permuted, distribution.log_prob(value)[order])


def traced_and_not(
    member: Member, dtype: torch.dtype, *, bfloat16: bool
) -> list[tuple[Tensor, ...]]:
    """Score, draw and the density of the draw, traced and as they are."""
    module = member.build().to(dtype)
    parents = member.parents(particles=False, dtype=dtype)
    _, value = member.draw(module, parents)

    def step(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            distribution = module(*given).expand(torch.Size((2, BATCH)))
            log_prob = distribution.log_prob(x)
            if hasattr(distribution, "rsample_and_log_prob"):
                return log_prob, *distribution.rsample_and_log_prob()
            draw = distribution.rsample() if distribution.has_rsample else distribution.sample()
            return log_prob, draw, distribution.log_prob(draw)

    torch._dynamo.reset()  # each member is its own graph: together they would exceed the cache
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    found = []
    for each in (compiled, step):
        torch.manual_seed(3)
        found.append(each(value.detach(), *parents))
    return found


@members(accept=lambda m: m.traced)
def test_one_graph(member: Member) -> None:
    """The forward pass, the score and the draw trace without a break, under autocast too.

    What has a network is traced once, with that in bfloat16; see below for what asks for it.
    """
    bfloat16 = member.network is not None
    traced, plain = traced_and_not(
        member, torch.float32 if bfloat16 else torch.float64, bfloat16=bfloat16
    )
    torch.testing.assert_close(traced[0], plain[0])
    assert traced[1].shape == (2, BATCH, *member.shape)


@members(accept=lambda m: m.traced and m.network is not None and correlated(m.build()))
def test_products_of_matrices_are_one_graph_in_full_precision(member: Member) -> None:
    """These are computed otherwise where autocast is on."""
    traced, plain = traced_and_not(member, torch.float64, bfloat16=False)
    torch.testing.assert_close(traced, plain)


@members()
def test_densities_stay_in_float32_under_autocast(member: Member) -> None:
    """Networks in bfloat16 (8 bits): log-densities, draws and gradients are float32.

    They differ from those of float32 networks by what the networks' outputs do, at most 4 units
    in the 8th bit of :math:`1 + |\\log p|`; a draw and its density agree as in float32.
    """
    module = member.build().float()
    parents = member.parents(dtype=torch.float32)
    _, value = member.draw(module, parents)
    expected = module(*parents).log_prob(value.detach())
    with torch.autocast("cpu", torch.bfloat16):
        distribution = module(*parents)
        log_prob = distribution.log_prob(value.detach())
        one_pass = getattr(distribution, "rsample_and_log_prob", None)
        drawn, along = one_pass() if one_pass else (distribution.sample(), log_prob)
        again = distribution.log_prob(drawn.detach())
    assert log_prob.dtype == along.dtype == torch.float32
    assert drawn.dtype == torch.float32 or discrete(member)
    assert ((log_prob - expected).abs() <= 4 * 2.0**-8 * (1 + expected.abs())).all()
    # a flow that is inverted meets its networks at values that are rounded otherwise
    if one_pass and member.moments:
        torch.testing.assert_close(along, again, rtol=1e-5, atol=1e-4)
    if log_prob.requires_grad:
        (log_prob.sum() + along.sum()).backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all([grad.dtype == torch.float32 for grad in gradients])
        assert all([grad.isfinite().all() for grad in gradients])


@members()
def test_a_copy_and_a_saved_state_are_the_same(member: Member) -> None:
    module = member.build()
    distribution, value = member.draw(module, member.parents())
    expected = distribution.log_prob(value)
    other = member.make(member.shape, member.network_of(member.shape))
    other.load_state_dict(module.state_dict())
    for same in (copy.deepcopy(module), other):
        assert torch.equal(same(*member.parents()).log_prob(value), expected)


@members()
def test_it_prints(member: Member) -> None:
    module = member.build()
    assert type(module).__name__ in repr(module)
    assert repr(module(*member.parents()))


@members(accept=lambda m: m.domain != "one-hot" and m.shape not in ((), (2, 2)) and m.moments)
def test_missing_elements_are_integrated_out(member: Member) -> None:
    """NaN leaves an element out exactly, and no gradient turns NaN."""
    trace = pytest.importorskip("deeplvm.core.trace")
    module = member.build()
    parents = member.parents(particles=False)
    distribution, value = member.draw(module, parents)
    value = value.double().clone()
    holes = torch.zeros_like(value, dtype=torch.bool)
    holes[..., 0] = True
    log_prob = trace.score("x", distribution, value.masked_fill(holes, math.nan), missing=True)
    assert log_prob.shape == distribution.batch_shape
    if not correlated(module):
        each = elements(distribution).log_prob(value).masked_fill(holes, 0.0)
        dims = tuple(range(len(distribution.batch_shape), value.ndim))
        torch.testing.assert_close(log_prob, each.sum(dims))
    else:
        flat = value.reshape(-1, 3)
        means = distribution.mean.reshape(-1, 3)
        covariances = distribution.covariance_matrix.reshape(-1, 3, 3)
        expected = [
            stats.multivariate_normal.logpdf(x[1:], m[1:].detach(), c[1:, 1:].detach())
            for x, m, c in zip(flat, means, covariances, strict=True)
        ]
        torch.testing.assert_close(log_prob.reshape(-1), torch.tensor(expected))
    if log_prob.requires_grad:
        log_prob.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@members(accept=lambda m: m.network is None)
def test_parents_without_a_network_are_refused(member: Member) -> None:
    with pytest.raises(TypeError):
        member.build()(torch.zeros(3, 2))


@members(accept=lambda m: m.network is not None)
def test_a_network_without_parents_is_refused(member: Member) -> None:
    with pytest.raises(TypeError, match="parents"):
        member.build()()
