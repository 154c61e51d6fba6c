"""Monte-Carlo EM: chains of each row's own, and the likelihood they lead to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Categorical, Gaussian
from deeplvm.learning import PersistentChains, monte_carlo_em
from deeplvm.learning.closed_forms import linear_gaussian_of
from deeplvm.networks import MLP
from deeplvm.training import Optimization, Saving, Stopping, Streams
from training_models import learn


def test_it_reaches_the_maximum_likelihood_and_teaches_q(tb1: Any) -> None:
    """RA.2.3, within 0.01 nats a row (six seeds: 0.0013 at most)."""
    model = tb1.model()
    phases = monte_carlo_em(model, chains=8, steps=3, learning_rate=0.1)
    learn(model, {"x": tb1.x}, phases, epochs=350)
    chains: Any = phases[0].evidence
    reached = float(tb1.log_px(model).detach().mean())
    assert tb1.maximum - 0.01 < reached <= tb1.maximum
    torch.manual_seed(0)
    bound = float(elbo(model.evidence({"x": tb1.x}, particles=200)).detach().mean())
    assert reached - 0.03 < bound <= reached + 1e-3
    assert 0.6 < float(chains.acceptance.mean()) < 0.95
    # the chains are where the posterior is, over all rows
    linear: Any = linear_gaussian_of(model)
    posterior = linear.posterior(tb1.x)
    spread = posterior.covariance[0].diagonal().sqrt()
    standard = (chains.latents(model, {"x": tb1.x})["z"] - posterior.mean) / spread
    assert standard.shape == (8, 60, 2)
    assert abs(float(standard.mean())) < 0.15
    assert float(standard.std()) == pytest.approx(1.0, abs=0.1)


def test_only_the_rows_that_are_seen_move(tb1: Any) -> None:
    model = tb1.model()
    torch.manual_seed(0)
    chains = PersistentChains(chains=2, warmup=0, transitions=1, steps=3)
    chains.prepare(model, lambda n: {"x": tb1.x[:n]}, 60, frozenset())
    chains.free.normal_()
    chains.step_size.fill_(0.3)
    before, sizes = chains.free.clone(), chains.step_size.clone()
    index = torch.tensor([3, 50, 7])
    chains(model, {"x": tb1.x[index]}, index=index)
    moved = (chains.free != before).any(-1).any(0)
    assert set(moved.nonzero().flatten().tolist()) == {3, 50, 7}
    assert set((chains.step_size != sizes).nonzero().flatten().tolist()) == {3, 50, 7}


def test_the_m_step_ascends_the_joint_density(tb1: Any) -> None:
    """One plain gradient step: its gradient is that of log p(x, z)."""
    model, other = tb1.model(), tb1.model()

    def plain(parameters: list[Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    phases = monte_carlo_em(model, teach=False)
    once = Optimization(optimizer=plain, averaging=0.0)
    phases = [replace(each, learning_rate=None) for each in phases]
    learned = learn(model, {"x": tb1.x}, phases, epochs=1, optimization=once, seed=4)
    chains: Any = phases[0].evidence
    z = chains.latents(model, {"x": tb1.x})["z"][0]
    value = other.p({"z": z, "x": tb1.x}).log_prob.mean()
    assert value.item() == pytest.approx(learned.epochs[0]["objective"])
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
        phases = monte_carlo_em(model)
        assert len(phases) == 1
        measure = Stopping(measure=lambda *_: 0.0)
        learn(model, {"x": x[:40]}, phases, epochs=4, batch_size=25, seed=1, stopping=measure)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.training
        runs.append([each.detach().clone() for each in model.parameters()])
    assert all(map(torch.equal, *runs))
    assert all([bool(each.isfinite().all()) for each in runs[0]])


def test_a_run_goes_on_where_its_chains_stood(tb1: Any, tmp_path: Path) -> None:
    whole, halves = tb1.model(), tb1.model()
    rates = Optimization(averaging=0.0)
    options: dict[str, Any] = {"batch_size": 25, "optimization": rates}
    learn(whole, {"x": tb1.x}, monte_carlo_em(whole), epochs=4, **options)
    learn(halves, {"x": tb1.x}, monte_carlo_em(halves), 2, saving=Saving(tmp_path), **options)
    again = tb1.model()
    on = Saving(tmp_path, resume=True)
    learn(again, {"x": tb1.x}, monte_carlo_em(again), epochs=4, saving=on, **options)
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def test_what_makes_no_sense_is_refused(tb1: Any) -> None:
    with pytest.raises(ValueError, match="chains is at least 1, found 0"):
        monte_carlo_em(tb1.model(), chains=0)
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3))})
    discrete = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    with pytest.raises(ValueError, match="no continuous latent"):
        learn(discrete, {"x": torch.zeros(2, 2)}, monte_carlo_em(discrete), epochs=1)
    model = tb1.model()
    with pytest.raises(ValueError, match="train on one source, without Streams"):
        learn(model, Streams({"a": {"x": tb1.x}}), monte_carlo_em(model), epochs=1)
    with pytest.raises(ValueError, match="kl_weight has nothing to weigh"):
        learn(model, {"x": tb1.x}, monte_carlo_em(model), epochs=1, kl_weight=0.5)
