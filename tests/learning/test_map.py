"""Maximum a posteriori: the prior's gradient, its weight, and its names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Beta, Distribution, Independent, Normal

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.learning.map import LogPrior, maximum_a_posteriori, named_parameters
from deeplvm.networks import MLP
from deeplvm.training import Machine, Optimization, fit


def small() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 4))}))


def test_a_normal_prior_has_the_gradient_of_weight_decay() -> None:
    """RA.2.1, exactly: lambda = 1 / (N s^2), in every parameter after ten steps."""
    one, other = small(), small()
    x = torch.randn(20, 3)
    slow = Optimization(torch.optim.SGD, learning_rate=0.01, averaging=0.0)
    machine = Machine(device="cpu", compile=False)
    common: dict[str, Any] = {"epochs": 5, "batch_size": 10, "machine": machine, "quiet": True}
    maximum_a_posteriori(one, {"x": x}, {"*": Normal(0.0, 0.7)}, optimization=slow, **common)
    decayed = replace(slow, weight_decay=1 / (20 * 0.7**2))
    fit(other, {"x": x}, optimization=decayed, **common)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-13)


def test_the_gradient_is_that_of_the_posterior_divided_by_n() -> None:
    model = small()
    x = torch.randn(20, 3)
    log_prior = LogPrior({"p.x.*": Normal(0.3, 0.5), "q.z.head.layer.bias": Normal(0.0, 2.0)})
    torch.manual_seed(1)
    bound = elbo(model.evidence({"x": x}))
    by_row = torch.autograd.grad(
        bound.mean() + log_prior(model) / 20, list(model.parameters()), retain_graph=True
    )
    whole = torch.autograd.grad(bound.sum() + log_prior(model), list(model.parameters()))
    assert all([torch.allclose(20 * a, b) for a, b in zip(by_row, whole, strict=True)])
    expected = sum(
        [Normal(0.3, 0.5).log_prob(each).sum() for each in model.p["x"].parameters()],
        Normal(0.0, 2.0).log_prob(model.q["z"].head.layer.bias).sum(),
    )
    assert torch.allclose(log_prior(model), expected)


class Coin(nn.Module):
    """A probability, as a parameter between 0 and 1."""

    event_shape = torch.Size((1,))

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.tensor([0.5]))

    def forward(self) -> Distribution:
        return Independent(BernoulliDistribution(self.heads), 1)


def test_a_beta_prior_moves_a_coin_to_the_mode_of_its_posterior() -> None:
    """(a + h - 1) / (a + b + h + t - 2)."""
    model = LatentVariableModel(Joint({"x": Coin()}), Joint({}))
    x = torch.tensor([1.0] * 7 + [0.0] * 3).unsqueeze(1)
    maximum_a_posteriori(
        model,
        {"x": x},
        {"p.x.heads": Beta(3.0, 4.0)},
        epochs=300,
        optimization=Optimization(learning_rate=0.01, schedule="cosine"),
        machine=Machine(device="cpu", compile=False),
        quiet=True,
    )
    assert model.p["x"].heads.item() == pytest.approx((3 + 7 - 1) / (3 + 4 + 10 - 2), abs=1e-4)


def test_names_are_readable_and_wrong_ones_are_refused() -> None:
    model = small()
    names = named_parameters(model)
    assert names["p.x.head.layer.bias"] is model.p["x"].head.layer.bias
    assert len(names) == len(list(model.parameters()))
    normal = Normal(0.0, 1.0)
    with pytest.raises(ValueError, match=r"No parameter is called 'p\.y\.\*'; there are p\.x\."):
        maximum_a_posteriori(model, {"x": torch.zeros(4, 3)}, {"p.y.*": normal})
    with pytest.raises(ValueError, match=r"has two priors, the second by 'p\.\*'"):
        LogPrior({"p.x.*": normal, "p.*": normal})(model)


def test_parameters_without_a_prior_are_free() -> None:
    model = small()
    gradients = torch.autograd.grad(
        LogPrior({"p.*weight": Normal(0.0, 1.0)})(model),
        list(model.parameters()),
        allow_unused=True,
    )
    touched = [
        name
        for name, gradient in zip(named_parameters(model), gradients, strict=True)
        if gradient is not None
    ]
    assert touched == ["p.x.head.network.layers.0.weight", "p.x.head.layer.weight"]


def test_the_prior_fades_with_the_number_of_rows() -> None:
    """The shift of a mean under N(0, 1): N / (N + s^2)."""

    def learned(rows: int) -> Tensor:
        p = Joint({"x": Gaussian(1, scale=2.0)})
        model = LatentVariableModel(p, Joint({}))
        maximum_a_posteriori(
            model,
            {"x": torch.full((rows, 1), 3.0)},
            {"p.x.head.free": Normal(0.0, 1.0)},
            epochs=200,
            batch_size=rows,
            optimization=Optimization(learning_rate=0.1, schedule="cosine"),
            machine=Machine(device="cpu", compile=False),
            quiet=True,
        )
        return model.p["x"].head.free.flatten()

    for rows in (2, 200):
        assert learned(rows).item() == pytest.approx(3 * rows / (rows + 4), abs=3e-3)
