"""The alpha family on TB4 by quadrature, and black-box alpha on weights that all rows share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Normal

from deeplvm import Evidence, Joint, LatentVariableModel, elbo, iwae
from deeplvm.objectives import alpha_energy, renyi, vr_max
from models import Function

Exact = Callable[..., Evidence]


@pytest.mark.parametrize(
    "alpha, golden", [(0.5, -1.657736974647), (0.0, -1.515512123485), (-1.0, -1.360258272038)]
)
def test_golden(conjugate: LatentVariableModel, exact: Exact, alpha: float, golden: float) -> None:
    """R4.5.3o: VR_.5, VR_0 = log p and VR_-1, which is above it."""
    value = renyi(exact(conjugate, torch.ones(1)), alpha)
    assert float(value) == pytest.approx(golden, abs=1e-11)


def test_falls_with_alpha_through_the_elbo(conjugate: LatentVariableModel, exact: Exact) -> None:
    """R4.5.3o: monotone decreasing, continuous at 1, where it is the ELBO."""
    evidence = exact(conjugate, torch.tensor([1.0, -0.3, 2.0]))
    values = torch.stack([renyi(evidence, a) for a in (-1.5, -1, -0.2, 0, 0.5, 0.9, 1, 1.5, 2, 5)])
    assert (values.diff(dim=0) < 0).all()
    for near in (1 - 1e-6, 1 + 1e-6):
        assert torch.allclose(renyi(evidence, near), elbo(evidence), atol=1e-5, rtol=0)
    assert torch.equal(renyi(evidence, 1.0), elbo(evidence))
    assert torch.allclose(renyi(evidence, 0.0), iwae(evidence), atol=1e-12, rtol=0)


def test_of_few_particles_is_the_power_mean(conjugate: LatentVariableModel) -> None:
    """With K draws: the logarithm of the mean of order 1 - alpha, between smallest and largest."""
    evidence = conjugate.evidence({"x": torch.ones(5)}, particles=4)
    weight = evidence.log_weight.exp()
    for alpha in (-2.0, 0.5, 3.0):
        by_hand = weight.pow(1 - alpha).mean(0).pow(1 / (1 - alpha)).log()
        assert torch.allclose(renyi(evidence, alpha), by_hand)
    assert torch.allclose(vr_max(evidence), weight.max(0).values.log())
    assert torch.allclose(renyi(evidence, -3e3), vr_max(evidence), atol=1e-3)
    for alpha in (-1.0, 0.0, 0.5, 2.0):
        one = conjugate.evidence({"x": torch.ones(5)}, particles=1)
        assert torch.allclose(renyi(one, alpha), elbo(one))
        assert torch.equal(vr_max(one), elbo(one))


def test_alpha_energy_of_row_latents_is_renyi(
    conjugate: LatentVariableModel, exact: Exact
) -> None:
    evidence = exact(conjugate, torch.ones(2))
    assert torch.equal(alpha_energy(evidence, 0.3), renyi(evidence, 0.7))
    assert torch.equal(alpha_energy(evidence, 0.0), elbo(evidence))


def test_alpha_energy_of_shared_weights(exact: Exact) -> None:
    """The paper's energy, with its tied site and its normalisers, integrated on a grid.

    log Z(prior) - log Z(q) - 1/alpha sum_n log E_q[(p(x_n | w) / f(w))^alpha], where q is
    proportional to the prior times f^N.
    """
    x = torch.tensor([0.3, -1.0, 2.0])
    n, loc, scale = len(x), 0.4, 0.7
    p = Joint(
        {
            "w": Function(lambda: Normal(torch.zeros(()), torch.ones(()))),
            "x | w": Function(lambda w: Normal(w, 1.0)),
        },
        shared=["w"],
    )
    q = Joint(
        {"w": Function(lambda: Normal(torch.tensor(loc), torch.tensor(scale)))}, shared=["w"]
    )
    evidence = exact(LatentVariableModel(p, q), x, rows=n)

    w = torch.linspace(-8.0, 8.0, 40_001)
    step = float(w[1] - w[0])
    natural_q, natural_p = (loc / scale**2, -0.5 / scale**2), (0.0, -0.5)
    site = ((natural_q[0] - natural_p[0]) * w + (natural_q[1] - natural_p[1]) * w.square()) / n
    log_q = Normal(loc, scale).log_prob(w)

    def log_z(natural: tuple[float, float]) -> float:
        return float(torch.logsumexp(natural[0] * w + natural[1] * w.square(), 0)) + math.log(step)

    for alpha in (0.2, 0.5, 1.0, 3.0):
        inner = alpha * (Normal(w[:, None], 1.0).log_prob(x) - site[:, None])
        expected = torch.logsumexp(inner + log_q[:, None], 0) + math.log(step)
        energy = log_z(natural_p) - log_z(natural_q) - float(expected.sum()) / alpha
        assert float(alpha_energy(evidence, alpha).sum()) == pytest.approx(-energy, abs=1e-9)

    covariance = torch.ones(n, n) + torch.eye(n)
    normal = torch.distributions.MultivariateNormal(torch.zeros(n), covariance)
    log_p = float(normal.log_prob(x))
    assert float(alpha_energy(evidence, float(n)).sum()) > log_p  # Hölder: an upper bound
    assert float(alpha_energy(evidence, 0.0).sum()) < log_p
