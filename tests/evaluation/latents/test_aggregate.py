"""The aggregate posterior against the prior: each test is exact, calibrated, and sees."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, GaussianMixture, OneHot, StandardNormal
from deeplvm.evaluation.latents.aggregate import aggregate_against_prior
from deeplvm.evaluation.latents.two_sample_tests import (
    classifier_test,
    discrepancy_test,
    holm,
    marginal_tests,
    standard_moments,
)
from deeplvm.networks import MLP
from deeplvm.objectives.discrepancy import imq, maximum_mean_discrepancy, rbf

QUICK = {"neighbours": KNeighborsClassifier(15)}


class Shrunk(nn.Module):
    r"""q(z | x) = N(ρx, 1 − ρ²): for x ~ N(0, I) the aggregate is N(0, I) exactly."""

    def __init__(self, dimensions: int = 2, correlation: float = 0.8) -> None:
        super().__init__()
        self.event_shape = torch.Size([dimensions])
        self.correlation = correlation

    def forward(self, x: Tensor) -> Distribution:
        scale = math.sqrt(1 - self.correlation**2)
        return Independent(Normal(self.correlation * x, scale), 1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def exact(dimensions: int = 2) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(dimensions), "x | z": Gaussian(dimensions, MLP(dimensions))})
    return LatentVariableModel(p, Joint({"z | x": Shrunk(dimensions)}))


def test_holm_is_the_definition() -> None:
    p = np.random.default_rng(0).uniform(size=20) ** 3
    corrected = holm(p)
    # rejected at α: all up to the first ordered p-value above α / (m − rank)
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > level / (20 - rank):
                break
            rejected.add(index)
        assert rejected == set(np.flatnonzero(corrected <= level))


def test_marginals_are_scipys() -> None:
    a, b = torch.randn(50, 3), torch.randn(50, 3) + torch.tensor([0.0, 1.0, 0.0])
    found = marginal_tests(a, b)
    for i in range(3):
        each = stats.ks_2samp(a[:, i].numpy(), b[:, i].numpy())
        assert float(found.statistic[i]) == pytest.approx(each.statistic, abs=1e-12)
        assert float(found.p[i]) == pytest.approx(each.pvalue, rel=1e-9)
    assert found.worst[0] == 1


def test_categories_are_compared_by_their_counts() -> None:
    """χ² by its formula; of rare categories together, so that ten draws are in each."""
    a = torch.tensor([0] * 30 + [1] * 20 + [2, 3, 3])
    b = torch.tensor([0] * 20 + [1] * 25 + [2, 2, 3, 3, 4, 4, 4, 4])
    counts = np.array([[30, 20, 3], [20, 25, 8]])
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    found = marginal_tests(a, b, discrete=True)
    assert float(found.statistic) == pytest.approx(statistic, abs=1e-12)
    assert float(found.p) == pytest.approx(stats.chi2.sf(statistic, 2), rel=1e-9)
    assert float(marginal_tests(a * 0, b * 0, discrete=True).p) == 1


@pytest.mark.parametrize("kernel", [rbf, imq])
def test_discrepancy_is_the_unbiased_estimate(kernel: object) -> None:
    """Against the objective's own, and against loops over pairs and left-out indices."""
    a, b = torch.randn(12, 3), 1.5 * torch.randn(12, 3)
    found = discrepancy_test(a, b, kernel, permutations=9)  # type: ignore[arg-type]
    value = maximum_mean_discrepancy(a, b, kernel, found.scale)  # type: ignore[arg-type]
    assert found.value == pytest.approx(float(value), abs=1e-12)
    both = torch.cat([a, b])
    distances = [float((u - v).square().sum()) for i, u in enumerate(both) for v in both[:i]]
    assert found.scale == pytest.approx(sorted(distances)[(len(distances) - 1) // 2], rel=1e-9)

    def paired(keep: list[int]) -> float:
        def k(u: Tensor, v: Tensor) -> float:
            return float(kernel((u - v).square().sum(), found.scale))  # type: ignore[operator]

        pairs = [
            k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i])
            for i in keep
            for j in keep
            if i != j
        ]
        return sum(pairs) / len(pairs)

    left_out = np.array([paired([i for i in range(12) if i != out]) for out in range(12)])
    assert found.stderr == pytest.approx(math.sqrt(11 * left_out.var()), rel=1e-9)


def test_discrepancy_of_two_normals_is_its_closed_form() -> None:
    r"""E k(u, v) = (s / (s + 2τ²))^{1/2} exp(−δ² / (s + 2τ²)), τ² the variance of u − v.

    Within four standard errors, which fails in less than 1 of 10⁴.
    """
    n, shift, scale = 800, 0.7, 1.6
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(n, 1, generator=generator)
    b = shift + scale * torch.randn(n, 1, generator=generator)
    found = discrepancy_test(a, b, permutations=1)

    def similar(variance: float, gap: float) -> float:
        width = found.scale + 2 * variance
        return math.sqrt(found.scale / width) * math.exp(-(gap**2) / width)

    exact = similar(2, 0) + similar(2 * scale**2, 0) - 2 * similar(1 + scale**2, shift)
    assert abs(found.value - exact) < 4 * found.stderr
    assert found.stderr < exact / 4


