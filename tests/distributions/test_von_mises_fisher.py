"""Directions against SciPy, quadrature and finite differences."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import kl_divergence

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, UniformSphere, VonMisesFisher
from deeplvm.distributions.von_mises_fisher import UniformSphere as Uniform
from deeplvm.distributions.von_mises_fisher import VonMisesFisher as Directions
from deeplvm.distributions.von_mises_fisher import cosine_gap, gap_slope
from deeplvm.networks import MLP

GRID = [(d, k) for d in (2, 3, 5, 20, 200) for k in (0.05, 1.0, 30.0, 500.0)]
GRID.remove((200, 0.05))  # SciPy's Bessel function underflows there


def about(dimensions: int, concentration: float) -> Directions:
    torch.manual_seed(0)
    loc = torch.randn(dimensions)
    return Directions(loc / loc.norm(), torch.tensor(concentration))


@pytest.mark.parametrize("dimensions, concentration", GRID)
def test_density_and_entropy_are_scipys(dimensions: int, concentration: float) -> None:
    q = about(dimensions, concentration)
    twin = stats.vonmises_fisher(q.loc.numpy(), concentration)
    x = q.sample((7,))
    torch.testing.assert_close(
        q.log_prob(x), torch.tensor(twin.logpdf(x.numpy())), rtol=1e-11, atol=1e-9
    )
    assert q.entropy().item() == pytest.approx(twin.entropy(), rel=1e-9, abs=1e-9)
    order = 0.5 * dimensions
    ratio = special.ive(order, concentration) / special.ive(order - 1, concentration)
    assert q.mean_cosine.item() == pytest.approx(ratio, rel=1e-10)


@pytest.mark.parametrize("dimensions", [2, 3, 50])
def test_extreme_concentrations(dimensions: int) -> None:
    loc = torch.eye(dimensions)[0]
    still = Directions(loc, torch.tensor(0.0))
    uniform = Uniform(dimensions)
    torch.testing.assert_close(still.log_prob(loc), uniform.log_prob(loc))
    torch.testing.assert_close(still.entropy(), uniform.entropy())
    assert abs(kl_divergence(still, uniform)) < 1e-12
    sharp = Directions(loc, torch.tensor(1e5))
    twin = stats.vonmises_fisher(loc.numpy(), 1e5)
    assert sharp.log_prob(loc).item() == pytest.approx(twin.logpdf(loc.numpy()), rel=1e-9)
    single = Directions(loc.float(), torch.tensor(1e5, dtype=torch.float32))
    assert single.log_prob(loc.float()).item() == pytest.approx(
        sharp.log_prob(loc).item(), rel=1e-5
    )


def test_the_normalizer_has_the_slope_of_the_mean_cosine() -> None:
    r""":math:`d \log C / d\kappa = -A`, and A's own by finite differences."""
    for dimensions in (2, 3, 20, 300):
        k = torch.tensor([1e-3, 0.5, 7.0, 200.0], requires_grad=True)
        q = Directions(torch.eye(dimensions)[0], k)
        (slope,) = torch.autograd.grad(q.log_normalizer().sum(), k)
        torch.testing.assert_close(slope, -q.mean_cosine, rtol=1e-9, atol=1e-12)
        assert torch.autograd.gradcheck(
            lambda k, n=dimensions: Directions(torch.eye(n)[0], k).mean_cosine, k
        )


def test_divergence_to_the_uniform_sphere() -> None:
    """By quadrature over the cosine, whose density in three dimensions is closed."""
    q = about(3, 4.0)
    normal = 4.0 / (2 * math.sinh(4.0))

    def integrand(w: float) -> float:
        return normal * math.exp(4 * w) * (4 * w + math.log(2 * normal))

    expected, _ = integrate.quad(integrand, -1, 1)
    assert kl_divergence(q, Uniform(3)).item() == pytest.approx(expected, abs=1e-9)
    other = Directions(torch.eye(3)[0], torch.tensor(2.0))
    torch.manual_seed(1)
    x = q.sample((200_000,))
    gaps = q.log_prob(x) - other.log_prob(x)  # 5 standard errors
    error = gaps.std() / len(gaps) ** 0.5
    assert (gaps.mean() - kl_divergence(q, other)).abs() < 5 * error


@pytest.mark.parametrize(
    "dimensions, concentration", [(2, 1.0), (3, 0.1), (3, 50.0), (10, 5.0), (60, 200.0)]
)
def test_draws_have_the_law(dimensions: int, concentration: float) -> None:
    """Cosines by Kolmogorov-Smirnov, p-value above 1e-4: how often another seed fails."""
    torch.manual_seed(0)
    gap = cosine_gap(torch.full((20_000,), concentration), dimensions)
    angle = torch.linspace(0, math.pi, 20_001)
    log_density = (
        concentration * (angle.cos() - 1) + (dimensions - 2) * angle.sin().clamp_min(1e-300).log()
    )
    density = (log_density - log_density.max()).exp()
    cdf = torch.cumulative_trapezoid(density, angle)
    cdf = torch.cat([torch.zeros(1), cdf / cdf[-1]]).numpy()
    drawn = torch.arccos(1 - gap).numpy()
    found = stats.kstest(drawn, lambda t: numpy.interp(t, angle.numpy(), cdf))
    assert found.pvalue > 1e-4
    q = about(dimensions, concentration)
    x = q.sample((20_000,))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(20_000))
    error = x.std(0) / len(x) ** 0.5
    assert ((x.mean(0) - q.mean).abs() <= 5 * error).all()


