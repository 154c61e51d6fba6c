"""Models that are what they should be hear nothing; seeds are fixed.

Every rule asks for four standard errors or a family-wise level of 0.01, and a practical size
besides: a sound model is blamed by chance in fewer than 2 of 100 seeds.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, Poisson
from deeplvm.data import Data
from deeplvm.diagnosis import Diagnosis, Effort, diagnose
from deeplvm.networks import MLP
from deeplvm.training import Machine, Optimization, fit

from .patients import (
    COLUMNS,
    HELD_OUT,
    ROWS,
    curve,
    drawn,
    linear,
    loadings,
    normal,
    rows_of,
    set_linear,
    table,
)

EFFORT = Effort(
    rows=400, particles=200, gap_rows=40, annealed_rows=20, temperatures=50, annealed_particles=4
)
SETTLED = curve([-50.0 - 30.0 * 0.7**epoch for epoch in range(40)])


def examined(model: LatentVariableModel, rows: Data) -> Diagnosis:
    """A diagnosis by all rules, which says something in JSON and in words."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = diagnose(model, rows, SETTLED, effort=EFFORT)
    assert all([torch.equal(before[n], value) for n, value in model.state_dict().items()])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["healthy"] == found.healthy
    assert "Looked for and not found" in str(found)
    return found


def exact() -> tuple[LatentVariableModel, Data]:
    """Orthogonal factors and the exact posterior."""
    return linear(loadings(3)), rows_of(loadings(3))


def sorted_rows() -> tuple[LatentVariableModel, Data]:
    """Files that are sorted: the likely rows first in training, last in the test."""
    weight = loadings(3)
    train, test = drawn(weight, ROWS, 10), drawn(weight, 2_000, 20)
    up = train[train.square().sum(1).argsort()]
    down = test[test.square().sum(1).argsort(descending=True)]
    return linear(weight), table(up, down)


def independent() -> tuple[LatentVariableModel, Data]:
    """No latents at all."""
    model = LatentVariableModel(Joint({"x": Gaussian(4, scale=1.0)}))
    return model, table(normal(ROWS, 4, seed=1), normal(HELD_OUT, 4, seed=2))


def counts() -> tuple[LatentVariableModel, Data]:
    """Poisson counts."""

    def rows(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rate = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64).expand(count, 3)
        return torch.poisson(rate, generator=generator)

    train = rows(ROWS, 1)
    model = LatentVariableModel(Joint({"x": Poisson(3, mean=train.mean(0))}))
    return model, table(train, rows(HELD_OUT, 2), likelihood="poisson", kind="counts")


def mixture() -> tuple[LatentVariableModel, Data]:
    """Two kinds of binary rows; the posterior of the kind is a logistic regression."""
    logits = 1.5 * normal(10, seed=4).sign()

    def rows(count: int, seed: int) -> Tensor:
        kind = (normal(count, 1, seed=seed) > 0).double()
        chance = (logits * (2 * kind - 1)).sigmoid()
        generator = torch.Generator().manual_seed(seed + 1)
        return torch.bernoulli(chance, generator=generator)

    class Signed(nn.Module):
        out_features = 1

        def forward(self, y: Tensor) -> Tensor:
            return y[..., 1:] - y[..., :1]

    observed = Bernoulli(10, Signed())
    set_linear(observed, logits[:, None])
    kind = Categorical(2, MLP(10))
    # log p(x | 1) - log p(x | 0) = sum_i 2 l_i x_i - l_i
    set_linear(
        kind, torch.stack([torch.zeros_like(logits), 2 * logits]),
        torch.stack([torch.zeros(()), -logits.sum()]),
    )  # fmt: skip
    p = Joint({"y": Categorical(2), "x | y": observed})
    model = LatentVariableModel(p, Joint({"y | x": kind}))
    train, test = rows(ROWS, 1), rows(HELD_OUT, 7)
    return model, table(train, test, likelihood="bernoulli", kind="binary")


def regression() -> tuple[LatentVariableModel, Data]:
    """x given an input u."""
    weight = normal(COLUMNS, 2, seed=8)
    inputs = normal(ROWS, 2, seed=1), normal(HELD_OUT, 2, seed=2)
    rows = [u @ weight.T + 0.5 * normal(len(u), COLUMNS, seed=9 + i) for i, u in enumerate(inputs)]
    conditional = Gaussian(COLUMNS, MLP(2), scale=0.5)
    set_linear(conditional, weight)
    model = LatentVariableModel(Joint({"x | u": conditional}))
    return model, table(*rows, beside={"u": inputs})


def learned() -> tuple[LatentVariableModel, Data]:
    """Trained, on draws of a linear model with holes."""
    weight = loadings(2)
    train, test = drawn(weight, ROWS, 10), drawn(weight, HELD_OUT, 20)
    rows = table(train, test)
    torch.manual_seed(0)
    model = linear(0.1 * normal(COLUMNS, 2, seed=6))
    model.p["x"].scale = type(model.p["x"].scale)("global", torch.Size((6,)), 1e-3, "Gaussian")  # type: ignore[operator]
    fit(
        model,
        {"x": train},
        valid={"x": test},
        epochs=40,
        batch_size=300,
        optimization=Optimization(learning_rate=0.02, schedule="cosine"),
        machine=Machine(compile=False),
        quiet=True,
    )
    return model, rows


@pytest.mark.parametrize(
    "patient", [exact, sorted_rows, independent, counts, mixture, regression, learned]
)
def test_a_sound_model_hears_nothing(patient) -> None:  # type: ignore[no-untyped-def]
    found = examined(*patient())
    assert found.healthy, str(found)
    assert len(found.sound) >= 8
