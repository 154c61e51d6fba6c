"""Mutual information of rows and latents: closed forms, enumeration, and the stated biases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.core.draws import Held
from deeplvm.core.evidence import density
from deeplvm.evaluation.latents import pairwise as scoring
from deeplvm.evaluation.latents.mutual_information import BIAS, information_of, mutual_information
from deeplvm.networks import MLP
from deeplvm.objectives.total_correlation import Sampler, divergence_parts


class Linear(nn.Module):
    """q(z | x) = N(A x, diag(s²))."""

    event_shape = torch.Size([2])
    weight = torch.tensor([[1.0, 0.5], [-0.3, 0.8]])
    scale = torch.tensor([0.5, 0.7])

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x @ self.weight.to(x).T, self.scale.to(x)), 1)


def with_posterior(posterior: nn.Module) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def chain() -> LatentVariableModel:
    torch.manual_seed(1)
    p = Joint({"a": StandardNormal(2), "b | a": Gaussian(1, MLP(2)), "x | b": Gaussian(3, MLP(1))})
    q = Joint(
        {
            "a | x": Gaussian(2, MLP(3, 8)),
            "b | a, h": Gaussian(1, MLP(6)),
            "h | x": nn.Linear(3, 4),
        }
    )
    return LatentVariableModel(p, q)


def test_linear_gaussian() -> None:
    """x ~ N(0, I): q(z) is Gaussian, I = ½ log |A A' + S| / |S|; the estimates enclose it.

    4 standard errors of 2,000 rows each side: one seed in 30,000 fails.
    """
    q = Linear()
    noise = q.scale.double().square().diag()
    weight = q.weight.double()
    exact = 0.5 * float((weight @ weight.T + noise).logdet() - noise.logdet())
    found = mutual_information(with_posterior(q), {"x": torch.randn(2_000, 2)})["z"]
    for name in ("aggregate", "leave_one_out"):
        assert abs(found[name].value - exact) < 4 * found[name].stderr, name
    assert found["aggregate"].value < found["leave_one_out"].value
    assert found["aggregate"].stderr < 0.03
    # stratified is too high by half the variance of a noisy aggregate, a few percent at B = 128
    assert exact - 4 * found["stratified"].stderr < found["stratified"].value < exact + 0.2
    assert found["info_nce"].value < exact + 4 * found["info_nce"].stderr
    assert exact + math.log(100) < found["weighted"].value < exact + math.log(2_100)
    assert not found.saturated


def test_exact_aggregate_by_quadrature() -> None:
    """I_q(n; z) of 5 rows and one dimension, by a sum over a grid; 4 standard errors of draws.

    One seed in 15,000 fails.
    """

    class Narrow(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, x: Tensor) -> Distribution:
            return Independent(Normal(x, 0.4), 1)

    x = torch.tensor([[-1.0], [-0.8], [0.1], [0.6], [2.0]])
    grid = torch.linspace(-6, 7, 20_001)
    density = Normal(x, 0.4).log_prob(grid).exp()
    aggregate = density.mean(0)
    ratio = torch.where(density > 0, (density / aggregate).log(), 0.0)
    step = grid[1] - grid[0]
    each = (density * ratio).sum(1) * step
    variance = (density * ratio.square()).sum(1) * step - each.square()  # of a draw, row by row
    exact, error = float(each.mean()), float((variance.sum() / 20_000).sqrt() / 5)
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1))})
    model = LatentVariableModel(p, Joint({"z | x": Narrow()}))
    found = mutual_information(model, {"x": x}, particles=20_000)["z"]["aggregate"]
    assert found.value == pytest.approx(exact, abs=4 * error)  # only the draws are noise
    assert error < 0.005


def test_enumerated_latents_are_exact() -> None:
    """TB2: every estimate by a sum over all values and rows, to 1e-10."""
    torch.manual_seed(3)
    p = Joint({"z": Categorical(4), "x | z": Bernoulli(5, MLP(4, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Categorical(4, MLP(5, 8))}))
    x = torch.randint(2, (7, 5)).double()
    with torch.no_grad():
        q: Any = model.q["z"]
        share = torch.stack([q(x).log_prob(torch.full((7,), k)) for k in range(4)], 1).exp()
    n = len(x)
    total = share.sum(0)
    expected = {
        "aggregate": total / n,
        "leave_one_out": (total - share) / (n - 1),
        "stratified": total / n,  # the minibatch is the data set
        "weighted": total / n**2,
        "info_nce": total / n,
    }
    found = mutual_information(model, {"x": x}, draw={"z": Enumerated()}, minibatch=7)["z"]
    assert set(found.estimates) == set(BIAS) == set(expected)
    for name, aggregate in expected.items():
        exact = float((share * (share / aggregate).log()).sum(1).mean())
        assert found[name].value == pytest.approx(exact, abs=1e-10), name
    assert found["aggregate"].value <= math.log(n)


def test_minibatch_estimates_are_those_of_the_objective() -> None:
    """The same draws under ``divergence_parts``, of the same rows."""
    model = with_posterior(Gaussian(2, MLP(2, 8)))
    x, draw = torch.randn(6, 2), {"z": Held(torch.randn(3, 6, 2))}
    found = mutual_information(model, {"x": x}, draw=draw, minibatch=6, particles=3)["z"]
    samplers: tuple[Sampler, ...] = ("stratified", "weighted")
    for sampler in samplers:
        with torch.no_grad():
            evidence = model.evidence({"x": x}, particles=3, draw=draw)
            parts = divergence_parts(evidence, 6, sampler=sampler)
        expected = float(parts.mutual_information.mean())
        assert found[sampler].value == pytest.approx(expected, abs=1e-10)


def test_minibatches_of_larger_data() -> None:
    """Two draws of 40 rows in minibatches of 10, with the weights of each row's minibatch."""
    model = with_posterior(Gaussian(2, MLP(2, 8)))
    x, value = torch.randn(40, 2), torch.randn(2, 40, 2)
    found = scoring.scores_of(
        model, {"x": x}, particles=2, minibatch=10,
        draw={"z": Held(value)}, seed=0,
    )  # fmt: skip
    with torch.no_grad():
        q: Any = model.q["z"]
        score = q(x).log_prob(value.unsqueeze(2))  # (2, n, m)
    own = torch.eye(40, dtype=torch.bool)
    group = found.groups["z"]
    others = score.masked_fill(own, -math.inf).logsumexp(-1)
    assert torch.allclose(group.others, others, atol=1e-10)
    assert (found.sizes == 10).all()
    torch.manual_seed(0)
    batch = torch.empty(40, dtype=torch.long)
    batch[torch.randperm(40)] = torch.arange(40) % 4
    apart = own | (batch[:, None] != batch)
    near = score.masked_fill(apart, -math.inf).logsumexp(-1)
    assert torch.allclose(group.near, near, atol=1e-10)
    stratified = torch.logaddexp(score[:, own] - math.log(40), near + math.log(39 / (40 * 9)))
    expected = float((score[:, own] - stratified).mean())
    assert information_of(found, "z")["stratified"].value == pytest.approx(expected, abs=1e-10)


