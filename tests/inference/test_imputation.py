"""Imputation has right values: exact answers, and brute force with the model's own densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    Normal,
    Poisson,
)

from deeplvm import Joint, LatentVariableModel, conditionals
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.core.trace import score
from deeplvm.distributions import (
    FullCovarianceNormal,
    LowRankNormal,
    Mixture,
    NormalMixture,
    StudentT,
)
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.mixture import MixtureElements
from deeplvm.distributions.product import Product
from deeplvm.distributions.spiked import PiecewiseLinear, Spiked
from deeplvm.inference import complete, impute
from deeplvm.inference.missing import By
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP

NAN = math.nan


class Given(nn.Module):
    """A likelihood that a function of z makes."""

    def __init__(self, make: Callable[..., Distribution], size: int) -> None:
        super().__init__()
        self.make, self.event_shape = make, torch.Size([size])
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, *z: Tensor) -> Distribution:
        return self.make(*z)


def model_of(make: Callable[[Tensor], Distribution], size: int = 2) -> LatentVariableModel:
    """z ~ N(0, 1), and q is the prior."""
    p = Joint({"z": StandardNormal(1), "x | z": Given(make, size)})
    return LatentVariableModel(p, Joint({"z": StandardNormal(1)}))


class Exact(nn.Module):
    """The exact posterior of a complete row of a linear-Gaussian model, off by a factor."""

    def __init__(self, weight: Tensor, mean: Tensor, wider: float) -> None:
        super().__init__()
        covariance = torch.linalg.inv(torch.eye(weight.shape[1]) + weight.T @ weight / 0.25)
        self.gain, self.mean = covariance @ weight.T / 0.25, mean
        self.root = wider * torch.linalg.cholesky(covariance)
        self.event_shape = torch.Size([weight.shape[1]])

    def forward(self, x: Tensor) -> Distribution:
        root = self.root.expand(*x.shape[:-1], *self.root.shape)
        return FullCovarianceNormal((x - self.mean) @ self.gain.T, root)


def linear(
    seed: int = 0, size: int = 4, wider: float = 1.2
) -> tuple[LatentVariableModel, Tensor, Tensor]:
    """A linear-Gaussian model, whose q is right for complete rows; mean and covariance of x."""
    torch.manual_seed(seed)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(size, MLP(2), scale=0.5)})
    layer = p["x"].head.layer
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    weight, mean = layer.weight.detach(), layer.bias.detach()
    model = LatentVariableModel(p, Joint({"z | x": Exact(weight, mean, wider)}))
    return model, mean, weight @ weight.T + 0.25 * torch.eye(size)


def exact(mean: Tensor, covariance: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each missing element given the observed ones."""
    o = ~row.isnan()
    gain = covariance[~o][:, o] @ torch.linalg.inv(covariance[o][:, o])
    centre = mean[~o] + gain @ (row[o] - mean[o])
    return centre, (covariance[~o][:, ~o] - gain @ covariance[o][:, ~o]).diagonal().sqrt()


