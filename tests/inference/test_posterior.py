"""Chains: laws that a transition obeys, exact posteriors, and what tells good chains from bad.

The statistical tests fix the seed. They allow 4 standard errors, which a right sampler exceeds in
one of 16,000 comparisons; no test makes more than 24 of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma, Independent, Normal, Poisson

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.inference.diagnostics import (
    bulk_effective_size,
    effective_size,
    normal_scores,
    rank_normalised_split_rhat,
    tail_effective_size,
)
from deeplvm.inference.hmc import DualAveraging, Evaluate, Point, Spread, transition, windows
from deeplvm.inference.nuts import _checkpoints, no_u_turn
from deeplvm.inference.posterior import sample_posterior
from deeplvm.networks import MLP
from models import linear

# --- the numbers that judge chains


def autoregressive(phi: float, chains: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, length, generator=generator) * math.sqrt(1 - phi**2)
    values = [torch.randn(chains, generator=generator)]
    for step in range(1, length):
        values.append(phi * values[-1] + noise[:, step])
    return torch.stack(values, 1)


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.5, 0.9])
def test_effective_size_of_an_autoregression(phi: float) -> None:
    """S (1 - phi) / (1 + phi), which is known."""
    draws = autoregressive(phi, 32, 5_000)
    truth = draws.numel() * (1 - phi) / (1 + phi)
    for size in (effective_size(draws), bulk_effective_size(draws)):
        assert abs(float(size) / truth - 1) < 0.08


def by_loops(chains: np.ndarray) -> float:
    """Geyer's sums as they are written down (Vehtari et al. 2021, section 3), lag by lag."""
    count, length = chains.shape
    centred = chains - chains.mean(1, keepdims=True)
    covariance = [
        np.mean([(c[: length - lag] * c[lag:]).sum() / length for c in centred])
        for lag in range(length)
    ]
    within = covariance[0] * length / (length - 1)
    total = within * (length - 1) / length + chains.mean(1).var(ddof=1)
    rho = [1.0] + [1.0 - (within - covariance[lag]) / total for lag in range(1, length)]
    pairs: list[float] = []
    lag = 0
    while lag + 1 < length - 3 and rho[lag] + rho[lag + 1] > 0:
        pairs.append(min([rho[lag] + rho[lag + 1], *pairs[-1:]]))
        lag += 2
    tau = -1 + 2 * sum(pairs) + max(rho[lag], 0.0)
    return count * length / max(tau, 1 / math.log10(count * length))


def test_sizes_are_those_of_the_definition() -> None:
    draws = torch.stack([autoregressive(phi, 4, 300) for phi in (0.3, 0.8, -0.6)], -1)
    found = effective_size(draws)
    for element in range(3):
        assert float(found[element]) == pytest.approx(by_loops(draws[..., element].numpy()))
    halves = torch.cat([draws[:, :150], draws[:, 150:]])
    for element in range(3):
        pooled = halves[..., element].numpy()
        scores = norm.ppf((rankdata(pooled).reshape(pooled.shape) - 0.375) / (pooled.size + 0.25))
        assert float(bulk_effective_size(draws)[element]) == pytest.approx(by_loops(scores))
        tails = [by_loops(1.0 * (pooled <= np.quantile(pooled, at))) for at in (0.05, 0.95)]
        assert float(tail_effective_size(draws)[element]) == pytest.approx(min(tails))


def test_ranks_of_equal_draws_are_shared() -> None:
    draws = torch.tensor([[1.0, 1.0, 2.0, 5.0], [0.0, 1.0, 5.0, 7.0]])
    ranks = rankdata(draws.numpy()).reshape(2, 4)
    assert np.allclose(normal_scores(draws), norm.ppf((ranks - 0.375) / 8.25), atol=1e-12)


def test_rhat_sees_location_scale_and_drift() -> None:
    draws = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    assert abs(float(rank_normalised_split_rhat(draws)) - 1) < 0.005
    location = draws + torch.tensor([0.0, 0, 0, 1])[:, None]
    scale = draws * torch.tensor([1.0, 1, 1, 4])[:, None]
    drift = draws + torch.linspace(0, 2, 1000)
    for bad in (location, scale, drift):
        assert float(rank_normalised_split_rhat(bad)) > 1.05
    # of ranks: no other scale of the element changes it
    exact = rank_normalised_split_rhat(location)
    halves = torch.cat([location[:, :500], location[:, 500:]])
    z = normal_scores(halves)
    within, between = z.var(1).mean(), z.mean(1).var()
    assert torch.isclose(exact, ((499 / 500) + between / within).sqrt())


