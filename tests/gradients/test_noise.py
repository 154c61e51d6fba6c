"""Draws with noise spread over the particles: their law, their variance, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Distribution, Exponential, Gamma, Laplace, LogNormal, Uniform

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.core.draws import as_measured
from deeplvm.distributions.multivariate_normal import FullCovarianceNormal, LowRankNormal
from deeplvm.distributions.real import Logistic
from deeplvm.gradients import Draw, Reparameterised, Suited
from deeplvm.gradients.named import estimator_of
from deeplvm.gradients.noise import Antithetic, LatinHypercube, QuasiRandom
from deeplvm.networks import MLP

WAYS = {"antithetic": Antithetic(), "stratified": LatinHypercube(), "quasi-random": QuasiRandom(3)}
every_way = pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))
ONE, TWO = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
FAMILIES: dict[str, Distribution] = {
    "Laplace": Laplace(ONE, TWO),
    "Exponential": Exponential(TWO),
    "Uniform": Uniform(ONE, TWO),
    "LogNormal": LogNormal(ONE, TWO),
    "Logistic": Logistic(ONE, TWO),
}


@pytest.mark.parametrize("family", list(FAMILIES))
@every_way
def test_each_particle_has_the_distribution(way: Draw, family: str) -> None:
    """Kolmogorov and Smirnov's test at 1e-4 for each of 4 particles; rows are independent."""
    torch.manual_seed(0)
    distribution = FAMILIES[family]
    drawn = way("z", distribution, (4, 3000), 0)
    torch.testing.assert_close(drawn.log_prob, distribution.log_prob(drawn.value))
    for particle in drawn.value:
        at = distribution.cdf(particle).numpy()
        assert stats.kstest(at, "uniform").pvalue > 1e-4


@every_way
def test_normal_vectors_keep_their_covariance(way: Draw) -> None:
    """Of 20,000 rows: within 5 standard errors, of which one element fails in 10,000 seeds."""
    torch.manual_seed(0)
    factor, scale = torch.randn(3, 1), torch.rand(3) + 0.5
    low = LowRankNormal(torch.ones(3), factor, scale, event_dims=1)
    for distribution in (
        low,
        FullCovarianceNormal(torch.ones(3), torch.linalg.cholesky(low.covariance_matrix)),
    ):
        value = way("z", distribution, (2, 20_000), 0).value[1]
        expected = low.covariance_matrix
        error = 5 * (2 / 20_000) ** 0.5 * expected.diagonal().max()
        assert (value.T.cov() - expected).abs().max() < error
        assert (value.mean(0) - 1).abs().max() < 5 * (expected.diagonal().max() / 20_000) ** 0.5


def smooth() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 8, activation=nn.Tanh))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 8, activation=nn.Tanh))}))


def gradients_of(model: LatentVariableModel, way: Draw, particles: int) -> torch.Tensor:
    """300 gradients of the parameters of q for one row."""
    x, parameters, found = torch.tensor([[1.0, 0.0, -1.0]]), list(model.q.parameters()), []
    for _ in range(300):
        value, _ = model.estimate(elbo, {"x": x}, particles=particles, draw={"z": way})
        gradients = torch.autograd.grad(value.sum(), parameters)
        found.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(found)


def test_the_variance_of_the_gradient_falls() -> None:
    """With 16 particles: to 0.07 to 0.10 of that of independent ones if stratified, of Sobol
    points to 0.05 to 0.06 (six seeds of the draws).

    The ratio of variances of 300 gradients is known to a fifth, so that fewer than 1 of 1,000
    seeds fail.
    """
    torch.manual_seed(0)
    model = smooth()
    plain, stratified, quasi = [
        gradients_of(model, way, 16).var(0).sum()
        for way in (Reparameterised(), LatinHypercube(), QuasiRandom())
    ]
    assert stratified < 0.2 * plain
    assert quasi < 0.15 * plain


def test_pairs_have_no_variance_where_the_gradient_is_linear_in_the_noise() -> None:
    """That of the posterior's mean, in a linear model; that of its scale has no less."""
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2), scale=1.0)})
    model = LatentVariableModel(p, Joint({"z": Gaussian(2)}))
    plain, pairs = [
        gradients_of(model, way, 4).var(0) for way in (Reparameterised(), Antithetic())
    ]
    assert (plain > 1e-3).all()
    assert (pairs < 1e-20).sum() == 2


def test_pairs_are_mirrored_and_strata_are_filled() -> None:
    distribution = Uniform(torch.zeros(()), torch.ones(()))
    pairs = Antithetic()("z", distribution, (6, 5), 0).value
    torch.testing.assert_close(pairs[:3] + pairs[3:], torch.ones(3, 5))
    strata = (LatinHypercube()("z", distribution, (6, 5), 0).value * 6).floor().sort(0).values
    assert (strata == torch.arange(6.0)[:, None]).all()
    points = QuasiRandom()("z", distribution.expand([2]), (8, 5), 0)
    assert ((points.value * 8).floor().sort(0).values == torch.arange(8.0)[:, None, None]).all()


def test_the_seed_of_the_points_is_its_own() -> None:
    distribution = Uniform(torch.zeros(2), torch.ones(2))

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        return QuasiRandom(seed)("z", distribution, (8, 2), 1).value

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_what_cannot_be_spread_is_refused() -> None:
    gamma = Gamma(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"'z' is drawn from a Gamma.*use Reparameterised"):
        Antithetic()("z", gamma, (4, 3, 2), 0)
    normal = StandardNormal(2)()
    for shape in ((3,), (1, 3)):
        with pytest.raises(ValueError, match="particles=2"):
            LatinHypercube()("z", normal, shape, 0)
    with pytest.raises(ValueError, match="particles=6"):
        Antithetic()("z", normal, (5, 3), 0)
    with pytest.raises(ValueError, match="30,000 elements"):
        QuasiRandom()("z", StandardNormal(30_000)(), (2, 1), 0)


@pytest.mark.parametrize("name", ["antithetic", "stratified", "quasi_random(seed=4)"])
def test_by_name_it_draws_what_it_suits(name: str) -> None:
    """A discrete latent beside it wants an estimator of its own; what is measured is plain."""
    way = Suited(estimator_of(name))
    assert as_measured(way).draw == Reparameterised()  # type: ignore[union-attr]
    model = smooth()
    value, _ = model.estimate(iwae, {"x": torch.ones(5, 3)}, particles=4, default=way)
    value.mean().backward()
    p = Joint({"h": Bernoulli(2), "x | h": Bernoulli(3, MLP(2, 4))})
    discrete = LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(3, 4))}))
    with pytest.raises(ValueError, match="no reparameterised draw"):
        discrete.estimate(elbo, {"x": torch.ones(5, 3)}, particles=4, default=way)
