"""Holes: densities by hand, none where there are none, and a planted one found at its size."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.evaluation.latents import prior_holes
from deeplvm.evaluation.latents.prior_holes import Holes, holes, share_below
from deeplvm.inference import SemiAmortised
from deeplvm.networks import MLP
from deeplvm.recurrent import Plate


class Around(nn.Module):
    """q(z | x) = N(a x, s²)."""

    def __init__(self, dimensions: int = 2, slope: float = 1.0, scale: float = 0.3) -> None:
        super().__init__()
        self.event_shape = torch.Size([dimensions])
        self.slope, self.scale = slope, scale

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(self.slope * x, self.scale), 1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def model_of(posterior: nn.Module, dimensions: int = 2) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(dimensions), "x | z": Gaussian(dimensions, MLP(dimensions))})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def within(found: Holes, expected: float, times: float = 4.0) -> bool:
    return abs(found.hole.value - expected) < times * found.hole.stderr


def test_densities_are_those_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw under every row but its own, in any batches; the worst ones first."""
    x = torch.randn(30, 2)
    model = model_of(Around())
    monkeypatch.setattr(prior_holes, "_BATCH", 7)
    found = holes(model, {"x": x}, draws=200, worst=200)
    z = found.worst["z"]
    log_q = Normal(x, 0.3).log_prob(z[:, None]).sum(-1)
    expected = log_q.logsumexp(1) - math.log(30)
    assert torch.allclose(found.worst_log_density, expected, atol=1e-10)
    assert torch.allclose(found.aggregate_at_prior.sort().values, expected, atol=1e-10)
    # log p at the same draws, in their own order
    assert found.prior_at_prior is not None
    by_draw = stats.norm.logpdf(z.numpy()).sum(-1)
    assert torch.allclose(
        found.prior_at_prior[found.aggregate_at_prior.argsort()], torch.from_numpy(by_draw)
    )
    # all posteriors N(0, s² I): the prior beyond the contour that holds 99 % of it
    exact = float(stats.chi2.sf(0.09 * stats.chi2.isf(0.01, 2), 2))
    assert within(holes(model, {"x": torch.zeros(30, 2)}), exact)


def test_the_own_row_is_left_out() -> None:
    """Rows far apart: with its own, a draw has the density of N(0, s²) / N; without, none."""
    x = 100.0 * torch.arange(10.0)[:, None]
    found = holes(model_of(Around(1), 1), {"x": x}, draws=100)
    assert bool((found.aggregate_at_posterior < -1_000).all())
    assert len(found.aggregate_at_posterior) == 100
    # two rows with one posterior: the other's density is it, whose mean is minus its entropy
    found = holes(model_of(Around(1), 1), {"x": torch.zeros(2, 1)})
    entropy = float(Normal(0.0, 0.3).entropy())
    assert float(found.aggregate_at_posterior.mean()) == pytest.approx(-entropy, abs=0.1)


def test_no_hole_where_the_aggregate_is_the_prior() -> None:
    """x ~ N(0, I), q = N(ρx, 1 − ρ²): 1 % each, within four standard errors, over 20 data sets."""
    posterior = Around(2, 0.9, math.sqrt(1 - 0.81))
    shares = {"hole": [], "uncovered": [], "outside": []}
    for seed in range(20):
        x = torch.randn(300, 2)
        found = holes(model_of(posterior), {"x": x}, draws=300, seed=seed)
        for name, values in shares.items():
            values.append(getattr(found, name))
        if seed == 0:
            assert within(found, 0.01)
    for values in shares.values():
        mean = sum([each.value for each in values]) / 20
        error = math.sqrt(sum([each.stderr**2 for each in values])) / 20
        # a quantile of 300 draws: its level is 1 % only to about 1 / 300
        assert abs(mean - 0.01) < 4 * error + 1 / 300


