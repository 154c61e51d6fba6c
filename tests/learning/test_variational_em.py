"""Variational EM: an exact E-step is exact EM, and any other loses what theory says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    StandardNormal,
)
from deeplvm.gradients import Enumerated
from deeplvm.inference import localised
from deeplvm.learning import exact_em, variational_em
from deeplvm.learning.closed_forms import linear_gaussian_of
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.training import History
from training_models import learn


def full() -> FullCovarianceGaussian:
    return FullCovarianceGaussian(2, MLP(5))


@dataclass(frozen=True)
class Learned:
    """A model with the q of each row, its rows, and how it went."""

    model: LatentVariableModel
    data: dict[str, torch.Tensor]
    history: History


def em(
    model: LatentVariableModel,
    x: torch.Tensor,
    epochs: int,
    batch_size: int = 1_000,
    only: int | None = None,
    fit_options: dict[str, Any] | None = None,
    **options: Any,
) -> Learned:
    """Variational EM; with ``only=1`` E-steps alone."""
    local = localised(model, len(x))
    data = {"x": x, "row": torch.arange(len(x))}
    phases = variational_em(local, **options)[:only]
    history = learn(local, data, phases, epochs, batch_size=batch_size, **(fit_options or {}))
    return Learned(local, data, history)


def test_a_converged_e_step_has_the_likelihood_as_its_bound(tb1: Any) -> None:
    model = tb1.model(posterior=full())
    learn(model, {"x": tb1.x}, exact_em(model), 20)
    learned = em(model, tb1.x, 1, only=1, steps=600, learning_rate=0.1, particles=2)
    truth = tb1.log_px(model).detach()
    assert learned.history.values()[-1] == pytest.approx(float(truth.mean()), abs=1e-4)
    found = importance_sampling(learned.model, learned.data, particles=20)
    assert torch.allclose(found.elbo, truth, atol=1e-3)


def test_a_diagonal_q_loses_the_divergence_of_the_best_of_its_family(tb1: Any) -> None:
    """R2.1c: 1/2 (sum log (S^-1)_ii + log det S), the same for every row."""
    model = tb1.model(posterior=Gaussian(2, MLP(5)))
    learn(model, {"x": tb1.x}, exact_em(model), 20)
    learned = em(model, tb1.x, 1, only=1, steps=600, learning_rate=0.1, particles=16)
    weight, _, variance = linear_gaussian_of(model).parameters()  # type: ignore[union-attr]
    precision = torch.eye(2) + weight.T @ weight / variance[0]
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    found = importance_sampling(learned.model, learned.data, particles=2000)
    assert float(gap) > 0.01
    loss = tb1.log_px(model).detach() - found.elbo
    assert abs(float(loss.mean() - gap)) < 4 * float(loss.std()) / 60**0.5 + 2e-3


def test_with_exact_e_steps_the_iterates_are_those_of_exact_em(tb1: Any) -> None:
    one, other = tb1.model(posterior=full()), tb1.model(posterior=full())
    learn(other, {"x": tb1.x}, exact_em(other), 1)
    em(one, tb1.x, 1, steps=700, learning_rate=0.3, particles=1, m_step="closed form")
    for mine, theirs in zip(one.p.parameters(), other.p.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=4e-3)


@pytest.mark.parametrize("family, batch_size", [("full", 60), ("common covariance", 35)])
def test_it_reaches_the_maximum_likelihood(tb1: Any, family: str, batch_size: int) -> None:
    """RA.2.2, within 0.01 nats a row."""
    model = tb1.model(posterior=full() if family == "full" else None)
    learned = em(model, tb1.x, 45, steps=12, particles=1, batch_size=batch_size)
    assert float(tb1.log_px(model).detach().mean()) > tb1.maximum - 0.01
    found = importance_sampling(learned.model, learned.data, particles=50)
    assert float(found.elbo.mean()) == pytest.approx(tb1.maximum, abs=0.02)


def test_gradient_m_steps_reach_it_too(tb1: Any) -> None:
    model = tb1.model(posterior=full())
    em(model, tb1.x, 45, steps=5, particles=2, m_step="gradient", m_steps=8, m_learning_rate=0.2)
    assert float(tb1.log_px(model).detach().mean()) > tb1.maximum - 0.01


def test_a_discrete_latent_is_enumerated() -> None:
    """Local categories become the responsibilities: the bound is the likelihood."""
    torch.manual_seed(0)
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    x = (torch.rand(8, 4) < 0.5).double()
    draw = {"y": Enumerated()}
    learned = em(
        model, x, 1, only=1, steps=400, learning_rate=0.2, particles=1, draw=draw,
        fit_options={"draw": draw},
    )  # fmt: skip
    truth = importance_sampling(model, {"x": x}, draw=draw).log_px
    assert learned.history.values()[-1] == pytest.approx(float(truth.mean()), abs=1e-4)


def test_nothing_but_p_is_changed_and_the_seed_decides(tb1: Any) -> None:
    torch.manual_seed(0)
    first, second = (tb1.model("global", Gaussian(2, MLP(5, 4))) for _ in range(2))
    second.load_state_dict(first.state_dict())
    before = [each.clone() for each in first.q.parameters()]
    first.train()
    state = torch.random.get_rng_state()
    for model in (first, second):
        em(model, tb1.x[:7], 2, steps=3, fit_options={"seed": 3})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.training
    assert all(map(torch.equal, before, first.q.parameters()))
    assert all(map(torch.equal, first.p.parameters(), second.p.parameters()))
    assert all([each.grad is None for each in first.parameters()])


def test_what_makes_no_sense_is_refused(tb1: Any) -> None:
    model = tb1.model()
    with pytest.raises(ValueError, match="no parameters of single rows"):
        variational_em(model)
    with pytest.raises(ValueError, match="steps is at least 1, found 0"):
        em(model, tb1.x, 1, steps=0)
    with pytest.raises(ValueError, match="not 'exact'"):
        em(model, tb1.x, 1, m_step="exact")
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(5, MLP(2, 8))})
    deep = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(5))}))
    with pytest.raises(ValueError, match="has no closed form here"):
        em(deep, tb1.x, 1, m_step="closed form")
