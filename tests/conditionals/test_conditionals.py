"""What is particular to a conditional: units, ladders, starts, embeddings, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    FullCovarianceGaussian,
    Gamma,
    Gaussian,
    LowRankGaussian,
    NegativeBinomial,
    OneHot,
    Ordinal,
    Poisson,
    PrecisionWeighted,
    StandardNormal,
    StudentT,
)
from deeplvm.distributions import DiagonalNormal
from deeplvm.networks import MLP, Features


def test_units_count_the_jacobian() -> None:
    """log p(x) = log p(u) - log std, u = (x - mean) / std."""
    mean, std = torch.tensor([3.0, -100.0]), torch.tensor([0.1, 40.0])
    torch.manual_seed(0)
    plain = Gaussian(2, MLP(3, 4))
    torch.manual_seed(0)
    own = Gaussian(2, MLP(3, 4), units=(mean, std))
    h, u = torch.randn(5, 3), torch.randn(5, 2)
    expected = plain(h).log_prob(u) - std.log().sum()
    torch.testing.assert_close(own(h).log_prob(mean + std * u), expected)
    torch.testing.assert_close(own.embed(mean + std * u), u)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_units_without_a_scale_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match=r"Gaussian expects units=\(mean, std\)"):
        Gaussian(2, units=(0.0, std))
    with pytest.raises(ValueError, match="Gamma expects a unit that is positive"):
        Gamma(2, unit=-1.0)


def test_precision_weighted_is_the_product_of_two_gaussians() -> None:
    """R4.1a: the ladder's merge is the normalised product."""
    first, second = Gaussian(1, MLP(2, 3)), Gaussian(1, MLP(4, 3))
    merged = PrecisionWeighted(first, second)
    d, h = torch.randn(5, 2), torch.randn(5, 4)
    x = torch.linspace(-40, 40, 200_001)[:, None, None]
    log_product = first(d).log_prob(x) + second(h).log_prob(x)
    log_normaliser = log_product.logsumexp(0) + (80 / 200_000 * torch.ones(())).log()
    torch.testing.assert_close(
        merged(d, h).log_prob(x), log_product - log_normaliser, rtol=1e-6, atol=1e-6
    )


def test_precision_weighted_shares_the_prior() -> None:
    prior = Gaussian(2, MLP(3, 4))
    merged = PrecisionWeighted(prior, Gaussian(2, MLP(3, 4)))
    both = nn.ModuleDict({"p": prior, "q": merged})
    assert len(list(both.parameters())) == len(list(merged.parameters()))
    fresh = nn.ModuleDict({"p": (p := Gaussian(2, MLP(3, 4)))})
    fresh["q"] = PrecisionWeighted(p, Gaussian(2, MLP(3, 4)))
    fresh.load_state_dict(both.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(fresh["q"](x, x).mean, both["q"](x, x).mean)


def test_precision_weighted_takes_other_peoples_normals() -> None:
    class Theirs(nn.Module):
        def forward(self, h: torch.Tensor) -> Independent:
            return Independent(Normal(h, torch.ones_like(h)), 1)

    merged = PrecisionWeighted(Theirs(), StandardNormal(2))
    assert isinstance(merged(torch.ones(3, 2)), DiagonalNormal)
    torch.testing.assert_close(merged(torch.ones(3, 2)).mean, torch.full((3, 2), 0.5))


def test_precision_weighted_refusals() -> None:
    with pytest.raises(ValueError, match=r"one event shape, found \(2,\) and \(3,\)"):
        PrecisionWeighted(StandardNormal(2), StandardNormal(3))
    with pytest.raises(TypeError, match="expects 2 parents for its first"):
        PrecisionWeighted(StandardNormal(2), StandardNormal(2), first_parents=2)(torch.ones(1, 2))
    merged = PrecisionWeighted(Bernoulli(2), StandardNormal(2), first_parents=0)
    with pytest.raises(TypeError, match="first conditional to return independent normals"):
        merged()


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_bernoulli_starts_at_the_mean(mean: float) -> None:
    likelihood = Bernoulli(3, MLP(2, 4), mean=torch.tensor(mean))
    found = likelihood.head.layer.bias.sigmoid()
    torch.testing.assert_close(found, torch.full((3,), min(max(mean, 0.01), 0.99)))
    torch.testing.assert_close(Bernoulli((2, 3), mean=0.3)().mean, torch.full((2, 3), 0.3))


def test_counts_start_at_the_mean() -> None:
    for make in (Poisson, NegativeBinomial):
        mean = make(3, mean=torch.tensor([0.5, 20.0, 3000.0]))().mean
        torch.testing.assert_close(mean, torch.tensor([0.5, 20.0, 3000.0]), rtol=1e-5, atol=1e-5)


def test_scales_are_bounded_away_from_zero() -> None:
    learned = Gaussian(1, minimum_scale=0.02)
    with torch.no_grad():
        learned.head.free.fill_(-1e9)
    assert learned().scale.item() == pytest.approx(0.02)


def test_learned_normal_starts_near_the_standard_one() -> None:
    assert Gaussian(2)().scale.tolist() == pytest.approx([1.001, 1.001])


def test_embeddings() -> None:
    nan = float("nan")
    assert Ordinal(3).embed(torch.tensor([2.0, nan])).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert Categorical(2, shape=2).embed(torch.tensor([[0, 1]])).shape == (1, 2, 2)
    assert DiscretizedLogistic(1, levels=3).embed(torch.tensor([0, 1, 2])).tolist() == [-1, 0, 1]
    assert Poisson(1).embed(torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize(
    "build, match",
    [
        (lambda: Gaussian(0), r"event shape of positive sizes, found \(0,\)"),
        (lambda: Gaussian(2, scale="row"), "'network', 'dimension', 'global' or a positive"),
        (lambda: Gaussian(2, scale=-1.0), "a positive number, found -1.0"),
        (lambda: Gaussian(2, minimum_scale=-1.0), "minimum_scale of at least 0"),
        (lambda: StudentT(2, df="row"), "StudentT expects df 'network'"),
        (lambda: NegativeBinomial(2, dispersion=0.0), "NegativeBinomial expects dispersion"),
        (lambda: Gaussian(2, nn.Sequential(nn.Linear(2, 3))), "Wrap it: Features"),
        (lambda: Categorical(0), "classes of at least 1, found 0"),
        (lambda: OneHot(0), "classes of at least 1, found 0"),
        (lambda: Ordinal(1), "levels of at least 2, found 1"),
        (lambda: DiscretizedLogistic(3, levels=1), "levels of at least 2, found 1"),
        (lambda: LowRankGaussian(3, rank=0), "for none use Gaussian"),
        (lambda: FullCovarianceGaussian(3, covariance="diagonal"), "'network' or 'global'"),
    ],
)
def test_construction_refuses(build, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_a_network_of_ones_own_says_its_shape() -> None:
    network = Features(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), out_shape=3)
    assert Gaussian(4, network)(torch.zeros(5, 2)).batch_shape == (5,)
    two = Gaussian(4, nn.Linear(5, 3))(torch.zeros(5, 2), torch.zeros(7, 5, 3))
    assert two.batch_shape == (7, 5)