def test_a_ring_has_a_hole_within_and_nothing_outside() -> None:
    """Posteriors on a circle of radius 2.5: of the prior, P(R < 1.2) = 51 % is in the middle.

    The density that 1 % of the aggregate's draws do not reach is found by integration of the
    ring's law over 200,000 draws, and so are the shares of the prior; four standard errors.
    """
    angle = 2 * math.pi * torch.rand(400)
    x = 2.5 * torch.stack([angle.cos(), angle.sin()], 1)
    found = holes(model_of(Around()), {"x": x}, draws=1_000)

    def log_q(z: Tensor) -> Tensor:  # of the whole ring: E exp(κ cos) is a Bessel function
        radius = z.norm(dim=1)
        kappa = 2.5 * radius / 0.09
        bessel = torch.special.i0e(kappa).log() + kappa
        return bessel - (radius.square() + 2.5**2) / 0.18 - math.log(2 * math.pi * 0.09)

    turn = 2 * math.pi * torch.rand(200_000)
    ours = 2.5 * torch.stack([turn.cos(), turn.sin()], 1) + 0.3 * torch.randn(200_000, 2)
    prior = torch.randn(200_000, 2)
    threshold = log_q(ours).quantile(0.01)
    expected = float((log_q(prior) < threshold).double().mean())
    assert expected > 0.7
    assert within(found, expected)
    # the ratio takes all but the ring's own band for uncovered, and the middle is the worst
    assert found.uncovered is not None
    assert found.uncovered.value > 0.7
    assert float(found.worst["z"].norm(dim=1).max()) < 1.0
    ratio = found.prior_ratio
    assert ratio is not None
    exact = -(prior.square().sum(1) / 2 + math.log(2 * math.pi)) - log_q(prior)
    assert float(ratio.mean()) == pytest.approx(float(exact.mean()), rel=0.15)
    assert "left" not in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_reverse_is_found() -> None:
    """An aggregate N(0, 4): its share beyond the prior's 1 % contour is P(χ² > 9.21 / 4)."""
    x = torch.randn(400, 2)
    found = holes(model_of(Around(2, math.sqrt(3.91))), {"x": x}, draws=1_000)
    assert found.outside is not None
    exact = stats.chi2.sf(stats.chi2.isf(0.01, 2) / 4, 2)
    assert abs(found.outside.value - exact) < 4 * found.outside.stderr
    assert found.hole.value < 0.005
    mean = found.posterior_ratio
    assert mean is not None
    exact_kl = 0.5 * (2 * 4 - 2 - 2 * math.log(4))  # KL(N(0, 4) || N(0, 1)), two dimensions
    assert abs(float(mean.mean()) - exact_kl) < 0.5


def test_a_mixture_and_its_label_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discrete and a real latent that reads it: log q(c | x) + log q(z | c, x), by hand."""

    class Shifted(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, c: Tensor, x: Tensor) -> Distribution:
            return Independent(Normal(3 * c.argmax(-1, keepdim=True) + 0.1 * x, 0.5), 1)

    label = Categorical(2, MLP(1))
    p = Joint({"c": Categorical(2), "z": StandardNormal(1), "x | z, c": Gaussian(1, MLP(3))})
    model = LatentVariableModel(p, Joint({"c | x": label, "z | c, x": Shifted()}))
    x = torch.randn(20, 1)
    monkeypatch.setattr(prior_holes, "_BATCH", 6)
    found = holes(model, {"x": x}, draws=100, worst=100)
    c, z = found.worst["c"], found.worst["z"]
    logits = label(x).base_dist.logits
    log_c = TorchCategorical(logits=logits).log_prob(c[:, None].expand(-1, 20).long())
    log_z = Normal(3 * c[:, None] + 0.1 * x[:, 0], 0.5).log_prob(z)
    expected = (log_c + log_z).logsumexp(1) - math.log(20)
    assert torch.allclose(found.worst_log_density, expected, atol=1e-10)
    assert model.sample(given=found.worst)["x"].value.shape == (100, 1)


def test_inputs_go_with_the_worst_draws_and_an_open_prior_has_no_density() -> None:
    """p(z | y): decodable with the rows' y as input; with y drawn by p, p(z) is an integral."""
    data = {"x": torch.randn(30, 2), "y": torch.arange(30) % 3}

    class Of(nn.Module):
        event_shape = torch.Size([2])

        def forward(self, y: Tensor) -> Distribution:
            y = y.argmax(-1) if y.dim() > 1 else y  # one-hot where p draws it
            return Independent(Normal(y.double()[:, None].expand(-1, 2), 1.0), 1)

    given = Joint({"z | y": Of(), "x | z": Gaussian(2, MLP(2))})
    model = LatentVariableModel(given, Joint({"z | x": Around()}))
    found = holes(model, data, draws=100, worst=5)
    assert set(found.worst) == {"z", "y"}
    assert found.prior_at_prior is not None
    assert model.sample(given=found.worst)["x"].value.shape == (5, 2)
    own = Joint({"y": Categorical(3), "z | y": Of(), "x | z": Gaussian(2, MLP(2))})
    model = LatentVariableModel(own, Joint({"z | x": Around()}))
    found = holes(model, data, draws=100)
    assert found.uncovered is None
    assert found.prior_ratio is None
    assert "uncovered" not in str(found)


