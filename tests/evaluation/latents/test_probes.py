"""Probes: accuracies known beforehand, comparison on the raw values, clusters and labels."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, OneHot, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation.latents.posterior_means import encode
from deeplvm.evaluation.latents.probes import _agreement, probes
from deeplvm.networks import MLP


class Reads(nn.Module):
    """q(z | x) with mean x[from], and much noise, which a posterior mean does not have."""

    def __init__(self, *columns: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([len(columns)])
        self.columns = list(columns)

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x[..., self.columns], 5.0), 1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def reading(*columns: int, elements: int = 4) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(len(columns)), "x | z": Gaussian(elements, MLP(len(columns)))})
    return LatentVariableModel(p, Joint({"z | x": Reads(*columns)}))


def labelled(rows: int, gap: float) -> dict[str, Tensor]:
    """Two classes in equal parts, ``gap`` apart in x[0]; the other columns are noise."""
    y = torch.arange(rows) % 2
    x = torch.randn(rows, 4)
    x[:, 0] += gap * y
    return {"x": x, "y": y}


def halves(data: dict[str, Tensor], seed: int = 0) -> list[dict[str, Tensor]]:
    """Rows to learn from, chosen at random, and the others to score."""
    order = torch.randperm(len(data["y"]), generator=torch.Generator().manual_seed(seed))
    half = len(order) // 2
    parts = (order[:half].sort().values, order[half:].sort().values)
    return [{name: value[part] for name, value in data.items()} for part in parts]


def test_a_linear_probe_reaches_the_bayes_accuracy() -> None:
    """Φ(gap / 2) from the informed latent, from x too; 1/2 from a latent of noise.

    Four standard errors, and 0.01 for what is lost in learning from 1,500 rows.
    """
    data = labelled(3_000, 2.0)
    found = probes(reading(0, 1), *halves(data, 1), neighbours=(1, 25), seed=1)
    bayes = float(stats.norm.cdf(1.0))
    for name in ("z", "x"):
        linear = found.representations[name].linear
        assert abs(linear.value - bayes) < 4 * linear.stderr + 0.01
    z = found.representations["z"]
    assert z.linear.stderr == pytest.approx(
        math.sqrt(z.linear.value * (1 - z.linear.value) / 1_500), rel=1e-9
    )
    assert z.neighbours[1].value < z.neighbours[25].value  # one neighbour: its label's noise
    assert abs(z.neighbours[25].value - bayes) < 4 * z.neighbours[25].stderr + 0.02
    blind = probes(reading(1, 2), *halves(data), neighbours=(25,)).representations["z"]
    for score in (blind.linear, blind.neighbours[25]):
        assert abs(score.value - 0.5) < 4 * score.stderr
    assert abs(found.chance.value - 0.5) < 4 * found.chance.stderr
    assert (found.train_rows, found.test_rows, found.classes) == (1_500, 1_500, 2)
    json.dumps(found.to_dict(), allow_nan=False)


def test_neighbours_are_those_by_hand() -> None:
    """Votes of the nearest posterior means, counted here; ties of an odd vote cannot be."""
    data = labelled(80, 1.0)
    found = probes(reading(0, 3), *halves(data, 2), neighbours=(1, 5), seed=2)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    train, test = order[:40], order[40:]
    z = data["x"][:, [0, 3]]
    distances = (z[test][:, None] - z[train]).square().sum(-1)
    for k in (1, 5):
        votes = data["y"][train][distances.topk(k, largest=False).indices].double().mean(1)
        right = ((votes > 0.5).long() == data["y"][test]).double().mean()
        assert found.representations["z"].neighbours[k].value == pytest.approx(float(right))


def test_principal_components_are_as_many_as_the_latent_has() -> None:
    """The class is in the fourth column, which varies least: one component does not see it."""
    data = labelled(1_000, 6.0)
    data["x"] = data["x"][:, [1, 2, 3, 0]] * torch.tensor([30.0, 20.0, 15.0, 1.0])
    found = probes(reading(3), *halves(data)).representations
    assert list(found) == ["z", "x, 1 principal component", "x"]
    assert found["z"].linear.value > 0.99
    assert found["x"].linear.value > 0.99
    component = found["x, 1 principal component"]
    assert component.dimensions == 1
    assert not component.latent
    assert abs(component.linear.value - 0.5) < 4 * component.linear.stderr


def test_agreement_is_that_of_all_assignments() -> None:
    """Hungarian accuracy against every permutation; NMI and ARI against their formulas."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    clusters = np.where(rng.uniform(size=60) < 0.6, (labels + 1) % 3, rng.integers(4, size=60))
    accuracy, nmi, ari = _agreement(clusters, labels)
    best = max(
        np.mean(np.array(assigned)[clusters] == labels)
        for assigned in itertools.permutations([0, 1, 2, -1])
    )
    assert accuracy == pytest.approx(best)
    table = np.array(
        [[((clusters == c) & (labels == k)).sum() for k in range(3)] for c in range(4)]
    )
    joint = table / 60
    rows, columns = joint.sum(1), joint.sum(0)
    information = sum(
        v * math.log(v / (rows[i] * columns[j])) for (i, j), v in np.ndenumerate(joint) if v
    )
    entropies = [-sum(v * math.log(v) for v in side if v) for side in (rows, columns)]
    assert nmi == pytest.approx(2 * information / sum(entropies))

    def pairs(counts: Any) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = first * second / pairs(np.array([60]))
    assert ari == pytest.approx((both - chance) / ((first + second) / 2 - chance))


