"""Relaxed and straight-through draws are discrete draws in the limit, and biased before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Categorical, OneHot
from deeplvm.core.evidence import Evidence
from deeplvm.gradients import Draw, Sampled, Suited, as_measured
from deeplvm.gradients import relaxation as relaxations
from deeplvm.gradients.gumbel_softmax import GumbelSoftmax, StraightThrough
from deeplvm.gradients.relaxation import Relaxation
from deeplvm.networks import MLP
from deeplvm.training.schedules import linear


def model_of(p: Joint, q: Joint) -> LatentVariableModel:
    """With a decoder that is far from linear."""
    with torch.no_grad():
        for parameter in p["x"].parameters():
            parameter.mul_(3.0)
    return LatentVariableModel(p, q)


def bits(count: int) -> LatentVariableModel:
    network = MLP(count, 6, activation=torch.nn.Tanh)
    p = Joint({"h": Bernoulli(count), "x | h": Bernoulli(3, network)})
    return model_of(p, Joint({"h | x": Bernoulli(count, MLP(3, 4))}))


def one_hot() -> LatentVariableModel:
    p = Joint({"h": OneHot(3), "x | h": Bernoulli(3, MLP(3, 6, activation=torch.nn.Tanh))})
    return model_of(p, Joint({"h | x": OneHot(3, MLP(3, 4))}))


MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "one bit": lambda: bits(1),
    "three bits": lambda: bits(3),
    "one-hot": one_hot,
}


def gradient(
    model: LatentVariableModel,
    way: Draw,
    rows: int,
    objective: Callable[[Evidence], Tensor] = elbo,
) -> Tensor:
    """Of q's parameters, of the mean over rows."""
    x = torch.tensor([[1.0, 0.0, 1.0]]).expand(rows, -1)
    value, _ = model.estimate(objective, {"x": x}, draw={"h": way})
    gradients = torch.autograd.grad(value.mean(), list(model.q.parameters()))
    return torch.cat([each.flatten() for each in gradients])


def stratified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of evenly spaced quantiles: the mean over rows is a quadrature for one element."""

    def even(like: Tensor) -> Tensor:
        assert like[0].numel() == 1
        return ((torch.arange(len(like)) + 0.5) / len(like)).reshape(like.shape)

    monkeypatch.setattr(relaxations, "_uniform", even)


def test_the_bias_vanishes_with_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2.9d on TB2, by quadrature: one bit, against the sum over its two values."""
    torch.manual_seed(0)
    model = bits(1)
    exact = gradient(model, Enumerated(), 1)
    stratified(monkeypatch)
    bias = [
        float((gradient(model, GumbelSoftmax(each), 200_000) - exact).norm() / exact.norm())
        for each in (1.0, 0.3, 0.1, 0.03, 0.01)
    ]
    assert bias == sorted(bias, reverse=True)
    assert bias[0] > 0.1
    assert bias[-1] < 5e-3


def relative_bias(model: LatentVariableModel, way: Draw, rows: int) -> tuple[float, float]:
    """And its standard error, both as parts of the exact gradient's length."""
    exact = gradient(model, Enumerated(), 1)
    found = torch.stack([gradient(model, way, rows) for _ in range(20)])
    error = (found.var(0).sum() / len(found)).sqrt()
    return float((found.mean(0) - exact).norm() / exact.norm()), float(error / exact.norm())


@pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))
def test_the_bias_is_what_the_docstrings_say(make: Callable[[], LatentVariableModel]) -> None:
    """High temperature off by much, low by little, the plain form by something.

    "Something" is 5 standard errors: their squared sum is chi-squared of about 30 degrees of
    freedom, which exceeds that once in 10^7 seeds.
    """
    torch.manual_seed(0)
    model = make()
    high, _ = relative_bias(model, GumbelSoftmax(1.0), 4_000)
    low, error = relative_bias(model, GumbelSoftmax(0.05), 20_000)
    plain, plain_error = relative_bias(model, StraightThrough(), 10_000)
    assert low < 0.02 + 5 * error
    assert high > 3 * low
    assert plain > 5 * plain_error


@pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))
def test_straight_through_is_exact_where_the_objective_is_linear(
    make: Callable[[], LatentVariableModel],
) -> None:
    """The latent's own term, log p - log q, is linear in the value.

    5 standard errors for each of about 25 parameters: fails in 1 of 10,000 seeds.
    """
    torch.manual_seed(0)
    model = make()

    def own(evidence: Evidence) -> Tensor:
        return evidence.expectation(evidence.terms["h"].expand(evidence.batch_shape))

    exact = gradient(model, Enumerated(), 1, own)
    found = torch.stack([gradient(model, StraightThrough(), 500, own) for _ in range(60)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() <= 5 * error + 1e-12).all()


def test_straight_through_values_are_discrete_draws() -> None:
    """Their frequencies, by chi-squared: fails in 1 of 1,000 seeds."""
    torch.manual_seed(0)
    logits = torch.tensor([0.2, 0.3, 0.5]).log()
    one = OneHot(3)
    one.head.free.data.copy_(logits.reshape(one.head.free.shape))
    for way in (GumbelSoftmax(0.7, straight_through=True), StraightThrough()):
        value = way("h", one(), (20_000,), 0).value
        assert set(value.detach().unique().tolist()) == {0.0, 1.0}
        counts = value.detach().sum(0)
        assert stats.chisquare(counts, 20_000 * logits.exp()).pvalue > 1e-3
        bit = Bernoulli(1, mean=0.3)
        ones = int(way("h", bit(), (20_000,), 0).value.sum())
        assert stats.binomtest(ones, 20_000, 0.3).pvalue > 1e-3


def test_straight_through_takes_the_gradient_of_the_relaxed_value() -> None:
    one = OneHot(4)
    found = []
    for way in (GumbelSoftmax(0.7), GumbelSoftmax(0.7, straight_through=True)):
        torch.manual_seed(0)
        value = way("h", one(), (5,), 0).value
        found += torch.autograd.grad((value * torch.arange(4.0)).sum(), one.head.free)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("binary", [True, False])
def test_noise_given_the_value_is_that_of_the_value(binary: bool) -> None:
    """Two ways to the same joint law of noise and value: Kolmogorov-Smirnov, 1 of 1,000 seeds."""
    torch.manual_seed(0)
    logits = torch.tensor([0.9, -0.6, 0.1])
    logits = (logits if binary else logits.log_softmax(-1)).expand(20_000, -1)
    relaxation = Relaxation(logits, binary)
    direct = relaxation.perturbed()
    hard = relaxation.hard(direct)
    again = relaxation.perturbed_given(hard)
    torch.testing.assert_close(relaxation.hard(again), hard)
    for element in range(3):
        for value in (0.0, 1.0):
            chosen = hard[:, element] == value
            test = stats.ks_2samp(direct[chosen, element], again[chosen, element])
            assert test.pvalue > 1e-3 / 6


@pytest.mark.parametrize("binary", [True, False])
def test_slope_of_the_noise_given_the_value(binary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against central differences with the noise held."""
    torch.manual_seed(0)
    logits = torch.randn(50, 3)
    logits = logits if binary else logits.log_softmax(-1)
    hard = Relaxation(logits, binary).hard(torch.randn(50, 3))
    uniform, exponential = torch.rand(50, 3), torch.empty(50, 3).exponential_()
    monkeypatch.setattr(relaxations, "_uniform", lambda _: uniform)
    monkeypatch.setattr(relaxations, "_exponential", lambda _: exponential)
    step = 1e-5
    up, middle, down = [
        Relaxation(logits + d, binary).perturbed_given(hard) for d in (step, 0.0, -step)
    ]
    slope = Relaxation(logits, binary).slope_given(hard, middle)
    torch.testing.assert_close(slope, (up - down) / (2 * step), rtol=1e-7, atol=1e-8)


def test_the_temperature_follows_its_schedule() -> None:
    way = GumbelSoftmax(linear(10, 1.0, 0.5))
    assert float(way.temperature) == 1.0
    way.at(5.0)
    assert float(way.temperature) == 0.75
    again = GumbelSoftmax(linear(10, 1.0, 0.5))
    again.load_state_dict(way.state_dict())
    assert float(again.temperature) == 0.75
    assert "linear" in repr(way)
    assert "0.75" in repr(way)
    fixed = GumbelSoftmax(0.5)
    fixed.at(3.0)
    assert float(fixed.temperature) == 0.5


def test_a_bound_is_measured_with_discrete_draws() -> None:
    """A relaxed value is none, and says so; a straight-through value is an ordinary draw."""
    relaxed, hard = GumbelSoftmax(), GumbelSoftmax(straight_through=True)
    assert not relaxed.bound
    assert hard.bound
    assert isinstance(as_measured(Suited(relaxed)).draw, Sampled)


def test_the_analytic_form_has_the_discrete_divergence() -> None:
    """Of Jang et al.: the divergence is that of the distributions, whatever was drawn."""
    torch.manual_seed(0)
    model = one_hot()
    x = {"x": torch.ones(4, 3)}
    values = []
    for _ in range(2):
        evidence = model.evidence(x, draw={"h": GumbelSoftmax(0.5)})
        values.append(partial(elbo, form="analytic")(evidence) - evidence.terms["x"])
    q, p = (joint["h"](*args).logits for joint, args in ((model.q, (x["x"],)), (model.p, ())))
    exact = -torch.distributions.kl_divergence(
        CategoricalDistribution(logits=q), CategoricalDistribution(logits=p)
    )
    for value in values:
        torch.testing.assert_close(value, exact)


def test_what_has_no_relaxation_is_refused() -> None:
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(3, MLP(3, 4))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(3, 4))}))
    for way in (GumbelSoftmax(), StraightThrough()):
        with pytest.raises(ValueError, match="OneHot"):
            model.evidence({"x": torch.ones(2, 3)}, draw={"y": way})
    with pytest.raises(ValueError, match="positive temperature"):
        GumbelSoftmax(0.0)


@pytest.mark.parametrize(
    "way",
    [GumbelSoftmax(straight_through=True), StraightThrough()],
    ids=["gumbel-softmax", "straight-through"],
)
def test_a_step_is_one_graph(way: torch.nn.Module) -> None:
    model = one_hot()

    def loss(x: Tensor) -> Tensor:
        value, _ = model.estimate(elbo, {"x": x}, draw={"h": way}, missing=())
        return value.mean()

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert compiled(torch.ones(4, 3)).isfinite()