L = torch.tensor([[1.0, 0.0], [0.9, (1 - 0.81) ** 0.5]], dtype=torch.float64)
W = torch.ones(2, 1, dtype=torch.float64)
TWO = torch.tensor([[2.0, 2.0], [-1.0, -1.0]], dtype=torch.float64)
CORRELATED = {
    "full covariance": (lambda s: FullCovarianceNormal(torch.zeros(*s, 2), L.expand(*s, 2, 2)),
                        [1.8, -0.9]),
    "low rank": (lambda s: LowRankNormal(torch.zeros(*s, 2), W.expand(*s, 2, 1),
                                         torch.full((*s, 2), 0.3)), [2 / 1.09, -1 / 1.09]),
    "normal mixture": (lambda s: NormalMixture(torch.zeros(*s, 2), TWO.expand(*s, 2, 2),
                                               torch.full((*s, 2, 2), 0.3)), [2.0, -1.0]),
    "mixture": (lambda s: Mixture(torch.zeros(*s, 2), [
        DiagonalNormal(each.expand(*s, 2), torch.full((*s, 2), 0.3), 1) for each in TWO]),
        [2.0, -1.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRELATED)
@pytest.mark.parametrize("by", ["mean", "median", "mode"])
def test_elements_that_depend_on_each_other(name: str, by: By) -> None:
    """E[x_m | x_o, z], not E[x_m | z]: exact values, the draws of means of 500 particles apart."""
    make, right = CORRELATED[name]
    model = model_of(lambda z: make(z.shape[:-1]))
    x = torch.tensor([[2.0, NAN], [-1.0, NAN]])
    found = impute(model, {"x": x}, by=by, particles=500)
    # without a distribution function or a mode of their own, mixtures are judged by draws
    tolerance = 0.1 if name == "mixture" or (name == "normal mixture" and by == "mode") else 1e-6
    tolerance = 1e-6 if by == "mean" else tolerance
    torch.testing.assert_close(
        found.values["x"][:, 1], torch.tensor(right), atol=tolerance, rtol=0
    )
    assert found.values["x"][:, 0].equal(x[:, 0])


def test_conditioned_is_the_quotient_of_densities() -> None:
    """log p(x) = log p(x_o) + log p(x_m | x_o), where the conditioned one scores what is left."""
    torch.manual_seed(0)
    factor = torch.randn(3, 3).tril(-1) + torch.eye(3)
    low = LowRankNormal(torch.randn(3), torch.randn(3, 1), torch.rand(3) + 0.5)
    mixture = NormalMixture(torch.randn(4), torch.randn(4, 3), torch.rand(4, 3) + 0.3)
    x = torch.randn(5, 3)
    observed = torch.tensor([True, False, True])
    for joint in (FullCovarianceNormal(torch.randn(3), factor), low, mixture):
        joint = joint.expand(torch.Size([5]))
        some = torch.where(observed, x, NAN)
        rest = joint.conditioned(some, observed.expand(5, 3)).marginals().log_prob(x)[:, 1]
        both = joint.log_prob(x) - score("x", joint, some, missing=True)
        torch.testing.assert_close(rest, both)


def test_a_category_is_the_most_probable_of_the_mean_probabilities() -> None:
    """Truth: a 62.4 %, b 36.6 %, though b is the mode at six of ten draws of z."""

    def make(z: Tensor) -> Distribution:
        low, high = torch.tensor([0.90, 0.09, 0.01]), torch.tensor([0.44, 0.55, 0.01])
        probs = torch.where(z < -0.2533, low, high).unsqueeze(-2)
        real = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)
        return Product([real, Independent(Categorical(probs=probs), 1)], torch.tensor([0, 1]))

    x = torch.tensor([[0.5, NAN]]).repeat(50, 1)
    for by in ("auto", "mean", "median", "mode"):
        found = impute(model_of(make), {"x": x}, by=by, particles=2000, level=0.9)
        assert (found.values["x"][:, 1] == 0).all()
        torch.testing.assert_close(
            found.probability["x"][:, 1], torch.full((50,), 0.624), atol=0.03, rtol=0
        )
        assert found.lower["x"][:, 1].isnan().all()


@pytest.mark.parametrize("by", ["auto", "mean", "median", "mode"])
def test_intervals_and_summaries_of_a_linear_gaussian_model(by: By) -> None:
    """All of them are the exact ones, but for the noise of 4,000 particles."""
    model, mean, covariance = linear()
    x = torch.tensor([[1.0, NAN, -1.0, NAN], [NAN, 0.3, NAN, NAN], [0.1, 0.2, 0.3, 0.4]])
    found = impute(model, {"x": x}, by=by, particles=4000, level=0.95, completed=True)
    allowed = 0.6 if by == "mode" else 0.15  # a density is flat where it is highest
    for row in range(2):
        centre, spread = exact(mean, covariance, x[row])
        holes = x[row].isnan()
        for got, right in (
            (found.values["x"], centre),
            (found.lower["x"], centre - 1.96 * spread),
            (found.upper["x"], centre + 1.96 * spread),
        ):
            assert ((got[row, holes] - right).abs() < allowed * spread).all(), (
                got[row, holes],
                right,
            )
    assert found.values["x"][2].equal(x[2])
    assert found.ess[2].isnan()
    assert found.filled == 5


def test_intervals_hold() -> None:
    """95 % intervals of 600 rows, half of the cells missing, contain 90 to 98 % of the truth.

    With exact intervals the share of some 1,200 cells has a standard error of 0.9 % at most (the
    cells of a row are correlated), so that it leaves the range in less than one of 1,000 seeds.
    """
    model, mean, covariance = linear(1)
    generator = torch.Generator().manual_seed(0)
    full = mean + torch.randn(600, 4, generator=generator) @ torch.linalg.cholesky(covariance).T
    x = torch.where(torch.rand(600, 4, generator=generator) < 0.5, NAN, full)
    found = impute(model, {"x": x}, level=0.95, completed=True)
    holes = x.isnan()
    inside = (found.lower["x"] <= full) & (full <= found.upper["x"])
    assert 0.90 < float(inside[holes].double().mean()) < 0.98
    drawn = impute(model, {"x": x[:200]}, draws=100, completed=True)
    rank = (drawn.draws["x"] < full[:200]).double().mean(0)[holes[:200]]
    assert stats.kstest(rank, "uniform").pvalue > 1e-3  # the failure rate


def test_draws_keep_what_is_observed_and_are_of_the_posterior() -> None:
    """Means of 400 draws within 5 standard errors, as one in a million is not."""
    model, mean, covariance = linear()
    x = torch.tensor([[1.0, NAN, -1.0, NAN]])
    found = impute(model, {"x": x}, draws=400, particles=1000, completed=True)
    draws = found.draws["x"]
    assert draws.shape == (400, 1, 4)
    assert draws[:, 0, 0].eq(1.0).all()
    centre, spread = exact(mean, covariance, x[0])
    holes = x[0].isnan()
    error = (draws[:, 0, holes].mean(0) - centre).abs()
    assert (error < 5 * spread / 20 + 0.05 * spread).all()
    assert ((draws[:, 0, holes].std(0) / spread - 1).abs() < 0.2).all()


def test_counts_levels_flags_and_heavy_tails() -> None:
    """Each by its own default, all against sums over many draws of the same mixture."""
    families: dict[str, tuple[Callable[[Tensor], Distribution], float, float]] = {
        "counts": (lambda z: Poisson((0.8 + z).exp()), 0.0, 60.0),
        "flag": (lambda z: Bernoulli(logits=z + 0.5), 0.0, 1.0),
        "tails": (lambda z: StudentT(3.0 + 0 * z, z, 0.5 + 0 * z), -1e9, 1e9),
        "laplace": (lambda z: Laplace(z + 2.0, 0.3), -1e9, 1e9),
    }
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(5))
    for name, (family, low, high) in families.items():
        torch.manual_seed(2)
        values = family(z).sample()
        model = model_of(lambda z, family=family: Independent(family(z), 1), 1)
        by_name = {
            by: impute(model, {"x": torch.tensor([[NAN]])}, by=by, particles=20_000, level=0.9)
            for by in ("auto", "mean", "median")
        }
        got = {by: float(found.values["x"]) for by, found in by_name.items()}
        assert abs(got["mean"] - float(values.mean())) < 0.06, name
        assert abs(got["median"] - float(values.median())) < 0.06, name
        right = {"counts": round(float(values.mean())), "flag": 1.0}.get(
            name, float(values.mean())
        )
        assert abs(got["auto"] - right) < 0.06, name
        found = by_name["auto"]
        assert abs(float(found.lower["x"]) - float(values.quantile(0.05))) < 0.1, name
        assert abs(float(found.upper["x"]) - float(values.quantile(0.95))) < 0.1, name
        assert low <= float(found.lower["x"]) <= float(found.upper["x"]) <= high
    two = model_of(
        lambda z: DiagonalNormal(torch.where(z > 0.3, 3.0, -1.0), torch.tensor(0.4), 1), 1
    )
    found = impute(two, {"x": torch.tensor([[NAN]])}, by="mode", particles=2000)
    assert abs(float(found.values["x"]) + 1.0) < 0.05  # where most are, and not between