def test_p_values_are_uniform_where_the_laws_are_one() -> None:
    """100 seeds; each comparison with the uniform law fails in 1 of 1000 seeds of this test."""
    permuted, marginal, area = [], [], []
    for seed in range(100):
        a, b = torch.randn(2, 60, 2, generator=torch.Generator().manual_seed(1_000 + seed))
        permuted.append(discrepancy_test(a, b, permutations=49, seed=seed).p)
        marginal.append(float(marginal_tests(a, b).holm.min()))
        if seed < 50:
            test = classifier_test(a, b, LogisticRegression(), seed=seed)
            right = (test.accuracy - 0.5) / test.stderr
            area.append((test.p, right, (test.auc - 0.5) / test.auc_stderr))
    jitter = np.random.default_rng(0).uniform(0, 0.02, 100)
    assert stats.kstest(np.array(permuted) - jitter, "uniform").pvalue > 1e-3
    for level in (0.05, 0.2):  # Holm's promise is at most
        below = (np.array(marginal) <= level).sum()
        assert stats.binom.sf(below - 1, 100, level) > 1e-3
    coin, right, z = np.array(area).T
    assert stats.binom.sf((coin <= 0.1).sum() - 1, 50, 0.1) > 1e-3
    for score in (right, z):  # in standard errors: at most N(0, 1), 50 of them
        assert abs(score.mean()) < 0.5
        assert 0.5 < score.std() < 1.3


ALTERNATIVES = {
    "shifted": lambda z: z + 0.4,
    "scaled": lambda z: 1.6 * z,
    "correlated": lambda z: torch.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], 1),
}


@pytest.mark.parametrize("change", ALTERNATIVES.values(), ids=ALTERNATIVES)
def test_another_law_is_found(change: object) -> None:
    """600 draws: each test that can see the change has p < 0.01; marginals see no correlation."""
    a, b = torch.randn(2, 600, 2)
    a = change(a)  # type: ignore[operator]
    assert discrepancy_test(a, b, permutations=199).p < 0.01
    found = classifier_test(a, b, QUICK["neighbours"])
    assert found.p < 0.01
    assert found.auc - 0.5 > 3 * found.auc_stderr
    correlated = change is ALTERNATIVES["correlated"]
    assert bool(marginal_tests(a, b).holm.min() < 0.01) is not correlated


def test_accuracy_and_area_are_those_of_the_bayes_classifier() -> None:
    """N(δ, 1) and N(0, 1): accuracy Φ(δ/2) and AUC Φ(δ/√2), within four standard errors."""
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 3_000, 1, generator=generator)
    found = classifier_test(a + 1.0, b, LogisticRegression())
    assert abs(found.accuracy - stats.norm.cdf(0.5)) < 4 * found.stderr
    assert abs(found.auc - stats.norm.cdf(math.sqrt(0.5))) < 4 * found.auc_stderr
    assert found.auc_stderr < 0.01
    score: Any = torch.cat([a + 1.0, b]).flatten().numpy()
    assert found.auc == pytest.approx(roc_auc_score([1] * 3_000 + [0] * 3_000, score), abs=2e-3)


def test_moments_have_the_noise_that_is_said() -> None:
    """E‖m‖² = D/n and E‖S − I‖² = D(D+1)/(n−1) over 100 samples, to four standard errors."""
    found = [standard_moments(torch.randn(200, 4)) for _ in range(100)]
    for name, expected in (
        ("mean_distance", found[0].mean_expected),
        ("covariance_distance", found[0].covariance_expected),
    ):
        squares = np.array([getattr(each, name) for each in found]) ** 2
        assert abs(squares.mean() - expected**2) < 4 * squares.std() / math.sqrt(100)
    # away from N(0, I) the jackknife tells the spread
    far = [standard_moments(2 + 2 * torch.randn(400, 2)) for _ in range(50)]
    for name in ("mean", "covariance"):
        spread = np.std([getattr(each, f"{name}_distance") for each in far])
        told = np.mean([getattr(each, f"{name}_stderr") for each in far])
        assert told == pytest.approx(spread, rel=0.35)  # 50 samples tell it to 0.1


