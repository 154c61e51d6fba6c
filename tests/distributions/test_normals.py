"""Normals of every structure of covariance: golden values, marginals, divergences."""

from __future__ import annotations

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from deeplvm.distributions import (
    DiagonalNormal,
    FullCovarianceNormal,
    LowRankNormal,
    LowRankPrecisionNormal,
)


def full(event: tuple[int, ...] = (4,)) -> FullCovarianceNormal:
    torch.manual_seed(0)
    size = torch.Size(event).numel()
    factor = torch.randn(3, size, size).tril(-1) + torch.diag_embed(torch.rand(3, size) + 0.5)
    return FullCovarianceNormal(torch.randn(3, *event), factor, len(event))


def diagonal() -> DiagonalNormal:
    torch.manual_seed(1)
    return DiagonalNormal(torch.randn(3, 4), torch.rand(3, 4) + 0.5, 1)


def standard() -> DiagonalNormal:
    return DiagonalNormal(torch.zeros(4), torch.ones(4), 1, standard=True)


def low_rank() -> LowRankNormal:
    torch.manual_seed(2)
    return LowRankNormal(torch.randn(3, 4), torch.randn(3, 4, 2), torch.rand(3, 4) + 0.5)


def precision() -> LowRankPrecisionNormal:
    torch.manual_seed(3)
    return LowRankPrecisionNormal(torch.randn(3, 4), torch.randn(3, 4, 2), torch.rand(3, 4) + 0.5)


NORMALS = {
    "diagonal": diagonal,
    "standard": standard,
    "full": full,
    "low rank": low_rank,
    "low-rank precision": precision,
}


def as_torch(normal: DiagonalNormal | FullCovarianceNormal) -> MultivariateNormal:
    if isinstance(normal, DiagonalNormal):
        return MultivariateNormal(normal.mean, torch.diag_embed(normal.variance))
    return MultivariateNormal(normal.mean, normal.covariance_matrix)


def test_r25_golden_divergence() -> None:
    q = DiagonalNormal(torch.tensor([1.0]), torch.tensor([0.5]), 1)
    p = DiagonalNormal(torch.zeros(1), torch.ones(1), 1)
    assert kl_divergence(q, p).item() == pytest.approx(0.818147180560, abs=1e-12)


def test_r251_golden_full_covariance() -> None:
    factor = torch.tensor([[0.8, 0.0], [0.4, 0.6]])
    q = FullCovarianceNormal(torch.tensor([0.5, -0.3]), factor)
    z = q.mean + factor @ torch.tensor([0.2, -1.0])
    torch.testing.assert_close(z, torch.tensor([0.66, -0.82]))
    assert q.log_prob(z).item() == pytest.approx(-1.623907891329, abs=1e-12)
    prior = DiagonalNormal(torch.zeros(2), torch.ones(2), 1, standard=True)
    assert kl_divergence(q, prior).item() == pytest.approx(0.483969175080, abs=1e-12)


@pytest.mark.parametrize("p", NORMALS.values(), ids=NORMALS.keys())
@pytest.mark.parametrize("q", NORMALS.values(), ids=NORMALS.keys())
def test_every_pair_has_its_divergence(q, p) -> None:
    expected = kl_divergence(as_torch(q()), as_torch(p()))
    torch.testing.assert_close(kl_divergence(q(), p()), expected)
    particles = torch.Size((5, 3))
    torch.testing.assert_close(
        kl_divergence(q().expand(particles), p().expand(particles)), expected.expand(particles)
    )


@pytest.mark.parametrize("make", [diagonal, full, low_rank, precision])
def test_a_divergence_is_one_graph(make) -> None:
    torch._dynamo.reset()
    traced = torch.compile(kl_divergence, fullgraph=True, backend="eager")(make(), standard())
    torch.testing.assert_close(traced, kl_divergence(make(), standard()))


@pytest.mark.parametrize("make", NORMALS.values(), ids=NORMALS.keys())
def test_entropy_is_torchs(make) -> None:
    normal = make()
    torch.testing.assert_close(normal.entropy(), as_torch(normal).entropy())


def test_divergence_of_different_events_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one event shape, found \(4,\) for q and \(2, 2\)"):
        kl_divergence(full(), full((2, 2)))