@pytest.mark.parametrize(
    "dimensions, concentration",
    [
        (2, 0.01),
        (2, 3.0),
        (2, 400.0),
        (3, 0.2),
        (3, 30.0),
        (3, 5e3),
        (8, 2.0),
        (100, 50.0),
        (100, 5e3),
    ],
)
def test_the_implicit_slope_holds_the_quantile(dimensions: int, concentration: float) -> None:
    """Against a finite difference of quantiles of a fine grid, at the tails and the middle."""
    quantiles = torch.tensor([1e-4, 0.03, 0.3, 0.5, 0.8, 0.99, 0.9999])
    step = 1e-3 * max(concentration, 0.1)
    down, up = [_gap_quantiles(dimensions, concentration + s, quantiles) for s in (-step, step)]
    gap = _gap_quantiles(dimensions, concentration, quantiles)
    k = torch.full_like(gap, concentration)
    mean = Directions(torch.eye(dimensions)[0], k).mean_cosine
    slope = gap_slope(gap, k, mean, dimensions)
    expected = (up - down) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-7 * expected.abs().max().item())


def _gap_quantiles(dimensions: int, concentration: float, quantiles: Tensor) -> Tensor:
    """Of the gap, by the trapezoid rule over the angle."""
    d = dimensions - 2
    mode = math.acos(min(1.0, 2 * concentration / max(d + math.hypot(d, 2 * concentration), 1e-9)))

    def log_density(t: float) -> float:
        return concentration * math.cos(t) + (d * math.log(math.sin(t)) if d else 0.0)

    top = log_density(max(mode, 1e-9))
    spread = 1 / math.sqrt(concentration + d / max(math.sin(mode), 1e-3) ** 2 + 1e-2)
    low, high = max(0.0, mode - 14 * spread), min(math.pi, mode + 14 * spread)
    t = torch.linspace(low, high, 400_001)
    inner = t.clamp(1e-12, math.pi - 1e-12)
    density = (concentration * inner.cos() + d * inner.sin().log() - top).exp()
    mass = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, t)])
    mass = mass / mass[-1]
    index = torch.searchsorted(mass, quantiles)
    share = (quantiles - mass[index - 1]) / (mass[index] - mass[index - 1])
    angle = t[index - 1] + share * (t[index] - t[index - 1])
    return 2 * (angle / 2).sin().square()


def test_reparameterised_gradients() -> None:
    r""":math:`\nabla E[a^\top x]` by direction and concentration: the mean's own, in closed form.

    Within 5 standard errors of 50,000 draws: fails by chance once in 100,000 seeds.
    """
    torch.manual_seed(0)
    rows, a = 50_000, torch.tensor([0.3, -1.0, 0.5, 2.0])
    raw = torch.tensor([1.0, 0.5, -0.2, 0.1]).repeat(rows, 1).requires_grad_()
    k = torch.full((rows,), 3.0, requires_grad=True)
    q = Directions(torch.nn.functional.normalize(raw, dim=-1), k)
    found = torch.autograd.grad((q.rsample() @ a).sum(), [raw, k], retain_graph=True)
    exact = torch.autograd.grad((q.mean @ a).sum(), [raw, k])
    for each, truth in zip(found, exact, strict=True):
        error = each.std(0) / rows**0.5
        assert ((each.mean(0) - truth[0]).abs() <= 5 * error).all()


def test_a_spherical_autoencoder() -> None:
    p = Joint({"z": UniformSphere(3), "x | z": Gaussian(4, MLP(3, 8))})
    q = Joint({"z | x": VonMisesFisher(3, MLP(4, 8))})
    model, x = LatentVariableModel(p, q), torch.randn(6, 4)
    evidence = model.evidence({"x": x}, particles=3)
    assert evidence.closed_kl("z").shape == (6,)
    value = elbo(evidence, "analytic")
    value.sum().backward()
    assert all([w.grad is not None and w.grad.isfinite().all() for w in model.parameters()])
    assert model.sample(5)["z"].value.shape == (5, 3)


def test_what_is_no_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="2 dimensions or more"):
        VonMisesFisher(1)
    with pytest.raises(ValueError, match="2 dimensions or more"):
        UniformSphere(1)
    with pytest.raises(ValueError, match="one concentration a direction"):
        VonMisesFisher(3, concentration="dimension")
