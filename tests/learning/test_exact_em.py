"""Exact EM: iterates, optima and likelihoods against other people's formulas and code."""

from __future__ import annotations

import math
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import (
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    Mixture,
    OneHot,
    StandardNormal,
)
from deeplvm.data import load
from deeplvm.gradients import Enumerated
from deeplvm.learning.closed_forms import correlated_mixtures_of, linear_gaussian_of, mixture_of
from deeplvm.learning.em import exact_em
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.recipes import factor_analysis
from deeplvm.training import (
    Callback,
    Machine,
    Optimization,
    Phase,
    Saving,
    Stopping,
    TrainingInterrupted,
    fit,
)
from training_models import learn


def em(
    model: LatentVariableModel,
    data: Any,
    iterations: int = 500,
    batch_size: int = 100_000,
    **options: Any,
) -> Any:
    """Exact EM; what is measured besides is nothing of interest."""
    measure = Stopping(measure=lambda *_: 0.0)
    phases = exact_em(model, **options)
    return learn(model, data, phases, iterations, stopping=measure, batch_size=batch_size)


def log_px(history: Any) -> list[float]:
    """Before each M-step."""
    return [each["objective"] for each in history.epochs]


def rising(history: Any) -> bool:
    return all([after >= before - 1e-10 for before, after in pairwise(log_px(history))])


def test_principal_components_reach_the_maximum(tb1: Any) -> None:
    model = tb1.model()
    learned = em(model, {"x": tb1.x}, iterations=2000, tolerance=1e-12)
    assert learned.stopped == "phases"
    assert rising(learned)
    assert log_px(learned)[-1] == pytest.approx(tb1.maximum, abs=1e-7)
    assert float(tb1.log_px(model).detach().mean()) == pytest.approx(
        log_px(learned)[-1], abs=1e-10
    )
    # q is the posterior now: every draw gives log p(x)
    bound = elbo(model.evidence({"x": tb1.x}, particles=3))
    assert torch.allclose(bound, tb1.log_px(model), atol=1e-10)


def test_the_iterates_are_those_of_roweis(tb1: Any) -> None:
    """Sensible PCA (Roweis 1998, section 4), on centred data, written as he does."""
    x = (tb1.x - tb1.x.mean(0)).T  # (D, N)
    model = tb1.model()
    with torch.no_grad():
        model.p["x"].head.layer.bias.zero_()
    linear: Any = linear_gaussian_of(model)
    c, _, variance = linear.parameters()
    noise, count = float(variance[0]), x.shape[1]
    for _ in range(7):
        beta = c.T @ torch.linalg.inv(c @ c.T + noise * torch.eye(5))
        mean = beta @ x
        second = count * (torch.eye(2) - beta @ c) + mean @ mean.T
        c = x @ mean.T @ torch.linalg.inv(second)
        noise = float((x @ x.T - c @ mean @ x.T).trace()) / (count * 5)
    em(model, {"x": x.T}, iterations=7, tolerance=-1.0)
    weight, bias, variance = linear.parameters()
    assert torch.allclose(weight, c, atol=1e-10)
    assert float(variance[0]) == pytest.approx(noise, abs=1e-10)
    assert float(bias.abs().max()) < 1e-10


def test_factor_analysis_is_that_of_scikit_learn(tb1: Any) -> None:
    model = tb1.model("dimension")
    learned = em(model, {"x": tb1.x}, iterations=5000, tolerance=1e-12)
    other = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(tb1.x.numpy())
    assert log_px(learned)[-1] == pytest.approx(other.score(tb1.x.numpy()), abs=1e-5)


def test_a_fixed_noise_stays(tb1: Any) -> None:
    model = tb1.model(0.5)
    learned = em(model, {"x": tb1.x})
    assert rising(learned)
    assert linear_gaussian_of(model).parameters()[2].sqrt().tolist() == [0.5] * 5  # type: ignore[union-attr]


