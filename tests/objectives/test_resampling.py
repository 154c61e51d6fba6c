"""R2.6c: draws of the importance-weighted posterior."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.objectives import resample


def test_nears_the_posterior(conjugate: LatentVariableModel) -> None:
    """TB4: the distance of Kolmogorov and Smirnov to N(1/2, 1/2) shrinks with the particles.

    20,000 rows: the distance of exact draws is above 0.0138 in 1 of 1,000 seeds.
    """
    posterior = stats.norm(0.5, math.sqrt(0.5))
    distance = []
    for particles in (1, 4, 16, 64):
        evidence = conjugate.evidence({"x": torch.ones(20_000)}, particles=particles)
        drawn = resample(evidence)["z"].value
        assert drawn.shape == (20_000,)
        distance.append(stats.kstest(drawn.numpy(), posterior.cdf).statistic)
    # 0.31, 0.08, 0.02, 0.006: each a third of the one before, at least
    assert all([b < 0.5 * a for a, b in itertools.pairwise(distance[:-1])])
    assert distance[-1] < 0.0138
    assert distance[0] > 0.25


def test_of_two_particles_has_its_own_density(conjugate: LatentVariableModel) -> None:
    """q_IW(z) = E_z2[w q(z) / mean(w(z), w(z2))], by quadrature; exact draws of it pass the test.

    20,000 rows: one seed in 1,000 fails. The bound of two particles is at most its ELBO.
    """
    z = torch.linspace(-7.0, 7.0, 2_001)
    step = z[1] - z[0]
    q = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()
    w = torch.distributions.Normal(z, 1.0).log_prob(torch.ones(())).exp()
    density = (2 * w[:, None] / (w[:, None] + w[None, :]) * q[:, None] * q[None, :]).sum(1) * step
    assert float(density.sum() * step) == pytest.approx(1.0, abs=1e-9)
    cumulative = density.cumsum(0) * step
    drawn = resample(conjugate.evidence({"x": torch.ones(20_000)}, particles=2))["z"].value
    at = torch.searchsorted(z, drawn).clamp(max=2_000)
    empirical = (drawn.argsort().argsort() + 1) / len(drawn)
    distance = float((cumulative[at] - empirical).abs().max())
    assert distance < 0.0138 + float(density.max() * step)
    of_two = float((density * (q.log() + w.log() - density.log())).sum() * step)
    assert -1.65347379 < of_two < -1.515512123485  # E[L_2] and log p


def test_enumerated_values_give_the_posterior() -> None:
    """p(y | x) exactly; the frequencies of 40,000 draws agree in a chi-squared test at 1e-3."""
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    evidence = model.evidence({"x": torch.ones(1, 4)}, draw={"y": Enumerated()})
    posterior = (evidence.log_measure + evidence.log_weight - iwae(evidence)).exp()
    drawn = resample(evidence, draws=40_000)["y"].value
    assert drawn.shape == (40_000, 1)
    counts = torch.bincount(drawn.flatten(), minlength=3)
    expected = 40_000 * posterior.flatten().detach()
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_latents_of_a_row_stay_together() -> None:
    """All names of one particle, also where one was enumerated; p takes the draws as they are."""
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Bernoulli(4, MLP(5))})
    q = Joint({"y | x": Categorical(3, MLP(4)), "z | x, y": Gaussian(2, MLP(7))})
    model = LatentVariableModel(p, q)
    evidence = model.evidence({"x": torch.ones(6, 4)}, particles=5, draw={"y": Enumerated()})
    trace = resample(evidence, draws=7)
    y, z = trace["y"].value, trace["z"].value
    assert (y.shape, z.shape) == ((7, 6), (7, 6, 2))
    for row in range(6):
        known = {
            (float(a[0]), int(b))
            for a, b in zip(
                evidence.q["z"].value.detach()[:, :, row].flatten(0, 1),
                evidence.q["y"].value[:, :, row].flatten(),
                strict=True,
            )
        }
        drawn = {(float(a[0]), int(b)) for a, b in zip(z[:, row], y[:, row], strict=True)}
        assert drawn <= known
    scored = model.p({"x": torch.ones(6, 4), **trace}, trace.batch_shape)
    assert scored.log_prob.shape == (7, 6)
    assert not z.requires_grad


def test_what_cannot_be_resampled(conjugate: LatentVariableModel) -> None:
    with pytest.raises(ValueError, match="set particles=K"):
        resample(conjugate.evidence({"x": torch.ones(3)}))
    assert elbo(conjugate.evidence({"x": torch.ones(3)})).shape == (3,)
