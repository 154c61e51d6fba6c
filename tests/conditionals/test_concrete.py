"""Relaxed discrete variables have the density of the paper, and a true bound (R2.9d)."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli
from deeplvm.conditionals.concrete import BinaryConcrete, Concrete
from deeplvm.distributions.simplex import Concrete as ConcreteDistribution
from deeplvm.networks import MLP

ALPHA = (0.2, 0.3, 0.5)


def concrete(temperature: float) -> ConcreteDistribution:
    return ConcreteDistribution(torch.tensor(ALPHA).log(), torch.tensor(temperature))


def test_the_golden_value() -> None:
    found = concrete(0.7).log_prob(torch.tensor([0.1, 0.6, 0.3]))
    assert float(found) == pytest.approx(0.444643483378, abs=1e-12)


def test_log_prob_is_torchs() -> None:
    """Torch's own, where that is accurate; any constant in the logits cancels."""
    torch.manual_seed(0)
    logits, temperature = torch.randn(4, 5), torch.tensor(0.8)
    ours = ConcreteDistribution(logits + 3.0, temperature)
    value = ours.sample((6,))
    theirs = RelaxedOneHotCategorical(temperature, logits=logits)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_density_is_normalised_on_the_simplex(temperature: float) -> None:
    """TB6, by the logarithms of ratios to the last element."""
    t = torch.linspace(-45, 45, 601)
    ratios = torch.cartesian_prod(t, t)
    value = torch.cat([ratios, torch.zeros(len(ratios), 1)], -1).log_softmax(-1)
    density = concrete(temperature).log_prob(value.exp()) + value.sum(-1)
    total = density.exp().sum() * (t[1] - t[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0])
def test_the_largest_element_has_the_discrete_probabilities(temperature: float) -> None:
    """By chi-squared and a binomial test; each fails in 1 of 1,000 seeds."""
    torch.manual_seed(0)
    largest = concrete(temperature).sample((20_000,)).argmax(-1)
    counts = torch.bincount(largest, minlength=3)
    assert stats.chisquare(counts, [20_000 * each for each in ALPHA]).pvalue > 1e-3
    bit = BinaryConcrete(1, temperature=temperature)
    torch.nn.init.constant_(bit.head.free, math.log(3 / 7))
    ones = int((bit.embed(bit().sample((20_000,))) > 0.5).sum())
    assert stats.binomtest(ones, 20_000, 0.3).pvalue > 1e-3


def test_draws_have_the_density() -> None:
    """The mean of a ratio of densities is 1: within 5 standard errors, 1 of 10^6 seeds."""
    torch.manual_seed(0)
    value = concrete(0.7).sample((50_000,))
    ratio = (concrete(0.9).log_prob(value) - concrete(0.7).log_prob(value)).exp()
    assert abs(float(ratio.mean()) - 1.0) < 5 * float(ratio.std()) / 50_000**0.5


def test_draws_and_densities_are_finite_at_the_corners() -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([1e4, 0.0, -1e4], dtype=dtype).requires_grad_()
        distribution = ConcreteDistribution(logits, torch.tensor(0.1, dtype=dtype))
        log_prob = distribution.log_prob(distribution.rsample((100,)))
        assert log_prob.isfinite().all()
        assert torch.autograd.grad(log_prob.sum(), logits)[0].isfinite().all()


def test_a_binary_element_is_the_one_of_the_paper() -> None:
    """With the Jacobian of the sigmoid, torch's density on the unit interval."""
    y = torch.linspace(-8, 8, 50).unsqueeze(-1)
    bit = BinaryConcrete(1, temperature=0.4)
    torch.nn.init.constant_(bit.head.free, 0.7)
    jacobian = (y.sigmoid() * (-y).sigmoid()).log().squeeze(-1)
    theirs = RelaxedBernoulli(torch.tensor(0.4), logits=torch.tensor(0.7))
    expected = theirs.log_prob(y.sigmoid()).squeeze(-1) + jacobian
    torch.testing.assert_close(bit().log_prob(y), expected, rtol=1e-6, atol=1e-6)


def test_the_value_is_a_bound_of_the_relaxed_model() -> None:
    """Against log p(x) by quadrature: weights average to p(x), and the bounds are below.

    Within 5 standard errors of 20,000 particles: fails in 1 of 10^6 seeds.
    """
    torch.manual_seed(0)
    likelihood = Bernoulli(3, MLP(1, 4, activation=torch.nn.Tanh))
    p = Joint({"h": BinaryConcrete(1, temperature=0.6), "x | h": likelihood})
    model = LatentVariableModel(p, Joint({"h | x": BinaryConcrete(1, MLP(3, 4), temperature=0.4)}))
    with torch.no_grad():
        for parameter in p["x"].parameters():
            parameter.mul_(4.0)
    x = torch.tensor([[1.0, 0.0, 1.0]])

    def density(y: Tensor) -> Tensor:
        return p["h"]().log_prob(y) + p["x"](p["h"].embed(y)).log_prob(x)

    with torch.no_grad():
        grid = torch.linspace(-80, 80, 200_001).unsqueeze(-1)
        exact = density(grid).logsumexp(0) + (grid[1, 0] - grid[0, 0]).log()
        evidence = model.evidence({"x": x}, particles=20_000)
        weight = (evidence.log_weight.squeeze(-1) - exact).exp()
        assert abs(float(weight.mean()) - 1.0) < 5 * float(weight.std()) / 20_000**0.5
        assert float(elbo(evidence)) < float(exact)
        assert float(elbo(evidence)) < float(iwae(evidence)) + 1e-9


def test_both_say_what_they_expect() -> None:
    with pytest.raises(ValueError, match="positive temperature"):
        Concrete(3, temperature=0.0)
    with pytest.raises(ValueError, match="classes of at least 2"):
        Concrete(1)
    with pytest.raises(ValueError, match="positive temperature"):
        BinaryConcrete(3, temperature=-1.0)


def test_a_step_is_one_graph_and_every_parameter_has_a_gradient() -> None:
    p = Joint({"y": Concrete(3), "h": BinaryConcrete(2), "x | y, h": Bernoulli(3, MLP(5))})
    q = Joint({"y | x": Concrete(3, MLP(3, 4)), "h | x": BinaryConcrete(2, MLP(3, 4))})
    model = LatentVariableModel(p, q)

    def loss(x: Tensor) -> Tensor:
        return -elbo(model.evidence({"x": x}, particles=2, missing=())).mean()

    torch.compile(loss, fullgraph=True, backend="eager")(torch.ones(4, 3)).backward()
    assert all([parameter.grad is not None for parameter in model.parameters()])