@pytest.mark.parametrize("scale", ["global", "dimension"])
def test_missing_elements_are_left_out_exactly(tb1: Any, scale: str) -> None:
    """At the end the gradient of the marginal likelihood of what is observed is zero."""
    x = tb1.x.clone()
    x[torch.rand(x.shape) < 0.25] = math.nan
    x[3] = math.nan  # a row of which nothing is known
    model = tb1.model(scale)
    learned = em(model, {"x": x}, iterations=20_000, tolerance=1e-13)
    assert rising(learned)
    seen = ~x.isnan().all(1)
    value = tb1.log_px(model, x[seen]).sum() / 60
    assert value.item() == pytest.approx(log_px(learned)[-1], abs=1e-10)
    gradients = torch.autograd.grad(value, list(model.p.parameters()))
    assert max([float(each.abs().max()) for each in gradients]) < 1e-5


@pytest.mark.parametrize("noise", ["global", "dimension"])
def test_the_recipe_with_its_units_is_learned_and_evaluated(
    tb1: Any, tmp_path: Path, noise: Any
) -> None:
    """In the data's own units, by the same evaluation as every model."""
    x = tb1.x * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0])
    np.save(tmp_path / "x.npy", x.numpy())
    data = load(tmp_path / "x.npy", likelihood="gaussian")
    model = factor_analysis(data, latent=2, noise=noise)
    learned = em(model, data.train, iterations=200)
    estimate = importance_sampling(model, data.train, particles=2000)
    assert float(estimate.log_px.mean()) == pytest.approx(log_px(learned)[-1], abs=1e-3)
    assert float((estimate.log_px - estimate.elbo).abs().max()) < 1e-4


def mixture(
    components: int, scale: str, prior: Any = Categorical, dims: int = 2
) -> LatentVariableModel:
    p = Joint(
        {
            "y": prior(components),
            "x | y": Gaussian(dims, MLP(components), scale=scale, minimum_scale=1e-6),
        }
    )
    return LatentVariableModel(p, Joint({"y | x": prior(components, MLP(dims))}))


def lumps() -> Tensor:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-1.0, 4.0]])
    scales = torch.tensor([[1.0, 0.5], [0.3, 0.8], [0.7, 0.7]])
    y = torch.multinomial(torch.tensor([0.5, 0.2, 0.3]), 150, replacement=True)
    return centres[y] + scales[y] * torch.randn(150, 2)


@pytest.mark.parametrize("prior", [Categorical, OneHot])
def test_mixtures_are_those_of_scikit_learn(prior: Any) -> None:
    """From the same start, the same iterates."""
    x = lumps()
    model = mixture(3, "network", prior)
    first = em(model, {"x": x}, start="data", iterations=1, tolerance=-1.0)
    assert len(first.epochs) == 1
    law: Any = mixture_of(model)
    log_weights, means, variances = (each.numpy() for each in law.parameters())
    other = SklearnMixture(
        3, covariance_type="diag", tol=0.0, reg_covar=0.0, max_iter=25,
        weights_init=np.exp(log_weights), means_init=means, precisions_init=1 / variances,
    )  # fmt: skip
    with pytest.warns(match="did not converge"):
        other.fit(x.numpy())
    learned = em(model, {"x": x}, iterations=25, tolerance=-1.0)
    assert rising(learned)
    _, means, variances = law.parameters()
    assert np.allclose(means, other.means_, atol=1e-6)
    assert np.allclose(variances, other.covariances_, atol=1e-6)
    assert log_px(learned)[-1] == pytest.approx(other.score(x.numpy()), abs=1e-6)
    exact = importance_sampling(model, {"x": x}, draw={"y": Enumerated()})
    assert float(exact.log_px.mean()) == pytest.approx(log_px(learned)[-1], abs=1e-10)


@pytest.mark.parametrize("scale", ["network", "dimension", "global"])
def test_mixtures_with_holes_rise_to_a_stationary_point(scale: str) -> None:
    x = lumps()
    x[torch.rand(x.shape) < 0.2] = math.nan
    model = mixture(2, scale)
    learned = em(model, {"x": x}, start="data", iterations=5000, tolerance=1e-13)
    assert rising(learned)
    value = importance_like(model, x)
    assert value.item() == pytest.approx(log_px(learned)[-1], abs=1e-10)
    gradients = torch.autograd.grad(value, list(model.p.parameters()))
    assert max([float(each.abs().max()) for each in gradients]) < 1e-5