def test_memory_is_that_of_the_columns_own_levels() -> None:
    """A number of 25 million beside a category; at the largest number's size it would be 40 TB."""
    million = torch.tensor(25_000_000.0)

    def make(z: Tensor) -> Distribution:
        real = Independent(Normal(million + z, 1.0), 1)
        probs = torch.tensor([0.2, 0.5, 0.3]).expand(*z.shape, 3)
        return Product([real, Independent(Categorical(probs=probs), 1)], torch.tensor([0, 1]))

    found = impute(model_of(make), {"x": torch.tensor([[25e6, NAN], [NAN, 2.0]])})
    assert found.values["x"][0, 1] == 1
    assert abs(found.values["x"][1, 0] - million) < 1


def test_what_q_draws_is_filled_with_its_particles() -> None:
    """p reads x, so q draws the missing elements of it: exact in a chain of three Gaussians."""

    class Near(nn.Module):
        def __init__(self, event: int) -> None:
            super().__init__()
            self.event_shape = torch.Size([event])
            self.slope = nn.Parameter(torch.tensor(0.8))

        def forward(self, x: Tensor) -> Distribution:
            return DiagonalNormal(self.slope * x, torch.tensor(0.6), 1)

    p = Joint({"x": StandardNormal(1), "w | x": Near(1)})
    model = LatentVariableModel(p, Joint({"x": StandardNormal(1)}))
    found = impute(model, {"x": torch.tensor([[NAN]]), "w": torch.tensor([[1.5]])},
                   particles=20_000, level=0.5)  # fmt: skip
    mean, spread = 1.5 * 0.8, 0.6  # var x = 1, var w = 0.64 + 0.36 = 1
    assert abs(float(found.values["x"]) - mean) < 0.05
    assert abs(float(found.upper["x"]) - mean - 0.6745 * spread) < 0.05