def test_an_exact_model_passes_and_a_wide_one_fails() -> None:
    x = torch.randn(400, 2)
    found = aggregate_against_prior(exact(), {"x": x}, classifiers=QUICK, permutations=99)
    z = found.latents["z"]
    assert found.joint is None
    assert z.marginals is not None
    assert z.moments is not None
    assert z.marginals.holm.min() > 0.01
    assert z.discrepancy.p > 0.01
    assert z.classifiers["neighbours"].p > 0.01
    assert z.moments.mean_distance < 3 * z.moments.mean_expected
    wide = aggregate_against_prior(exact(), {"x": 2 * x}, classifiers=QUICK, permutations=99)
    assert wide.latents["z"].discrepancy.p == 0.01
    assert wide.latents["z"].classifiers["neighbours"].p < 0.01
    # Var z = 4ρ² + 1 − ρ² = 2.92
    told = wide.latents["z"].moments
    assert told is not None
    assert abs(told.covariance_distance - math.sqrt(2) * 1.92) < 4 * told.covariance_stderr
    assert "p < 0.001" in str(wide)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_learned_prior_and_a_hierarchy_are_drawn_ancestrally() -> None:
    """Equal in every latent by itself and together; then q breaks the bond of the two."""

    class Below(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, a: Tensor) -> Distribution:
            return Independent(Normal(3 + 2 * a, 0.5), 1)

    class Alone(nn.Module):
        event_shape = torch.Size([1])

        def forward(self) -> Distribution:
            return Independent(Normal(torch.full((1,), 3.0), math.sqrt(4.25)), 1)

    p = Joint({"a": StandardNormal(1), "z | a": Below(), "x | z": Gaussian(1, MLP(1))})
    x = {"x": torch.zeros(500, 1)}
    q = Joint({"a": StandardNormal(1), "z | a": Below()})
    options = {"classifiers": QUICK, "permutations": 99}
    same = aggregate_against_prior(LatentVariableModel(p, q), x, **options)  # type: ignore[arg-type]
    assert same.joint is not None
    for each in (*same.latents.values(), same.joint):
        assert each.discrepancy.p > 0.01
    assert same.latents["z"].moments is None  # its prior is not N(0, 1)
    assert abs(float(same.latents["z"].prior.mean()) - 3) < 0.4  # standard error 0.09
    q = Joint({"a": StandardNormal(1), "z": Alone()})
    apart = aggregate_against_prior(LatentVariableModel(p, q), x, **options)  # type: ignore[arg-type]
    assert apart.joint is not None
    assert apart.joint.name == "a, z"
    assert apart.joint.discrepancy.p == 0.01
    assert all([each.discrepancy.p > 0.01 for each in apart.latents.values()])


@pytest.mark.parametrize("kind", [Categorical, OneHot])
def test_discrete_latents_are_compared_by_category(kind: type[nn.Module]) -> None:
    prior, posterior = kind(3), kind(3)
    bias = [each for each in posterior.parameters() if each.shape == (3,)]
    with torch.no_grad():
        bias[0].copy_(torch.tensor([1.0, 0.0, 0.0]))
    p = Joint({"c": prior, "x | c": Gaussian(1, MLP(3))})
    x = {"x": torch.zeros(300, 1)}
    found = [
        aggregate_against_prior(LatentVariableModel(p, Joint({"c": q})), x, classifiers=QUICK)
        for q in (prior, posterior)
    ]
    same, other = [each.latents["c"].marginals for each in found]
    assert same is not None
    assert other is not None
    assert same.test == "chi-square"
    assert same.p.shape == (1,)
    assert float(same.p) > 0.01
    assert float(other.p) < 1e-3
    assert found[1].latents["c"].discrepancy.p < 0.01


def test_the_decoder_is_not_run_and_missing_elements_are_let_be() -> None:
    class Refuses(nn.Module):
        def forward(self, z: Tensor) -> Distribution:
            raise AssertionError("x was drawn")

    p = Joint({"z": GaussianMixture(2, components=3), "x | z": Refuses()})
    model = LatentVariableModel(p, Joint({"z | x": Shrunk()}))
    x = torch.randn(40, 2)
    x[::3, 0] = float("nan")
    found = aggregate_against_prior(model, {"x": x}, classifiers=QUICK, permutations=9)
    assert found.latents["z"].posterior.isfinite().all()


def test_what_cannot_be_tested_is_refused() -> None:
    model = exact()
    with pytest.raises(ValueError, match="several rows, found 1"):
        aggregate_against_prior(model, {"x": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="needs 10 rows, found 5"):
        aggregate_against_prior(model, {"x": torch.zeros(5, 2)})
    with pytest.raises(ValueError, match="permutations is at least 1"):
        aggregate_against_prior(model, {"x": torch.zeros(20, 2)}, permutations=0)
    with pytest.raises(ValueError, match="not finite"):
        aggregate_against_prior(model, {"x": torch.full((20, 2), math.inf)})
    plain = LatentVariableModel(Joint({"x": Gaussian(2)}))
    with pytest.raises(ValueError, match="q draws nothing"):
        aggregate_against_prior(plain, {"x": torch.zeros(20, 2)})
