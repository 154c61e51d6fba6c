"""TB2: latents with few values, summed exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.evaluation import latent_use
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from models import binary, every, log_joint


@pytest.mark.parametrize("latents", [1, 4, 12])
def test_enumerated_latents_are_summed_exactly(latents: int) -> None:
    """R1.7, R2.6a on TB2: the same as brute force, whatever q is; the ELBO is exact too."""
    model = binary(latents, 5)
    x = torch.randint(2, (3, 5)).double()
    expected = log_joint(model, x).logsumexp(1)
    draw = {"z": Enumerated()}
    estimate = importance_sampling(model, {"x": x}, particles=7, draw=draw)
    assert torch.allclose(estimate.log_px, expected, rtol=0, atol=1e-10)
    assert estimate.exact
    assert estimate.particles == 1
    assert estimate.monte_carlo_stderr == 0
    evidence = model.evidence({"x": x}, draw=draw)
    assert torch.allclose(iwae(evidence), expected, rtol=0, atol=1e-10)
    assert torch.allclose(estimate.elbo, elbo(evidence), rtol=0, atol=1e-10)


def test_a_mixture_is_a_logsumexp() -> None:
    """R1.7: the marginal of a K-way mixture of Gaussians."""
    components = Categorical(4)
    with torch.no_grad():
        components.head.free.copy_(torch.randn_like(components.head.free))
    p = Joint({"y": components, "x | y": Gaussian(2, MLP(4))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(4, MLP(2))}))
    x = torch.randn(6, 2)
    with torch.no_grad():
        log_prior = torch.log_softmax(components.head.free.flatten(), 0)
        log_px = p["x"](torch.eye(4)[:, None].expand(4, 6, 4)).log_prob(x)
        expected = torch.logsumexp(log_prior[:, None] + log_px, 0)
    estimate = importance_sampling(model, {"x": x}, draw={"y": Enumerated()})
    assert torch.allclose(estimate.log_px, expected, rtol=0, atol=1e-12)


def test_enumerated_label_with_a_sampled_latent() -> None:
    """R2.6a: p(x) = sum_y p(x, y); the data's own labels are left aside for it.

    4 standard errors in each of 5 rows: one seed in 3,000 fails.
    """
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Bernoulli(4, MLP(5, 8))})
    q = Joint({"y | x": Categorical(3, MLP(4)), "z | x": Gaussian(2, MLP(4, 8))})
    model = LatentVariableModel(p, q)
    x, y = torch.randint(2, (5, 4)).double(), torch.randint(3, (5,))
    draw = {"y": Enumerated()}
    total = importance_sampling(model, {"x": x, "y": y}, particles=2_000, draw=draw)
    each = [
        importance_sampling(model, {"x": x, "y": torch.full((5,), k)}, particles=20_000)
        for k in range(3)
    ]
    summed = torch.logsumexp(torch.stack([one.log_px for one in each]), 0)
    error = (total.log_px_stderr.square() + each[0].log_px_stderr.square()).sqrt()
    assert ((total.log_px - summed).abs() < 4 * error).all()
    assert error.max() < 0.02
    assert total.latents == ("y", "z")
    assert not total.exact
    assert latent_use(model, {"x": x}, draw=draw)["y"].shape == (3,)


def test_the_sum_is_exact_whatever_q_says() -> None:
    """A value to which q gives no mass still has its part of log p(x), and of no NaN."""
    p = Joint({"y": Categorical(2), "x | y": Bernoulli(1, MLP(2))})
    q = Joint({"y": Categorical(2)})
    with torch.no_grad():
        label: Any = q["y"]
        label.head.free.copy_(torch.tensor([0.0, -math.inf]))
    model = LatentVariableModel(p, q)
    x = torch.ones(3, 1)
    estimate = importance_sampling(model, {"x": x}, draw={"y": Enumerated()})
    with torch.no_grad():
        each = [model.p({"y": torch.full((3,), y), "x": x}).log_prob for y in (0, 1)]
    assert torch.allclose(estimate.log_px, torch.logsumexp(torch.stack(each), 0))


def test_divergences_of_the_joint_and_of_the_marginal() -> None:
    """R2.7: KL(q(x, z) || p(x, z)) = KL(q_D || p) + E KL(q(z|x) || p(z|x)); so does the ELBO."""
    model = binary(3, 4)
    data = torch.randint(2, (10, 4)).double()
    values, counts = data.unique(dim=0, return_counts=True)
    frequency = counts / counts.sum()
    z = every(3)
    with torch.no_grad():
        q = model.q({"x": values})["z"].distribution
        log_q = q.log_prob(z[:, None])  # (Z, X)
        grid = [model.p({"z": one.expand(len(values), 3), "x": values}).log_prob for one in z]
        log_p = torch.stack(grid)
        evidence = model.evidence({"x": values}, draw={"z": Enumerated()})
    log_px = torch.logsumexp(log_p, 0)
    posterior_gap = (log_q.exp() * (log_q - (log_p - log_px))).sum(0)
    joint = (frequency * (log_q.exp() * (frequency.log() + log_q - log_p)).sum(0)).sum()
    of_marginals = (frequency * (frequency.log() - log_px)).sum()
    assert abs(joint - of_marginals - (frequency * posterior_gap).sum()) < 1e-10
    assert joint >= of_marginals
    # the ELBO is minus the joint divergence up to the entropy of the data
    entropy = -(frequency * frequency.log()).sum()
    assert abs((frequency * elbo(evidence)).sum() + joint + entropy) < 1e-10
    assert (elbo(evidence) - (log_px - posterior_gap)).abs().max() < 1e-10
    assert (posterior_gap >= 0).all()