def test_order_of_the_bounds() -> None:
    """With few rows and a narrow q: minibatch below log B, aggregate below log N, others above."""

    class Sharp(Linear):
        scale = torch.tensor([0.01, 0.01])

    found = mutual_information(
        with_posterior(Sharp()), {"x": torch.randn(60, 2)}, minibatch=10, particles=4
    )["z"]
    value = {name: each.value for name, each in found.estimates.items()}
    assert value["info_nce"] <= math.log(10) < value["aggregate"] <= math.log(60)
    assert value["stratified"] >= value["aggregate"]
    assert value["weighted"] >= value["aggregate"] + math.log(10) - 1e-9
    assert value["leave_one_out"] > 2 * value["aggregate"]  # loose where rows do not overlap
    assert found.saturated
    assert "more rows" in str(found)


def test_collapsed_and_several_latents() -> None:
    """R2.8.1c: no information under a q that ignores x; a latent below another counts jointly."""
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    blind = LatentVariableModel(p, Joint({"z": Gaussian(2)}))
    for each in mutual_information(blind, {"x": torch.randn(20, 2)}).values():
        assert each["aggregate"].value == pytest.approx(0, abs=1e-12)
        assert each["leave_one_out"].value == pytest.approx(0, abs=1e-12)
    found = mutual_information(chain(), {"x": torch.randn(30, 3)}, particles=20)
    assert list(found) == ["a", "a, b"]  # b reads a: it has no q(b | x)
    assert found["a, b"]["aggregate"].value > found["a"]["aggregate"].value  # chain rule


