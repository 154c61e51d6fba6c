"""Monte-Carlo EM: chains of each row's own, and the likelihood they lead to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Categorical, Gaussian
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.learning.closed_forms import linear_gaussian_of
from deeplvm.learning.em import _Chains, monte_carlo_em
from deeplvm.networks import MLP


def test_it_reaches_the_maximum_likelihood_and_teaches_q(tb1: Any) -> None:
    """RA.2.3, within 0.01 nats a row (six seeds: 0.0013 at most)."""
    model = tb1.model()
    learned = monte_carlo_em(
        model, {"x": tb1.x}, epochs=350, batch_size=60, chains=8, steps=3, learning_rate=0.1
    )
    reached = float(tb1.log_px(model).detach().mean())
    assert tb1.maximum - 0.01 < reached <= tb1.maximum
    assert learned.taught
    torch.manual_seed(0)
    bound = float(elbo(model.evidence({"x": tb1.x}, particles=200)).detach().mean())
    assert reached - 0.03 < bound <= reached + 1e-3
    assert 0.6 < learned.acceptance[-1] < 0.95
    # the chains are where the posterior is, over all rows
    linear: Any = linear_gaussian_of(model)
    posterior = linear.posterior(tb1.x)
    spread = posterior.covariance[0].diagonal().sqrt()
    standard = (learned.latents["z"].detach() - posterior.mean) / spread
    assert standard.shape == (8, 60, 2)
    assert abs(float(standard.mean())) < 0.15
    assert float(standard.std()) == pytest.approx(1.0, abs=0.1)


def test_only_the_rows_that_are_seen_move(tb1: Any) -> None:
    model = tb1.model()
    torch.manual_seed(0)
    chains = _Chains(torch.randn(2, 60, 2))
    before, sizes = chains.free.clone(), chains.step_size.clone()
    index = torch.tensor([3, 50, 7])
    space = LatentSpace(model, {"x": tb1.x[index]}, frozenset())
    with torch.no_grad():
        chains.move(space, index, 3)
    moved = (chains.free != before).any(-1).any(0)
    assert set(moved.nonzero().flatten().tolist()) == {3, 50, 7}
    assert set((chains.step_size != sizes).nonzero().flatten().tolist()) == {3, 50, 7}


def test_the_m_step_ascends_the_joint_density(tb1: Any) -> None:
    """One plain gradient step without any transition: its gradient is that of log p(x, z)."""
    model, other = tb1.model(), tb1.model()

    def plain(parameters: list[Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    learned = monte_carlo_em(
        model, {"x": tb1.x}, epochs=1, batch_size=60, optimizer=plain, teach=False, seed=4
    )
    z = learned.latents["z"][0].detach()
    value = other.p({"z": z, "x": tb1.x}).log_prob.mean()
    assert value.item() == pytest.approx(learned.log_joint[0])
    gradients = torch.autograd.grad(value, list(other.p.parameters()))
    for mine, theirs, gradient in zip(
        model.p.parameters(), other.p.parameters(), gradients, strict=True
    ):
        assert torch.allclose(mine, theirs + 0.1 * gradient, atol=1e-12)
    assert all(map(torch.equal, model.q.parameters(), other.q.parameters()))


def test_holes_no_encoder_and_the_state_left_behind(tb1: Any) -> None:
    x = tb1.x.clone()
    x[:5, 1:3] = math.nan
    runs = []
    for _ in range(2):
        model = LatentVariableModel(tb1.model().p, Joint({}))
        model.train()
        state = torch.random.get_rng_state()
        learned = monte_carlo_em(model, {"x": x[:40]}, epochs=4, batch_size=25, seed=1)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.training
        assert not learned.taught
        runs.append([each.detach().clone() for each in model.parameters()])
    assert all(map(torch.equal, *runs))
    assert all([bool(each.isfinite().all()) for each in runs[0]])
    assert learned.to_dict()["rows"] == 40
    assert "Monte-Carlo EM, 40 rows, 4 epochs" in str(learned)


def test_what_makes_no_sense_is_refused(tb1: Any) -> None:
    with pytest.raises(ValueError, match="epochs is at least 1, found 0"):
        monte_carlo_em(tb1.model(), {"x": tb1.x}, epochs=0)
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3))})
    discrete = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    with pytest.raises(ValueError, match="no continuous latent"):
        monte_carlo_em(discrete, {"x": torch.zeros(2, 2)})
