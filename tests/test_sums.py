"""Sums and integrals over the paths of a state: against enumeration, and one large normal."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    ClassPosterior,
    FullCovarianceGaussian,
    Gaussian,
    KalmanSmoother,
    LinearGaussian,
    MemberPosterior,
    OneHot,
)
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.distributions.chains import DiscreteChain
from deeplvm.gradients import Enumerated
from deeplvm.networks import MLP
from deeplvm.recurrent import Recurrent

STEPS, STATES, SEEN = 5, 2, 3
LENGTHS = torch.tensor([3, 5, 1, 4])


def moved(module: nn.Module) -> nn.Module:
    """With parameters away from where they start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for each in module.parameters():
            each.add_(0.3 * torch.randn_like(each))
    return module


def system(
    observed: nn.Module | None = None, *, inputs: int = 0, **options: Any
) -> LatentVariableModel:
    state = LinearGaussian(STATES, inputs)
    observed = observed or Gaussian(SEEN, MLP(STATES), scale="dimension")
    more = ", u" if inputs else ""
    factors = {f"z | z[-1]{more}": state, "x | z": observed}
    return LatentVariableModel(moved(Recurrent(factors, start={"z": state.start}, **options)))  # type: ignore[arg-type]


def one_normal(
    model: LatentVariableModel, u: Tensor | None = None
) -> tuple[MultivariateNormal, Tensor, Tensor]:
    """Of (x_1, ..., x_T) of one row, with the mean of all z and their covariance with all of x.

    Made of the step's own matrices, one moment after another.
    """
    state: Any = model.p.step["z"]
    likelihood: Any = model.p.step["x"]
    matrix = state.step.head.layer.weight
    a, b = matrix[:, :STATES], state.step.head.layer.bias
    noise = state.step(torch.zeros(1, matrix.shape[1])).covariance_matrix[0]
    first = state.first()
    mean, covariance = [first.loc], {(0, 0): first.covariance_matrix}
    for t in range(1, STEPS):
        drift = b if u is None else b + matrix[:, STATES:] @ u[t]
        mean.append(a @ mean[-1] + drift)
        covariance[t, t] = a @ covariance[t - 1, t - 1] @ a.T + noise
        for s in range(t):
            covariance[t, s] = a @ covariance[t - 1, s]
            covariance[s, t] = covariance[t, s].T
    z = torch.cat(mean)
    square = torch.cat(
        [torch.cat([covariance[t, s] for s in range(STEPS)], 1) for t in range(STEPS)]
    )
    c = torch.block_diag(*[likelihood.head.layer.weight[:SEEN]] * STEPS)
    e = likelihood.head.layer.bias[:SEEN].repeat(STEPS)
    at_zero = likelihood(torch.zeros(1, STATES))
    own = (
        at_zero.covariance_matrix[0]
        if isinstance(likelihood, FullCovarianceGaussian)
        else torch.diag(at_zero.variance[0])
    )
    whole = c @ square @ c.T + torch.block_diag(*[own] * STEPS)
    return MultivariateNormal(c @ z + e, whole), z, square @ c.T


def with_holes() -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(4, STEPS, SEEN)
    x[0, 1] = torch.nan  # a whole step
    x[1, 0, 2] = x[1, 4, :2] = torch.nan
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 7.0
    return x