def importance_like(model: LatentVariableModel, x: Tensor) -> Tensor:
    """The marginal by summing p over y, through the model's own joint."""
    values = [
        model.p({"y": torch.full((len(x),), float(k)), "x": x}, missing=frozenset("x")).log_prob
        for k in range(model.p["y"].classes)
    ]
    return torch.logsumexp(torch.stack(values), 0).mean()


def correlated(*classes: int) -> LatentVariableModel:
    """Mixtures of Gaussians with full covariances, themselves mixed."""
    one = partial(FullCovarianceGaussian, 2, minimum_scale=1e-6)
    members = [Mixture([one() for _ in range(n)]) for n in classes]
    return LatentVariableModel(Joint({"x": members[0] if len(members) == 1 else Mixture(members)}))


def test_full_covariances_are_those_of_scikit_learn() -> None:
    x = lumps() @ torch.tensor([[1.0, 0.7], [0.0, 1.0]])
    model = correlated(3)
    em(model, {"x": x}, start="data", iterations=1, tolerance=-1.0)
    (law,) = correlated_mixtures_of(model)
    log_weights, means, factors = law.parameters()
    other = SklearnMixture(
        3, tol=0.0, reg_covar=0.0, max_iter=25, weights_init=log_weights.exp().numpy(),
        means_init=means.numpy(), precisions_init=torch.cholesky_inverse(factors).numpy(),
    )  # fmt: skip
    with pytest.warns(match="did not converge"):
        other.fit(x.numpy())
    learned = em(model, {"x": x}, iterations=25, tolerance=-1.0)
    assert rising(learned)
    _, means, factors = law.parameters()
    assert np.allclose(means, other.means_, atol=1e-6)
    assert np.allclose(factors @ factors.mT, other.covariances_, atol=1e-6)
    exact = importance_sampling(model, {"x": x})
    assert float(exact.log_px.mean()) == pytest.approx(other.score(x.numpy()), abs=1e-6)


def test_full_covariances_with_holes_rise_to_a_stationary_point() -> None:
    x = lumps() @ torch.tensor([[1.0, 0.7], [0.0, 1.0]])
    x[torch.rand(x.shape) < 0.2] = math.nan
    x[3] = math.nan  # a row of which nothing is known
    model = correlated(2)
    learned = em(model, {"x": x}, start="data", iterations=5000, tolerance=1e-13, batch_size=40)
    assert rising(learned)
    seen = x[~x.isnan().all(1)]
    value = model.p({"x": seen}, missing=frozenset("x")).log_prob.sum() / len(x)
    assert value.item() == pytest.approx(log_px(learned)[-1], abs=1e-10)
    gradients = torch.autograd.grad(value, list(model.p.parameters()))
    assert max([float(each.abs().max()) for each in gradients]) < 1e-5


@pytest.mark.parametrize("towards", ["covariance", "variance"])
def test_mixed_mixtures_are_learned_one_by_one_and_shrunk(towards: Any) -> None:
    """Each as it would be alone; a class of one row has the covariance of the prior rows."""
    x = torch.cat([lumps(), torch.tensor([[40.0, -30.0]])])
    both, alone = correlated(1, 2), correlated(2)
    options: dict[str, Any] = {"shrinkage": 0.5, "towards": towards, "tolerance": -1.0}
    em(both, {"x": x}, start="data", iterations=9, **options)
    em(alone, {"x": x}, start="data", iterations=9, seed=1, **options)
    (_, one), (other,) = correlated_mixtures_of(both), correlated_mixtures_of(alone)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, its)
    log_weights, _, factors = one.parameters()
    rare = int(log_weights.argmin())
    assert float(log_weights[rare].exp()) == pytest.approx(1 / 151, rel=1e-3)
    every = (150 * torch.cov(x.T) + 2 * torch.eye(2)) / 153
    every = torch.diag(every.diagonal()) if towards == "variance" else every
    assert torch.allclose((factors @ factors.mT)[rare], 0.5 * 2 * every / 3, rtol=1e-3)