def test_a_constant_has_no_rhat_and_too_few_draws_are_refused() -> None:
    assert rank_normalised_split_rhat(torch.ones(2, 20)).isnan()
    assert bulk_effective_size(torch.ones(2, 20)).isnan()
    with pytest.raises(ValueError, match="at least 8 draws in a chain, found 7"):
        rank_normalised_split_rhat(torch.randn(2, 7))


# --- transitions


def density_of(log_density: Callable[[Tensor], Tensor]) -> Evaluate:
    def evaluate(free: Tensor) -> Point:
        with torch.enable_grad():
            free = free.detach().requires_grad_()
            value = log_density(free)
            (slope,) = torch.autograd.grad(value.sum(), free)
        value = value.detach()
        return Point(free.detach(), value, value, slope, slope)

    return evaluate


COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
gaussian = density_of(lambda u: -0.5 * ((u @ PRECISION) * u).sum(-1))
# a mixture of two normals, far from quadratic, whose draws are known
lumps = density_of(
    lambda u: torch.logaddexp(-0.5 * (u + 1).square(), -0.5 * (u - 2).square() / 0.25).sum(-1)
)


def hmc(evaluate: Evaluate, point: Point, size: float, steps: int = 4) -> Point:
    return transition(evaluate, point, 1.0, torch.tensor([size]), steps).point


def nuts(evaluate: Evaluate, point: Point, size: float) -> Point:
    return no_u_turn(evaluate, point, torch.tensor([size])).point


SAMPLERS = {"hmc": hmc, "nuts": nuts}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("size", [0.3, 0.9])
def test_a_gaussian_stays_as_it_is(sampler: Callable[..., Point], size: float) -> None:
    """From exact draws, three transitions: mean and covariance within 4 standard errors."""
    torch.manual_seed(0)
    chains = 20_000
    point = gaussian(torch.randn(chains, 1, 2) @ torch.linalg.cholesky(COVARIANCE).T)
    begin = point.free
    for _ in range(3):
        point = sampler(gaussian, point, size)
    draws = point.free[:, 0]
    assert (draws != begin[:, 0]).any(-1).double().mean() > 0.5
    assert (draws.mean(0).abs() < 4 * (COVARIANCE.diagonal() / chains).sqrt()).all()
    products = draws.unsqueeze(-1) * draws.unsqueeze(-2)
    error = products.std(0) / math.sqrt(chains)
    assert ((products.mean(0) - COVARIANCE).abs() < 4 * error).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_detailed_balance(sampler: Callable[..., Point]) -> None:
    """At the target, as many chains go from one region to another as come back (4 s.e.)."""
    torch.manual_seed(1)
    chains = 60_000
    first = torch.rand(chains) < 2 / 3  # the masses of the two lumps are 1 and 1/2
    begin = torch.where(first, torch.randn(chains) - 1, 0.5 * torch.randn(chains) + 2)
    point = sampler(lumps, lumps(begin[:, None, None]), 0.9)
    edges = torch.tensor([-1.2, 0.0, 1.8])
    before, after = (torch.bucketize(each, edges) for each in (begin, point.free[:, 0, 0]))
    flow = torch.zeros(4, 4).index_put_((before, after), torch.ones(chains), accumulate=True)
    assert (flow > 50).all()  # every pair of regions was tried
    difference = (flow - flow.T).abs()
    assert (difference <= 4 * (flow + flow.T).sqrt()).all()


def test_acceptance_goes_to_one_as_steps_get_short() -> None:
    """The energy error of a leapfrog is of second order, and so is what is refused."""
    torch.manual_seed(2)
    point = gaussian(torch.randn(5000, 1, 2) @ torch.linalg.cholesky(COVARIANCE).T)
    refused = [
        1 - float(transition(gaussian, point, 1.0, torch.tensor([size]), 4).probability.mean())
        for size in (0.4, 0.2, 0.1, 0.01)
    ]
    assert refused[0] > 2.5 * refused[1] > 6 * refused[2]
    assert refused[3] < 1e-4
    torch.manual_seed(2)
    short = no_u_turn(gaussian, point, torch.tensor([0.05]))
    assert float(short.acceptance.mean()) > 0.999
    assert float(short.depth.mean()) > 4


