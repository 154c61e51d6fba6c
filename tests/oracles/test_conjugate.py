"""TB4: z ~ N(0, 1), x | z ~ N(z, 1), x = 1, q the prior: log p and the bounds in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.likelihood import importance_sampling
from models import BOUNDS, Function

LOG_PX = -1.515512123485
ELBO, L_2, L_5, L_50 = BOUNDS.values()


def conjugate(shift: float = 0.0) -> LatentVariableModel:
    """The model with q = N(0, 1); all its log-densities moved by ``shift``."""
    p = Joint(
        {
            "z": Function(lambda: Normal(0.0, 1.0)),
            "x | z": Function(lambda z: Shifted(z, torch.ones(()), shift)),
        }
    )
    return LatentVariableModel(p, Joint({"z": Function(lambda: Normal(torch.zeros(()), 1.0))}))


class Shifted(Normal):
    """A normal whose log-density is moved by a constant."""

    def __init__(self, loc: Tensor, scale: Tensor, shift: float) -> None:
        super().__init__(loc, scale, validate_args=False)
        self.shift = shift

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.shift


def hermite(order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return torch.tensor(nodes), torch.tensor(weights / math.sqrt(2 * math.pi))


def test_elbo_and_two_particles_by_quadrature() -> None:
    """R2.6a: the golden ELBO and E[L_2], through the ledger itself at the nodes."""
    nodes, weights = hermite(120)
    log_weight = conjugate().evidence({"x": torch.ones(1)}, particles=1)
    assert log_weight.log_weight.shape == (1, 1)
    p = conjugate().p
    scored = p({"z": nodes, "x": torch.ones(120)})["x"].log_prob  # log w = log p(x | z), q = p(z)
    assert scored is not None
    assert float((weights * scored).sum()) == pytest.approx(ELBO, abs=1e-11)
    pair = torch.logaddexp(scored[:, None], scored[None, :]) - math.log(2)
    assert float(weights @ pair @ weights) == pytest.approx(L_2, abs=5e-8)
    assert float((weights * scored.exp()).sum().log()) == pytest.approx(LOG_PX, abs=1e-11)


def test_golden_bounds_from_draws() -> None:
    """R2.6a: ELBO, L_5, L_50, log p within 4 standard errors; one seed in 4,000 fails."""
    estimate = importance_sampling(conjugate(), {"x": torch.ones(2_000)}, particles=1_000)
    curve = {point.particles: point for point in estimate.curve}
    assert list(curve) == [1, 5, 10, 50, 100, 500, 1_000]
    for particles, golden, known_to in [(1, ELBO, 1e-12), (5, L_5, 2e-4), (50, L_50, 2e-4)]:
        point = curve[particles]
        assert abs(point.value - golden) < 4 * point.stderr + known_to, particles
    assert abs(estimate.mean - LOG_PX) < 4 * estimate.stderr + 5e-4
    assert abs(float(estimate.elbo.mean()) - curve[1].value) < 1e-12


def test_two_particles_from_draws() -> None:
    """R2.6a: E[L_2] of the objective; 4 standard errors, one seed in 16,000 fails."""
    with torch.no_grad():
        values = iwae(conjugate().evidence({"x": torch.ones(200_000)}, particles=2))
    assert abs(values.mean() - L_2) < 4 * values.std() / math.sqrt(200_000)


def test_the_bound_rises_with_particles() -> None:
    """R2.6a: E[L_k] <= E[L_m] for k < m; the differences are of the same draws."""
    curve = importance_sampling(conjugate(), {"x": torch.ones(400)}, particles=2_000).curve
    assert all(point.rise > 0 for point in curve[1:])
    assert all(point.rise > 3 * point.rise_stderr for point in curve[1:])


def test_the_mean_weight_is_unbiased() -> None:
    """R2.6a: E[exp(L_k)] = p(x) for k = 1, 3, 20; 4 standard errors, one seed in 5,000 fails."""
    for particles in (1, 3, 20):
        estimate = importance_sampling(
            conjugate(), {"x": torch.ones(20_000)}, particles=particles, seed=particles
        )
        weights = estimate.log_px.exp()
        error = weights.std() / math.sqrt(20_000)
        assert abs(weights.mean() - math.exp(LOG_PX)) < 4 * error


@pytest.mark.parametrize("particles", [1, 16, 100, 1_003])
def test_the_chunk_size_changes_nothing(particles: int) -> None:
    """R2.6a: same seed, same result up to the rounding of sums, whatever the chunks."""
    x = torch.randn(5)
    results = [
        importance_sampling(conjugate(), {"x": x}, particles=particles, chunk=chunk)
        for chunk in (1, 16, 100, 5_000)
    ]
    for other in results[1:]:
        assert torch.allclose(other.log_px, results[0].log_px, rtol=0, atol=1e-12)
        assert torch.allclose(other.ess, results[0].ess, rtol=1e-10)
        assert torch.allclose(other.pareto_k, results[0].pareto_k, rtol=1e-8, equal_nan=True)
        assert [a.value for a in other.curve] == pytest.approx(
            [b.value for b in results[0].curve], abs=1e-12
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_overflow(dtype: torch.dtype) -> None:
    """R2.6a: log-weights near -1e4 (and 1e4) lose nothing but their own precision."""
    torch.set_default_dtype(dtype)
    x = torch.ones(4, dtype=dtype)
    near = importance_sampling(conjugate(), {"x": x}, particles=200)
    for shift in (-1e4, 1e4):
        far = importance_sampling(conjugate(shift), {"x": x}, particles=200)
        tolerance = 2e-3 if dtype == torch.float32 else 1e-9
        assert torch.allclose(far.log_px - shift, near.log_px, atol=tolerance)
        assert torch.allclose(far.ess, near.ess, rtol=10 * tolerance)


def test_first_particle_is_the_elbo() -> None:
    """R2.6a: one particle is the single-sample ELBO."""
    estimate = importance_sampling(conjugate(), {"x": torch.ones(8)}, particles=1)
    assert torch.equal(estimate.log_px, estimate.elbo)
    assert [point.particles for point in estimate.curve] == [1]
    evidence = conjugate().evidence({"x": torch.ones(8)})
    assert torch.equal(elbo(evidence), iwae(evidence))