def test_an_encoder_that_saw_no_holes_reads_completed_rows() -> None:
    """q is the exact posterior of complete rows and knows nothing of holes (K1, and 7)."""
    model, mean, covariance = linear(3, 5, wider=1.0)
    generator = torch.Generator().manual_seed(1)
    full = mean + torch.randn(100, 5, generator=generator) @ torch.linalg.cholesky(covariance).T
    x = torch.where(torch.rand(100, 5, generator=generator) < 0.3, NAN, full)
    x = x[x.isnan().any(1) & ~x.isnan().all(1)]
    log_px = torch.stack([_marginal(mean, covariance, row) for row in x])
    plain = importance_sampling(model, {"x": x}, 500)
    wide = complete(model, {"x": x})
    better = importance_sampling(wide.model, wide.data, 500)
    assert (plain.log_px - log_px).abs().max() > 2
    assert (better.log_px - log_px).abs().max() < 0.5
    assert better.heavy < plain.heavy
    filled = {how: impute(model, {"x": x}, completed=how) for how in (False, "auto", True)}
    worst = {}
    for how, found in filled.items():
        errors = [
            ((found.values["x"][i, row.isnan()] - exact(mean, covariance, row)[0])
             / exact(mean, covariance, row)[1]).abs().max()
            for i, row in enumerate(x)
        ]  # fmt: skip
        worst[how] = float(torch.stack(errors).max())
    assert worst[False] > 1
    assert worst["auto"] < worst[False]
    assert worst[True] < 0.5
    assert filled[False].warnings
    assert len(filled[True].warnings) <= len(filled[False].warnings)


def _marginal(mean: Tensor, covariance: Tensor, row: Tensor) -> Tensor:
    o = ~row.isnan()
    own = torch.distributions.MultivariateNormal(mean[o], covariance[o][:, o])
    return own.log_prob(row[o])


def test_rows_are_the_same_in_any_company() -> None:
    model, *_ = linear()
    x = torch.where(torch.rand(9, 4, generator=torch.Generator().manual_seed(0)) < 0.4, NAN, 1.0)
    x += torch.arange(9)[:, None]
    options = {"level": 0.9, "draws": 2, "completed": True}
    whole = impute(model, {"x": x}, **options)
    parts = impute(model, {"x": x.flip(0)}, batch_size=2, **options)
    torch.testing.assert_close(whole.values["x"], parts.values["x"].flip(0), equal_nan=True)
    torch.testing.assert_close(whole.draws["x"], parts.draws["x"].flip(1), equal_nan=True)


@pytest.mark.parametrize("particles", [1000, 400])  # the fewer are drawn twice
def test_columns_of_several_kinds_of_which_only_draws_are_known(particles: int) -> None:
    """Two classes tell a number and a category apart, and neither has a marginal by itself."""

    def make(z: Tensor) -> Distribution:
        def part(loc: float, probs: list[float]) -> Distribution:
            real = DiagonalNormal(torch.full((*z.shape[:-1], 1), loc), torch.tensor(0.5), 1)
            table = torch.tensor(probs).expand(*z.shape[:-1], 1, 3)
            other = Independent(Categorical(probs=table), 1)
            return Product([real, other], torch.tensor([0, 1]))

        parts = [part(2.0, [0.1, 0.1, 0.8]), part(-2.0, [0.7, 0.2, 0.1])]
        return Mixture(torch.zeros(*z.shape[:-1], 2), parts)

    x = torch.tensor([[2.1, NAN], [-1.9, NAN], [NAN, 2.0], [NAN, NAN]])
    found = impute(model_of(make), {"x": x}, particles=particles, level=0.9)
    assert found.values["x"][:2, 1].tolist() == [2.0, 0.0]
    assert abs(float(found.values["x"][2, 0]) - (2 * 0.8 - 2 * 0.1) / 0.9) < 0.15
    assert abs(float(found.values["x"][3, 0])) < 0.25
    torch.testing.assert_close(
        found.probability["x"][:2, 1], torch.tensor([0.8, 0.7]), atol=0.05, rtol=0
    )