def test_members_of_a_plate_are_one_draw() -> None:
    """Latents of a set: densities are sums over members, of p too, though p draws x with them."""
    members = Plate({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1))}, repeats=2)
    q = Joint({"z | x": Plate({"z | x": Around(1)})})
    model = LatentVariableModel(Joint({"z, x": members}), q)
    x = torch.randn(20, 2, 1)
    found = holes(model, {"x": x}, draws=100, worst=100)
    z = found.worst["z"]
    expected = Normal(x, 0.3).log_prob(z[:, None]).sum((-1, -2)).logsumexp(1) - math.log(20)
    assert torch.allclose(found.worst_log_density, expected, atol=1e-10)
    assert found.prior_at_prior is not None
    log_p = torch.from_numpy(stats.norm.logpdf(z.numpy()).sum((-1, -2)))
    assert torch.allclose(found.prior_at_prior[found.aggregate_at_prior.argsort()], log_p)


def test_share_below_is_exact_and_its_error_is_told() -> None:
    values, reference = torch.arange(1_000.0), torch.arange(1_000.0)
    # of the 1,001 places among 1,000 draws 10.01 are below: between the 10th and the 11th
    assert share_below(values, reference, 0.01).value == pytest.approx(0.00901, abs=1e-12)
    shares = [
        share_below(torch.randn(500), torch.randn(100) + 0.5, 0.05, seed) for seed in range(60)
    ]
    spread = torch.tensor([each.value for each in shares]).std()
    told = sum([each.stderr for each in shares]) / 60
    assert told == pytest.approx(float(spread), rel=0.4)  # 60 shares tell their spread to 0.09
    none = share_below(torch.ones(100), torch.full((100,), -math.inf), 0.01)
    assert none.value == 0.0
    assert none.stderr > 0
    assert none.to_dict()["threshold"] is None


def test_what_has_no_answer_is_refused() -> None:
    model = model_of(Around())
    with pytest.raises(ValueError, match="several rows, found 1"):
        holes(model, {"x": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="at least 1 / level"):
        holes(model, {"x": torch.zeros(9, 2)}, draws=50)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    semi = SemiAmortised(Joint({"z | x": Gaussian(2, MLP(2))}), p, steps=1, learning_rate=0.1)
    with pytest.raises(ValueError, match="give the model with its encoder"):
        holes(LatentVariableModel(p, semi), {"x": torch.zeros(20, 2)})
    plain = LatentVariableModel(Joint({"x": Gaussian(2)}))
    with pytest.raises(ValueError, match="q draws nothing"):
        holes(plain, {"x": torch.zeros(20, 2)})


@pytest.mark.parametrize("draws", [30, 100, 500])
def test_a_hole_of_equal_laws_is_one_percent_on_average(draws: int) -> None:
    """Over 20,000 data sets, within 5 standard errors: one failure in a million seeds.

    In a uniform law the share below a threshold is the threshold.
    """
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 0.5 / 20_000
    reference = torch.rand(20_000, draws, generator=generator, dtype=torch.float64)
    shares = prior_holes._below(grid, reference, 0.01)
    error = float(shares.std()) / math.sqrt(len(shares))
    assert abs(float(shares.mean()) - 0.01) < 5 * error + 1e-4