def test_diagonal_normal_is_an_independent_normal() -> None:
    normal = diagonal()
    twin = Independent(Normal(normal.loc, normal.scale), 1)
    value = torch.randn(5, 3, 4)
    assert isinstance(normal, Independent)
    torch.testing.assert_close(normal.log_prob(value), twin.log_prob(value))
    torch.testing.assert_close(normal.base_dist.log_prob(value).sum(-1), twin.log_prob(value))
    torch.testing.assert_close(kl_divergence(normal, twin), torch.zeros(3))


@pytest.mark.parametrize("make", [full, low_rank, precision])
def test_empirical_covariance(make) -> None:
    """R2.5.1: within 6 standard errors of 1e5 draws; seed fixed."""
    normal = make()
    torch.manual_seed(4)
    draws = normal.sample((100_000,))
    for row in range(3):
        empirical = torch.cov(draws[:, row].T)
        expected = normal.covariance_matrix[row]
        variance = expected.diagonal()
        error = ((variance[:, None] * variance + expected.square()) / 100_000).sqrt()
        assert ((empirical - expected).abs() < 6 * error).all()


@pytest.mark.parametrize("make", [full, low_rank, precision])
@pytest.mark.parametrize(
    "observed", [(1, 1, 1, 1), (0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)], ids=str
)
def test_marginal_of_the_observed(make, observed: tuple[int, ...]) -> None:
    normal = make()
    keep = torch.tensor(observed, dtype=torch.bool)
    value = torch.randn(3, 4).masked_fill(~keep, torch.nan)
    log_prob = normal.observed_log_prob(value, keep.expand(3, 4))
    for row in range(3):
        if not keep.any():
            assert log_prob[row] == 0
            continue
        covariance = normal.covariance_matrix[row][keep][:, keep]
        expected = stats.multivariate_normal.logpdf(
            value[row, keep], normal.mean[row, keep], covariance
        )
        assert log_prob[row].item() == pytest.approx(expected, abs=1e-10)


def test_upper_triangle_has_no_gradient() -> None:
    """R2.5.1: the mask, and not luck, keeps what stands above the diagonal out."""
    from deeplvm.conditionals import FullCovarianceGaussian

    posterior = FullCovarianceGaussian(3, torch.nn.Linear(2, 5))
    layer = posterior.head.layer
    posterior(torch.randn(8, 2)).log_prob(torch.randn(8, 3)).sum().backward()
    below = layer.bias.grad[6:].reshape(3, 3)
    assert torch.equal(below.triu(), torch.zeros(3, 3))
    assert (below.tril(-1) != 0).sum() == 3


def test_low_rank_survives_columns_that_are_alike() -> None:
    """Two equal, huge columns: I + V^T V is singular to rounding in both precisions."""
    for dtype in (torch.float32, torch.float64):
        factor = torch.full((3, 2), 1e4, dtype=dtype)
        normal = LowRankNormal(
            torch.zeros(3, dtype=dtype), factor, torch.full((3,), 1e-3, dtype=dtype)
        )
        assert normal.log_prob(torch.ones(3, dtype=dtype)).isfinite()


def test_expected_square_has_the_reparameterised_gradient() -> None:
    """R2.4: d E[z^2] / d (mu, sigma) = (2 mu, 2 sigma), within 4 standard errors; seed fixed."""
    torch.manual_seed(5)
    loc = torch.tensor([0.7], requires_grad=True)
    scale = torch.tensor([1.3], requires_grad=True)
    z, _ = DiagonalNormal(loc, scale, 1).rsample_and_log_prob((200_000,))
    z.square().mean().backward()
    assert loc.grad.item() == pytest.approx(1.4, abs=4 * 2 * 1.3 / 447)
    assert scale.grad.item() == pytest.approx(2.6, abs=4 * 5 / 447)


def test_quadrature_of_the_correlated_density() -> None:
    normal = LowRankNormal(torch.zeros(2), torch.tensor([[1.0], [0.5]]), torch.tensor([0.5, 0.7]))

    def density(y: float, x: float) -> float:
        return normal.log_prob(torch.tensor([x, y])).exp().item()

    total, _ = integrate.dblquad(density, -6, 6, -6, 6, epsabs=1e-3, epsrel=1e-3)
    assert total == pytest.approx(1, abs=2e-3)