def test_a_quantile_that_is_an_atom_is_the_atom() -> None:
    """P(x < 0) is 0.03 and P(x = 0) 0.9; halving intervals ended beside 0."""
    line = torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    def spiked(z: Tensor) -> Distribution:
        shape = (*z.shape[:-1], 2)
        logits = torch.tensor([9.0, 1.0]).log().expand(*shape, 2)
        one = torch.ones(*shape, 1)
        atoms = torch.zeros(2, 1)
        return Independent(Spiked(logits, one, one, atoms, PiecewiseLinear(line, line)), 1)

    row = torch.tensor([[5.0, NAN]])
    found = impute(model_of(spiked), {"x": row}, by="median", level=0.8, particles=20)
    assert found.values["x"][0, 1] == 0
    assert found.lower["x"][0, 1] == found.upper["x"][0, 1] == 0


def test_refusals() -> None:
    model, *_ = linear()
    with pytest.raises(
        ValueError, match="by is one of auto, mean, median, mode, draw, not 'best'"
    ):
        impute(model, {"x": torch.zeros(1, 4)}, by="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level is a probability between 0 and 1"):
        impute(model, {"x": torch.zeros(1, 4)}, level=95)
    found = impute(model, {"x": torch.zeros(2, 4)})
    assert (found.filled, found.warnings) == (0, ())

    class Bound(nn.Module):
        event_shape = torch.Size([2])

        def forward(self, z: Tensor) -> Distribution:
            own = FullCovarianceNormal(
                torch.zeros(*z.shape[:-1], 2), L.expand(*z.shape[:-1], 2, 2)
            )
            marginal = own.observed_log_prob
            plain = torch.distributions.MultivariateNormal(own.loc, scale_tril=own.root())
            plain.observed_log_prob = marginal  # type: ignore[attr-defined]
            plain.expand = lambda shape: plain  # type: ignore[method-assign]
            return plain

    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Bound()}), Joint({"z": StandardNormal(1)})
    )
    with pytest.raises(ValueError, match="MultivariateNormal of 'x' does not say how"):
        impute(model, {"x": torch.tensor([[1.0, NAN]])})


def test_elements_of_a_mixture_that_go_together_are_filled_in_exactly() -> None:
    """By the conditionals of its components, which a row weighs; nothing is drawn."""
    loc = torch.tensor([[0.0, 1.0, 0.0], [2.0, -1.0, 3.0]], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0], [-0.3, 0.4, 0.7]], dtype=torch.float64)
    parts = [
        FullCovarianceNormal(loc[0], factor),
        FullCovarianceNormal(loc[1], 0.5 * factor.abs()),
    ]
    logits = torch.tensor([0.2, -0.1], dtype=torch.float64)
    p = Joint({"x": Given(lambda: Mixture(logits, parts), 3)})
    model = LatentVariableModel(p).double()
    x = torch.tensor([[0.7, NAN, 1.1], [NAN, NAN, NAN]], dtype=torch.float64)
    given = [p.covariance_matrix for p in parts]
    seen = [0, 2]
    mean, scale, weight = [], [], []
    for place, covariance in enumerate(given):
        inner = covariance[seen][:, seen]
        gain = torch.linalg.solve(inner, covariance[seen, 1])
        mean.append(float(loc[place, 1] + gain @ (x[0, seen] - loc[place, seen])))
        scale.append(float((covariance[1, 1] - gain @ covariance[seen, 1]).sqrt()))
        density = stats.multivariate_normal(loc[place, seen].numpy(), inner.numpy())
        weight.append(float(logits[place].exp()) * density.pdf(x[0, seen].numpy()))
    share = [each / sum(weight) for each in weight]

    parts_of = list(zip(share, mean, scale, strict=True))

    def below(value: float) -> float:
        return sum([s * stats.norm.cdf(value, m, d) for s, m, d in parts_of])

    found = impute(model, {"x": x}, by="mean", level=0.9)
    middle = impute(model, {"x": x}, by="median")
    exact = sum([s * m for s, m in zip(share, mean, strict=True)])
    assert float(found.values["x"][0, 1]) == pytest.approx(exact, abs=1e-10)
    assert below(float(middle.values["x"][0, 1])) == pytest.approx(0.5, abs=1e-9)
    assert below(float(found.lower["x"][0, 1])) == pytest.approx(0.05, abs=1e-9)
    assert below(float(found.upper["x"][0, 1])) == pytest.approx(0.95, abs=1e-9)
    assert torch.allclose(found.values["x"][1], logits.softmax(0) @ loc)