def test_joint_scores_by_hand() -> None:
    """Of a chain with a computed node, against the densities of each pair of rows."""
    model = chain()
    x = torch.randn(4, 3)
    draw = {"a": Held(torch.randn(2, 4, 2)), "b": Held(torch.randn(2, 4, 1))}
    score = torch.empty(2, 4, 4)
    with torch.no_grad():
        for m in range(4):
            trace = model.q({"x": x[m].expand(4, 3)}, (2, 4), draw=draw)
            score[:, :, m] = density(trace["a"]) + density(trace["b"])
    own = score.diagonal(dim1=1, dim2=2)
    exact = float((own - score.logsumexp(-1) + math.log(4)).mean())
    found = mutual_information(model, {"x": x}, particles=2, draw=draw)
    assert found["a, b"]["aggregate"].value == pytest.approx(exact, abs=1e-10)


def test_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, the same numbers."""
    model = with_posterior(Gaussian(2, MLP(2, 8)))
    x = torch.randn(40, 2)
    first = mutual_information(model, {"x": x}, particles=2)["z"].to_dict()
    monkeypatch.setattr(scoring, "_ELEMENTS", 3_000)
    parts = mutual_information(model, {"x": x}, particles=2)["z"]
    assert parts["aggregate"].value == pytest.approx(
        first["estimates"]["aggregate"]["value"], abs=1e-12
    )
    assert mutual_information(model, {"x": x[:10]})["z"].rows == 10


def test_missing_values_and_labels() -> None:
    """Holes are read as the encoder reads them; a label of the data can be drawn all the same."""
    x = torch.randn(20, 2)
    x[3, 1] = torch.nan
    found = mutual_information(with_posterior(Gaussian(2, MLP(2, 8))), {"x": x})["z"]
    assert math.isfinite(found["leave_one_out"].value)
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    data = {"x": torch.randn(9, 2), "y": torch.zeros(9, dtype=torch.long)}
    assert set(mutual_information(model, data, draw={"y": Enumerated()})) == {"y"}
    with pytest.raises(ValueError, match="no latent is left"):
        mutual_information(model, data)


@pytest.mark.parametrize(
    "options, rows, match",
    [
        ({"particles": 0}, 4, "particles is at least 1"),
        ({"minibatch": 1}, 4, "minibatch is at least 2"),
        ({}, 1, "One row has no aggregate"),
    ],
)
def test_refusals(options: dict[str, Any], rows: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mutual_information(with_posterior(Linear()), {"x": torch.randn(rows, 2)}, **options)


def test_shared_latents_and_unknown_names() -> None:
    p = Joint({"w": StandardNormal(1), "x | w": Gaussian(2, MLP(1))}, shared=["w"])
    model = LatentVariableModel(p, Joint({"w": Gaussian(1)}, shared=["w"]))
    with pytest.raises(ValueError, match="All rows share w"):
        mutual_information(model, {"x": torch.randn(4, 2)})
    found = mutual_information(with_posterior(Linear()), {"x": torch.randn(4, 2)})["z"]
    with pytest.raises(KeyError, match="There is no 'mine'"):
        found["mine"]


def test_whatever_the_distribution() -> None:
    """A density that does not factorise has the same numbers as one that does."""

    class Dense(Linear):
        def forward(self, x: Tensor) -> Distribution:
            return MultivariateNormal(x @ self.weight.to(x).T, self.scale.to(x).square().diag())

    data, draw = {"x": torch.randn(6, 2)}, {"z": Held(torch.randn(1, 6, 2))}
    dense, plain = (
        mutual_information(with_posterior(q), data, draw=draw)["z"]["aggregate"].value
        for q in (Dense(), Linear())
    )
    assert dense == pytest.approx(plain, abs=1e-10)