@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_a_kalman_filter_is_the_density_of_one_normal(kind: str) -> None:
    """With missing elements, missing steps and rows of unequal lengths."""
    full = FullCovarianceGaussian(SEEN, MLP(STATES), covariance="global")
    model = system(full if kind == "correlated" else None, length="n")
    x = with_holes()
    evidence = model.evidence({"x": x, "n": LENGTHS}, draw={"z": Enumerated()})
    whole, z_mean, across = one_normal(model)
    path: Any = evidence.p["z"].distribution
    for row, length in enumerate(LENGTHS.tolist()):
        flat = x[row].flatten()
        known = ~flat.isnan() & (torch.arange(STEPS * SEEN) < length * SEEN)
        part = whole.covariance_matrix[known][:, known]
        marginal = MultivariateNormal(whole.mean[known], part)
        assert torch.isclose(
            evidence.log_weight[row], marginal.log_prob(flat[known]), rtol=0, atol=1e-10
        )
        gain = torch.linalg.solve(part, across[:, known].T).T
        exact = z_mean + gain @ (flat[known] - whole.mean[known])
        counted = length * STATES
        assert torch.allclose(path.mean[row].flatten()[:counted], exact[:counted], atol=1e-10)
        assert bool((path.mean[row, length:] == 0).all())
    whole_rows = {"x": x[3:].nan_to_num(), "n": torch.tensor([STEPS])}
    found = model.evidence(whole_rows, draw={"z": Enumerated()}).log_weight
    exact = one_normal(model)[0].log_prob(whole_rows["x"].flatten(1))
    parameters = [*model.p.parameters()]
    wanted = torch.autograd.grad(exact.sum(), parameters)
    for one, other in zip(torch.autograd.grad(found.sum(), parameters), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_a_state_is_integrated_out_with_inputs_in_both_directions_and_of_two_names() -> None:
    torch.manual_seed(0)
    model = system(inputs=2)
    x, u = torch.randn(2, STEPS, SEEN), torch.randn(2, STEPS, 2)
    found = model.evidence({"x": x, "u": u}, draw={"z": Enumerated()}).log_weight
    for row in range(2):
        exact = one_normal(model, u[row])[0].log_prob(x[row].flatten())
        assert torch.isclose(found[row], exact, atol=1e-10)

    plain = system()
    state: Any = plain.p.step["z"]
    backwards = Recurrent(
        {"z | z[+1]": state, "x | z": plain.p.step["x"]}, start={"z": state.start}, length="n"
    )
    turned = torch.zeros(2, STEPS, SEEN)
    for row, n in enumerate([4, 5]):
        turned[row, :n] = x[row, :n].flip(0)
    given = {"x": turned, "n": torch.tensor([4, 5])}
    found = LatentVariableModel(backwards).evidence(given, draw={"z": Enumerated()})
    whole = one_normal(plain)[0]
    for row, n in enumerate([4, 5]):
        k = n * SEEN
        part = MultivariateNormal(whole.mean[:k], whole.covariance_matrix[:k, :k])
        assert torch.isclose(
            found.log_weight[row], part.log_prob(x[row, :n].flatten()), atol=1e-10
        )

    apart = Recurrent(
        {
            "z | z[-1]": state,
            "x | z": plain.p.step["x"],
            "y | z, u": moved(Gaussian(1, MLP(STATES + 2), scale=0.5)),
        },
        start={"z": state.start},
    )
    y = torch.randn(2, STEPS, 1)
    both = LatentVariableModel(apart).evidence({"x": x, "y": y, "u": u}, draw={"z": Enumerated()})
    assert torch.allclose(both.terms["x"], whole.log_prob(x.flatten(1)), atol=1e-10)
    hidden = LatentVariableModel(apart).evidence(
        {"x": x, "y": y * torch.nan, "u": u}, draw={"z": Enumerated()}
    )
    assert torch.allclose(hidden.terms["y"], torch.zeros(2), atol=1e-10)
    assert not torch.allclose(both.terms["y"], torch.zeros(2))


def test_a_kalman_filter_keeps_its_digits_in_single_precision() -> None:
    """Of precise measurements of a part of the state beside a part that is hardly known."""
    model = system(Gaussian(1, MLP(STATES), scale=1e-3, units=(0.0, 1.0)))
    torch.manual_seed(0)
    x = torch.randn(3, 50, 1).cumsum(1)
    exact = model.evidence({"x": x}, draw={"z": Enumerated()})
    single = model.float().evidence({"x": x.float()}, draw={"z": Enumerated()})
    assert torch.allclose(single.log_weight.double(), exact.log_weight, rtol=1e-4)
    path: Any = single.p["z"].distribution
    assert bool((path.variance > 0).all())


def test_states_that_are_not_linear_gaussian_are_not_integrated_out() -> None:
    bent = system(Gaussian(SEEN, MLP(STATES, 4)))
    with pytest.raises(ValueError, match="'x' is not linear Gaussian in it"):
        bent.evidence({"x": torch.zeros(1, STEPS, SEEN)}, draw={"z": Enumerated()})
    state = LinearGaussian(STATES)
    late = Recurrent(
        {"z | z[-1]": state, "x | z, z[-1]": Gaussian(1, MLP(2 * STATES), scale=1.0)},
        start={"z": state.start},
    )
    with pytest.raises(ValueError, match="'x' reads 'z' at another step"):
        LatentVariableModel(late).evidence(
            {"x": torch.zeros(1, STEPS, 1)}, draw={"z": Enumerated()}
        )


def with_exact_potentials(length: str | None) -> LatentVariableModel:
    """A linear system and the q whose potentials are proportional to p(x | z)."""
    p: Any = system(length=length).p
    likelihood = p.step["x"]
    c, e = likelihood.head.layer.weight[:SEEN], likelihood.head.layer.bias[:SEEN]
    precision = c.T / likelihood(torch.zeros(STATES)).variance
    covariance = torch.linalg.inv(precision @ c)
    potential = FullCovarianceGaussian(STATES, MLP(SEEN), covariance="global", minimum_scale=0)
    with torch.no_grad():
        layer: Any = potential.head.layer
        layer.weight.copy_(covariance @ precision)
        layer.bias.copy_(-covariance @ precision @ e)
        potential.free.copy_(potential.raw(torch.linalg.cholesky(covariance)))  # type: ignore[union-attr]
    smoother = KalmanSmoother(p.step["z"], potential, length=length)
    return LatentVariableModel(p, Joint({f"z | x{', n' if length else ''}": smoother}))


@pytest.mark.parametrize("length", [None, "n"])
def test_a_structured_posterior_of_a_linear_decoder_is_exact(length: str | None) -> None:
    """The bound is the Kalman likelihood for each draw, in closed form, and so is its gradient."""
    model = with_exact_potentials(length)
    x = with_holes()
    x[1] = x[1].nan_to_num(0.5)
    given = {"x": x, **({"n": LENGTHS} if length else {})}
    marginal = LatentVariableModel(model.p)
    exact = marginal.evidence(given, draw={"z": Enumerated()}).log_weight
    evidence = model.evidence(given, particles=3)
    assert torch.allclose(evidence.log_weight, exact.expand(3, -1), atol=1e-9)
    assert evidence.has_closed_kl("z")
    steps = evidence.kl_by_step("z")
    assert torch.allclose(steps.sum(-1), evidence.kl("z"))


def test_a_structured_posterior_says_nothing_where_nothing_is_seen() -> None:
    """Of a missing step it says what its neighbours do, of a missing row what p does."""
    model = with_exact_potentials("n")
    x = with_holes()
    x[1] = torch.nan
    evidence = model.evidence({"x": x, "n": LENGTHS}, particles=2)
    exact = LatentVariableModel(model.p).evidence({"x": x, "n": LENGTHS}, draw={"z": Enumerated()})
    assert torch.allclose(evidence.log_weight, exact.log_weight.expand(2, -1), atol=1e-9)
    assert torch.allclose(evidence.kl("z")[..., 1], torch.zeros(()), atol=1e-10)


def hidden_markov(kind: str, **options: Any) -> LatentVariableModel:
    """Of three values, in a chain or apart in each step."""
    before = "" if kind == "apart" else " | k[-1]" if kind != "backwards" else " | k[+1]"
    conditional = OneHot if kind == "one-hot" else Categorical
    prior = conditional(3) if kind == "apart" else conditional(3, MLP(3))
    factors = {f"k{before}": prior, "x | k": Bernoulli(2, MLP(3))}
    if kind == "apart":
        return LatentVariableModel(moved(Recurrent(factors, start={}, **options)))  # type: ignore[arg-type]
    return LatentVariableModel(moved(Recurrent(factors, start={"k": 3}, **options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["integers", "one-hot", "backwards", "apart"])
def test_states_given_the_data_are_those_of_all_paths_listed(kind: str) -> None:
    """Sum, marginals, entropy, the best path, and the probability of each draw."""
    model = hidden_markov(kind, length="n")
    torch.manual_seed(0)
    lengths = torch.tensor([4, 2])
    x = torch.randint(0, 2, (2, 4, 2)).double()
    evidence = model.evidence({"x": x, "n": lengths}, draw={"k": Enumerated()})
    masked: Any = evidence.p["k"].distribution
    chain = masked.base
    assert isinstance(chain, DiscreteChain)
    for row, n in enumerate(lengths.tolist()):
        paths = torch.tensor([*itertools.product(range(3), repeat=n)])
        shown = torch.nn.functional.one_hot(paths, 3).double() if kind == "one-hot" else paths
        known = {"k": shown, "x": x[row, :n].expand(len(paths), -1, -1)}
        joint = model.p(known | {"n": torch.full((len(paths),), n)}).log_prob
        total = joint.logsumexp(0)
        share = (joint - total).exp()
        assert torch.isclose(evidence.log_weight[row], total, atol=1e-10)
        marginal = torch.stack([share @ (paths == k).double() for k in range(3)], -1)
        assert torch.allclose(chain.log_probs[row, :n].exp(), marginal, atol=1e-10)
        entropy = -(share * share.log()).sum()
        assert torch.isclose(masked.entropy()[row].sum(), entropy, atol=1e-10)
        best = shown[joint.argmax()]
        assert torch.equal(masked.mode[row, :n].to(best), best)
        whole = torch.zeros(len(paths), 2, 4, *shown.shape[2:], dtype=shown.dtype)
        whole[:, row, :n] = shown
        assert torch.allclose(masked.log_prob(whole)[:, row].sum(-1), joint - total, atol=1e-10)


def test_draws_of_states_are_as_frequent_as_they_are_probable() -> None:
    """Fails in one of 10,000 runs: 4 standard errors in each of 12 frequencies."""
    model = hidden_markov("integers")
    torch.manual_seed(0)
    x = torch.randint(0, 2, (1, 4, 2)).double()
    with torch.no_grad():
        chain: Any = model.evidence({"x": x}, draw={"k": Enumerated()}).p["k"].distribution
    drawn = chain.sample((4000,))
    exact = chain.log_probs[0].exp()
    found = torch.stack([(drawn == k).double().mean((0, 1)) for k in range(3)], -1)
    assert bool(((found - exact).abs() < 4 * (exact * (1 - exact) / 4000).sqrt()).all())
    together = (drawn[:, 0, 0] == drawn[:, 0, 1]).double().mean()
    pairs = torch.cartesian_prod(*[torch.arange(3)] * 4).unsqueeze(1)
    probability = chain.log_prob(pairs).sum((-1, -2)).exp()
    same = probability[pairs[:, 0, 0] == pairs[:, 0, 1]].sum()
    assert torch.isclose(probability.sum(), torch.ones(()))
    assert abs(float(together - same)) < 4 * (0.25 / 4000) ** 0.5


def test_a_structured_mixture_of_a_linear_decoder_is_exact() -> None:
    """Its bound is the density of a mixture of normals, and its classes are responsibilities."""
    torch.manual_seed(0)
    kinds, members = moved(Categorical(3)), moved(FullCovarianceGaussian(STATES, MLP(3)))
    decoder: Any = moved(Gaussian(SEEN, MLP(STATES), scale="dimension"))
    c, e = decoder.head.layer.weight[:SEEN], decoder.head.layer.bias[:SEEN]
    variance = decoder(torch.zeros(STATES)).variance
    precision = c.T / variance
    covariance = torch.linalg.inv(precision @ c)
    potential = FullCovarianceGaussian(STATES, MLP(SEEN), covariance="global", minimum_scale=0)
    with torch.no_grad():
        layer: Any = potential.head.layer
        layer.weight.copy_(covariance @ precision)
        layer.bias.copy_(-covariance @ precision @ e)
        potential.free.copy_(potential.raw(torch.linalg.cholesky(covariance)))  # type: ignore[union-attr]
    p = Joint({"k": kinds, "z | k": members, "x | z": decoder})
    q = {
        "k | x": ClassPosterior(kinds, members, potential),
        "z | x, k": MemberPosterior(members, potential),
    }
    x = torch.randn(5, SEEN)
    model = LatentVariableModel(p, Joint(q))
    evidence = model.evidence({"x": x}, particles=2, draw={"k": Enumerated()})
    each: Any = members(torch.eye(3))
    whole = c @ each.covariance_matrix @ c.T + torch.diag(variance)
    weighted = MultivariateNormal(each.mean @ c.T + e, whole).log_prob(x.unsqueeze(1))
    weighted = weighted + kinds().log_prob(torch.arange(3))
    exact = weighted.logsumexp(1)
    assert torch.allclose(evidence.log_weight, exact.expand(3, 2, -1), atol=1e-9)
    classes: Any = evidence.q["k"].distribution
    assert torch.allclose(classes.base_dist.probs, weighted.softmax(1), atol=1e-10)
    assert evidence.has_closed_kl("k")
    assert evidence.has_closed_kl("z")