@pytest.mark.parametrize("kind", [Categorical, OneHot])
def test_clusters_that_are_the_labels_are_found_under_any_names(kind: type[nn.Module]) -> None:
    class Named(nn.Module):
        event_shape = torch.Size([3])

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :3]

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind(3)
            self.event_shape: Any = self.inner.event_shape

        def forward(self, x: Tensor) -> Distribution:
            logits = x[..., [2, 0, 1]]
            if kind is Categorical:
                return TorchCategorical(logits=logits)
            from deeplvm.distributions.discrete import OneHotCategorical

            return OneHotCategorical(logits)

    y = torch.arange(90) % 3
    data = {"x": 8.0 * nn.functional.one_hot(y, 3).double(), "y": y}
    data["x"][0] = data["x"][1]  # one row is another's
    p = Joint({"c": kind(3), "x | c": Gaussian(3, MLP(3))})
    model = LatentVariableModel(p, Joint({"c | x": Swapped()}))
    found = probes(model, *halves(data), neighbours=(1,))
    cluster = found.clusterings["c"]
    assert cluster.clusters == 3
    assert cluster.accuracy.value >= 44 / 45
    assert cluster.nmi.value > 0.85
    assert cluster.accuracy.stderr < 0.05
    assert found.representations["c"].dimensions == 3  # its probabilities
    assert "clustering accuracy" in str(found)


def test_codes_are_means_over_the_parents_draws() -> None:
    """A latent given another: E[2z + x] = 3x within the noise of 2,000 draws; categories sum to 1.

    The standard error of the mean is 2 · 0.5 / √2000 = 0.022: five of them for 20 rows.
    """
    from deeplvm.inference.rows import rows_of
    from deeplvm.randomness import evaluating

    class First(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, x: Tensor) -> Distribution:
            return Independent(Normal(x[..., :1], 0.5), 1)

    class Second(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, z: Tensor, x: Tensor) -> Distribution:
            return Independent(Normal(2 * z + x[..., :1], 9.0), 1)

    p = Joint(
        {
            "z": StandardNormal(1),
            "w": StandardNormal(1),
            "b": Bernoulli(2),
            "x | z, w": Gaussian(2, MLP(2)),
        }
    )
    bits = Bernoulli(2, MLP(1))
    q = Joint({"z | x": First(), "w | z, x": Second(), "b | z": bits})
    model = LatentVariableModel(p, q)
    values = torch.randn(20, 2)[1:]
    with evaluating(model, 0):
        found = encode(model, rows_of(model, {"x": values}), 2_000)
        x = values[:, :1]
        assert np.allclose(found.codes["z"], x)
        assert np.abs(found.codes["w"] - 3 * x.numpy()).max() < 0.11
        draws = x + 0.5 * torch.randn(4_000, 19, 1)
        probability = bits(draws).mean.mean(0)
        assert np.abs(found.codes["b"] - probability.numpy()).max() < 0.1
    assert np.allclose(found.values, values)
    assert found.clusters == {}


def test_digits_with_their_labels() -> None:
    """Of Data the training rows teach; an untrained encoder loses what x says."""
    torch.set_default_dtype(torch.float32)
    digits = load("digits")
    p = Joint({"z": StandardNormal(4), "x | z": Gaussian((1, 8, 8), MLP(4))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(4, MLP((1, 8, 8), 16))}))
    found = probes(model, digits.train, digits.test[:100], most=300, neighbours=(1,))
    assert (found.train_rows, found.test_rows, found.classes) == (300, 100, 10)
    assert found.representations["x"].neighbours[1].value > 0.85
    assert found.representations["z"].linear.value < found.representations["x"].linear.value


def test_labels_are_hidden_from_q_where_it_can_do_without() -> None:
    """q(y | x) is drawn, not given; a q(z | x, y) that needs them is told of."""
    data = labelled(200, 8.0)
    p = Joint({"y": Categorical(2), "x | y": Gaussian(4, MLP(2))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(2, MLP(4))}))
    found = probes(model, *halves(data))
    assert set(found.clusterings) == {"y"}
    assert not found.given

    class Repeats(nn.Module):
        event_shape = torch.Size([1])

        def forward(self, x: Tensor, y: Tensor) -> Distribution:
            return Independent(Normal(y.double()[:, None], 0.1), 1)

    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(4, MLP(1))})
    model = LatentVariableModel(p, Joint({"z | x, y": Repeats()}))
    found = probes(model, *halves(labelled(200, 0.0)))
    assert found.given
    assert found.representations["z"].linear.value == 1.0
    assert "q was given 'y'" in str(found)


def test_holes_in_rows_and_labels_are_passed_over() -> None:
    data = labelled(300, 6.0)
    data["x"][::7, 1] = float("nan")
    data["y"] = data["y"].double()
    data["y"][:20] = float("nan")
    found = probes(reading(0), *halves(data))
    assert found.train_rows + found.test_rows == 280
    assert found.representations["x"].linear.value > 0.95


def test_what_cannot_be_probed_is_refused() -> None:
    data = labelled(100, 1.0)

    def probed(model: LatentVariableModel, **changed: Any) -> None:
        y = changed.pop("y", data["y"])
        probes(model, *halves(data | {"y": y}), **changed)

    with pytest.raises(ValueError, match="no 'label' in the training rows, which have x, y"):
        probed(reading(0), labels="label")
    with pytest.raises(ValueError, match="two labels at least"):
        probed(reading(0), y=torch.zeros(100))
    with pytest.raises(ValueError, match="must be whole numbers"):
        probed(reading(0), y=torch.rand(100))
    with pytest.raises(ValueError, match="at least 1"):
        probed(reading(0), neighbours=(0,))
    plain = LatentVariableModel(Joint({"x": Gaussian(4)}))
    with pytest.raises(ValueError, match="q draws nothing"):
        probed(plain)