def test_checkpoints_hold_the_beginnings_of_the_pieces_that_end() -> None:
    """For an odd leaf n they are n + 1 - 2, n + 1 - 4, ... by its trailing ones."""
    kept: dict[int, int] = {}
    for leaf in range(256):
        last, first = _checkpoints(leaf)
        if leaf % 2 == 0:
            kept[last] = leaf
            continue
        begins = [leaf + 1 - 2**k for k in range(1, 9) if (leaf + 1) % 2**k == 0]
        assert [kept[index] for index in range(last, first - 1, -1)] == begins


def test_a_trajectory_that_loses_its_energy_diverges_and_stays() -> None:
    torch.manual_seed(0)
    point = gaussian(torch.randn(50, 1, 2))
    visited = no_u_turn(gaussian, point, torch.tensor([500.0]))
    assert bool(visited.diverged.all())
    assert torch.equal(visited.point.free, point.free)
    assert float(visited.acceptance.max()) == 0.0


def test_dual_averaging_finds_the_step_of_its_target() -> None:
    """An acceptance of exp(-size) has 0.8 at -log 0.8."""
    sizes = DualAveraging(torch.tensor([3.0, 0.001]), 0.8)
    for _ in range(2000):
        sizes.update((-sizes.step_size).exp())
    assert torch.allclose(sizes.averaged, torch.full((2,), -math.log(0.8)), rtol=0.02)


def test_spread_is_the_standard_deviation() -> None:
    torch.manual_seed(0)
    places = torch.randn(200, 3, 2, 4) * torch.tensor([1.0, 10.0, 0.1, 1e-3])
    spread = Spread(places[0])
    for each in places:
        spread.add(each)
    expected = places.flatten(0, 1).std(0)
    assert torch.allclose(spread.scale(expected), expected, rtol=0.01)
    assert torch.allclose((spread.squares / 599).sqrt(), expected, rtol=1e-10)


@pytest.mark.parametrize("warmup", [0, 10, 60, 300, 1000])
def test_windows_end_before_the_step_size_is_settled(warmup: int) -> None:
    start, ends = windows(warmup)
    assert ends == sorted(set(ends))
    assert all([start < end <= warmup - int(0.1 * warmup) for end in ends])


# --- posteriors


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_the_posterior_of_a_linear_model(tb1: Any, method: Any) -> None:
    """TB1: mean and covariance of every row within 4 s.e., with one element missing."""
    x = tb1.x.clone()
    x[0, 1:3] = math.nan
    model = tb1.model(Gaussian(2, MLP(4)))
    found = sample_posterior(model, {"x": x}, method=method, warmup=120, draws=120, steps=4)
    assert found.draws["z"].shape == (4, 120, 6, 2)
    for row in range(6):
        there = ~x[row].isnan()
        weight = tb1.weight[there]
        covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / 0.5)
        mean = covariance @ weight.T @ (x[row] - tb1.bias)[there] / 0.5
        stderr = found.mean_stderr("z")[row]
        assert ((found.mean("z")[row] - mean).abs() < 4 * stderr).all()
        squares = (found.draws["z"][:, :, row] - mean).square()
        error = squares.flatten(0, 1).std(0) / effective_size(squares).sqrt()
        assert ((squares.mean((0, 1)) - covariance.diagonal()).abs() < 4 * error).all()
    assert float(found.rhat["z"].max()) < 1.05
    assert float(found.bulk_ess["z"].min()) > 100
    assert not found.divergences.any()
    plain = found.to_dict()
    assert plain["method"] == method
    assert (plain["depth"] is None) == (method == "hmc")
    assert method.upper() in str(found)


def test_the_golden_posterior() -> None:
    """W = (1, 2), s2 = 0.5, x = (1, 1): mean 6/11, variance 1/11."""
    model = LatentVariableModel(linear().p)  # no q: chains begin at the prior
    found = sample_posterior(model, {"x": torch.ones(100, 2)}, warmup=60, draws=30)
    draws = found.draws["z"]
    error = 1 / math.sqrt(11 * float(found.bulk_ess["z"].sum()))
    assert abs(float(draws.mean()) - 6 / 11) < 4 * error
    assert abs(float(draws.var()) - 1 / 11) < 0.004


class Rate(nn.Module):
    event_shape = torch.Size((1,))

    def forward(self) -> Distribution:
        return Independent(Gamma(torch.tensor([2.0]), torch.tensor([1.0])), 1)


class Counts(nn.Module):
    event_shape = torch.Size((1,))

    def forward(self, rate: Tensor) -> Distribution:
        return Independent(Poisson(rate), 1)