def test_what_is_not_known_is_refused(tb1: Any) -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(5, MLP(2, 8), scale="global")})
    deep = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(5))}))
    with pytest.raises(ValueError, match="not known in closed form here"):
        em(deep, {"x": tb1.x})
    x = tb1.x.clone()
    x[:, 2] = math.nan
    with pytest.raises(ValueError, match="1 elements of 'x' are missing in every row"):
        em(tb1.model(), {"x": x})
    with pytest.raises(ValueError, match="shrinkage is of the full covariances of a mixture"):
        em(tb1.model(), {"x": tb1.x}, shrinkage=0.1)
    with pytest.raises(ValueError, match="'covariance' or 'variance', not 'mean'"):
        em(correlated(2), {"x": tb1.x}, towards="mean")
    with pytest.raises(ValueError, match="'model' or 'data', not 'zero'"):
        em(tb1.model(), {"x": tb1.x}, start="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no 'x' to learn from"):
        em(tb1.model(), {"z": tb1.x})


def test_a_q_of_another_form_is_left_alone(tb1: Any) -> None:
    model = tb1.model(posterior=Gaussian(2, MLP(5, 4)))
    before = [each.clone() for each in model.q.parameters()]
    learned = em(model, {"x": tb1.x}, iterations=3)
    assert all(map(torch.equal, before, model.q.parameters()))
    assert (learned.stopped, len(learned.epochs)) == ("epochs", 3)


def test_the_size_of_batches_changes_nothing_and_a_run_goes_on(tb1: Any, tmp_path: Path) -> None:
    """Sums of batches are the sums of all rows, also those that a checkpoint holds."""
    models = [tb1.model("dimension") for _ in range(3)]
    whole = em(models[0], {"x": tb1.x}, 6)
    parts = em(models[1], {"x": tb1.x}, 6, batch_size=7)
    assert log_px(parts) == pytest.approx(log_px(whole), abs=1e-10)
    options: dict[str, Any] = {"batch_size": 7, "epochs": 6, "quiet": True}

    class Interrupt(Callback):
        def step_ended(self, step: int, objective: Any) -> None:
            if step == 30:  # in the fourth of nine batches of an epoch
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingInterrupted):
        fit(
            models[2], {"x": tb1.x}, phases=exact_em(models[2]), callbacks=[Interrupt()],
            saving=Saving(tmp_path), **options,
        )  # fmt: skip
    again = tb1.model("dimension")
    history = fit(
        again, {"x": tb1.x}, phases=exact_em(again), saving=Saving(tmp_path, resume=True),
        **options,
    )  # fmt: skip
    assert log_px(history) == pytest.approx(log_px(whole), abs=1e-10)
    for one, other in zip(again.p.parameters(), models[1].p.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"kl_weight": 0.5}, "kl_weight has no part"),
        ({"log_prior": lambda model: torch.zeros(())}, "log_prior has no part"),
        ({"optimization": Optimization(clip=1.0)}, "clip has no part"),
        ({"optimization": Optimization(schedule="cosine")}, "schedule has no part"),
        ({"machine": Machine(compile=True)}, "compile=True has no part"),
        ({"estimator": "score_function"}, "would draw nothing"),
    ],
)
def test_an_option_of_gradients_is_refused(tb1: Any, options: Any, named: str) -> None:
    model = tb1.model()
    with pytest.raises(ValueError, match=named):
        fit(model, {"x": tb1.x}, phases=exact_em(model), epochs=1, quiet=True, **options)
    update = exact_em(model)[0].update
    with pytest.raises(ValueError, match="leave out its objective, optimizer"):
        fit(model, {"x": tb1.x}, phases=[Phase(elbo, optimizer="adam", update=update)])