@pytest.mark.parametrize("step", [None, 1.0])
@pytest.mark.parametrize("given", [False, True])
def test_cells_of_latent_classes_are_those_of_a_mixture_of_products(
    step: float | None, given: bool
) -> None:
    """Every class of every row by itself, and in any company: to nine digits."""
    torch.manual_seed(0)
    knots = torch.tensor([[0.0, 1.0, 5.0], [-2.0, 0.0, 7.0]])
    atoms = torch.tensor([[0.0, 4.0], [1.0, NAN]])
    numbers = partial(conditionals.Spiked, 2, knots=knots, atoms=atoms, components=2, step=step)
    flag, codes = partial(conditionals.Bernoulli, 1), partial(conditionals.Categorical, 3, shape=2)
    groups = [((1, 4), codes), ((0, 2), numbers), ((3,), flag), ((5,), partial(Gaussian, 1))]
    columns = conditionals.Columns(groups)
    row = conditionals.LatentClasses(columns, MLP(2, 4) if given else None, classes=3, spread=1.5)
    row = row.double()
    x = torch.tensor([[0.0, 2, 1, 1, 0, 0.5], [3, 0, 5, 0, 2, -1], [1, 1, 2, 1, 1, 0.0]])
    x = x.double().repeat(5, 1)
    x[torch.rand(x.shape) < 0.5] = NAN
    data = {"x": x, **({"u": torch.randn(15, 2).double()} if given else {})}

    def mixture(*parents: Tensor) -> Distribution:
        own = row(*parents)
        each = own.table.unbind(-2)
        return Mixture(own.log_weights, [row.of(table) for table in each], own.batch_shape)

    key = "x | u" if given else "x"
    model, other = (
        LatentVariableModel(Joint({key: each})).double() for each in (row, Given(mixture, 6))
    )
    for by in ("auto", "mean", "median"):
        found, right = (impute(each, data, by=by, level=0.9) for each in (model, other))
        for one, two in [
            (found.values, right.values), (found.probability, right.probability),
            (found.lower, right.lower), (found.upper, right.upper),
        ]:  # fmt: skip
            torch.testing.assert_close(one["x"], two["x"], rtol=1e-9, atol=1e-9, equal_nan=True)
    turned = {name: value.flip(0) for name, value in data.items()}
    again = impute(model, turned, by="median", level=0.9, batch_size=4)
    torch.testing.assert_close(again.lower["x"].flip(0), found.lower["x"], equal_nan=True)


def test_the_mode_of_a_mixture_of_numbers_is_no_draw() -> None:
    """The densest centre of a class; where a value repeats, the more probable of the two."""
    centres = torch.tensor([[-1.0], [4.0]])
    row = MixtureElements(torch.tensor([0.3, 0.7]).log(), Normal(centres, 1.0))
    assert row.mode.tolist() == [4.0]
    line = PiecewiseLinear(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    logits = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]]])
    each = Spiked(logits, centres[..., None], torch.ones(2, 1, 1), torch.zeros(1, 1), line)
    assert MixtureElements(torch.tensor([0.3, 0.7]).log(), each).mode.tolist() == [0.0]
    probs = each.log_prob(torch.zeros(1)).exp().flatten() @ torch.tensor([0.3, 0.7])
    whole = each.mixed(torch.tensor([0.3, 0.7]).log())
    assert float(whole.log_prob(torch.zeros(1)).exp()) == pytest.approx(float(probs))