def test_a_positive_latent_stays_positive() -> None:
    """Gamma(2, 1) and Poisson: the posterior is Gamma(2 + x, 2)."""
    p = Joint({"rate": Rate(), "x | rate": Counts()})
    x = torch.tensor([[0.0], [3.0], [10.0]])
    found = sample_posterior(LatentVariableModel(p, Joint({})), {"x": x}, warmup=60, draws=150)
    assert (found.draws["rate"] > 0).all()
    mean, error = found.mean("rate"), found.mean_stderr("rate")
    assert ((mean - (2 + x) / 2).abs() < 4 * error).all()


def test_a_discrete_latent_is_summed_out() -> None:
    """A latent with two modes, of which y says which: the posterior mean by quadrature."""
    prior, likelihood = Gaussian(1, MLP(2), scale=0.5), Gaussian(1, MLP(1), scale=1.0)
    with torch.no_grad():
        prior.head.layer.weight.copy_(torch.tensor([[-0.5, 1.0]]))
        likelihood.head.layer.weight.fill_(1.0)
        for each in (prior, likelihood):
            each.head.layer.bias.zero_()
    p = Joint({"y": Categorical(2), "z | y": prior, "x | z": likelihood})
    x = torch.tensor([[0.3], [-1.0]])
    found = sample_posterior(LatentVariableModel(p, Joint({})), {"x": x}, warmup=50, draws=70)
    assert set(found.draws) == {"z"}
    grid = torch.linspace(-5, 5, 4001).unsqueeze(1)
    weight = sum([Normal(mean, 0.5).log_prob(grid).exp() for mean in (-0.5, 1.0)])
    weight = weight * Normal(grid, 1.0).log_prob(x.T).exp()  # (grid, rows)
    mean = (weight * grid).sum(0) / weight.sum(0)
    assert ((found.mean("z")[:, 0] - mean).abs() < 4 * found.mean_stderr("z")[:, 0]).all()


class Funnel(nn.Module):
    event_shape = torch.Size((5,))

    def forward(self, v: Tensor) -> Distribution:
        return Independent(Normal(torch.zeros(5), (1.5 * v).exp()), 1)


def test_a_funnel_is_warned_of() -> None:
    """Neal's funnel, given nothing that would narrow it: its neck is too sharp for any step."""
    torch.manual_seed(0)
    p = Joint(
        {"v": StandardNormal(1), "w | v": Funnel(), "x | v": Gaussian(1, MLP(1), scale=10.0)}
    )
    found = sample_posterior(
        LatentVariableModel(p, Joint({})), {"x": torch.zeros(4, 1)},
        warmup=40, draws=25, max_depth=4, chains=3,
    )  # fmt: skip
    assert found.divergences.sum() > 0
    assert any(["diverged" in each for each in found.warnings])
    assert "warning: " in str(found)


def small() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 8))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 8))}))


def test_the_same_seed_gives_the_same_draws_and_nothing_is_left_changed() -> None:
    model = small()
    model.train()
    x = torch.randn(3, 3)
    state = torch.random.get_rng_state()
    first, second = (
        sample_posterior(model, {"x": x}, warmup=10, draws=8, chains=2, seed=5) for _ in range(2)
    )
    assert torch.equal(first.draws["z"], second.draws["z"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all([each.grad is None for each in model.parameters()])


def test_batches_are_put_together_in_order() -> None:
    model = small()
    x = torch.randn(5, 3)
    found = sample_posterior(model, {"x": x[:4]}, warmup=5, draws=8, chains=2, batch_size=2)
    assert found.draws["z"].shape == (2, 8, 4, 2)
    assert found.rhat["z"].shape == (4, 2)
    assert found.evaluations.shape == (4,)
    alone = sample_posterior(model, {"x": x[2:4]}, warmup=5, draws=8, chains=2)
    assert torch.allclose(found.draws["z"][:, :, 2:], alone.draws["z"])


def test_what_makes_no_sense_is_refused() -> None:
    model = small()
    x = {"x": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match="'nuts' or 'hmc', not 'gibbs'"):
        sample_posterior(model, x, method="gibbs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws is at least 8, found 3"):
        sample_posterior(model, x, draws=3)
    with pytest.raises(ValueError, match="chains is at least 2, found 1"):
        sample_posterior(model, x, chains=1)
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        sample_posterior(model, x, target=1.0)
    with pytest.raises(ValueError, match="no continuous latent to draw, given"):
        sample_posterior(model, {**x, "z": torch.zeros(2, 2)})
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3))})
    discrete = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    with pytest.raises(ValueError, match="no continuous latent"):
        sample_posterior(discrete, {"x": torch.zeros(2, 2)})
