"""R4.5.1d: the divergence in three parts, against sums over an enumerable aggregate."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from deeplvm import Enumerated, Evidence, Joint, LatentVariableModel, beta_tc_elbo, elbo
from deeplvm.conditionals import Bernoulli as Binary
from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.gradients import Drawn
from deeplvm.networks import MLP
from deeplvm.objectives import divergence_parts


class Logits(nn.Module):
    """q(z | x) of two independent bits whose logits are x."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=x), 1)


def bits(logits: Tensor) -> tuple[LatentVariableModel, Evidence]:
    """A data set of rows whose posteriors have these logits, and its ledger, enumerated."""
    prior = Binary(2)
    with torch.no_grad():
        prior.head.free.copy_(torch.tensor([[0.3, -0.8]]))
    p = Joint({"z": prior, "x | z": Gaussian(2, MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x": Logits()}))
    return model, model.evidence({"x": logits}, draw={"z": Enumerated()})


def test_parts_are_those_of_the_aggregate() -> None:
    """Mutual information, total correlation and divergences by dimension, to rounding."""
    logits = torch.tensor([[1.0, 2.0], [-1.5, -0.5], [0.2, 3.0], [-2.0, 0.0]])
    model, evidence = bits(logits)
    parts = divergence_parts(evidence, rows=4)
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    with torch.no_grad():
        each = Independent(Bernoulli(logits=logits[:, None]), 1).log_prob(z).exp()  # (n, z)
        log_p = model.p["z"]().log_prob(z)
        single = torch.sigmoid(model.p["z"].head.free.flatten())
    q = each.mean(0)
    first, second = q[z[:, 0] == 1].sum(), q[z[:, 1] == 1].sum()
    product = torch.where(z[:, 0] == 1, first, 1 - first)
    product = product * torch.where(z[:, 1] == 1, second, 1 - second)
    information = (each * (each.log() - q.log())).sum(1).mean()
    correlation = (q * (q.log() - product.log())).sum()
    by_dimension = sum(
        [
            a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()
            for a, b in zip((first, second), single, strict=True)
        ]
    )
    assert torch.allclose(parts.mutual_information.mean(), information, rtol=0, atol=1e-12)
    assert torch.allclose(parts.total_correlation.mean(), correlation, rtol=0, atol=1e-12)
    assert torch.allclose(parts.by_dimension.mean(), torch.as_tensor(by_dimension), atol=1e-12)
    assert correlation > 0.01
    total = parts.mutual_information + parts.total_correlation + parts.by_dimension
    divergence = (each * (each.log() - log_p)).sum(1)
    assert torch.allclose(total, divergence, rtol=0, atol=1e-12)


def test_a_factorised_aggregate_has_no_total_correlation() -> None:
    """Every logit of one dimension with every one of the other: zero; and weight 1 or 9 agree."""
    grid = torch.tensor(list(itertools.product([-2.0, 0.5, 1.0], [0.0, 3.0])))
    _, evidence = bits(grid)
    assert divergence_parts(evidence, rows=6).total_correlation.mean().abs() < 1e-12
    nine = beta_tc_elbo(evidence, 6, 9.0).mean()
    assert torch.allclose(nine, elbo(evidence).mean(), rtol=0, atol=1e-11)
    _, tied = bits(torch.tensor([[3.0, 3.0], [-3.0, -3.0]]))
    assert divergence_parts(tied, rows=2).total_correlation.mean() > 0.3


@dataclass(frozen=True)
class AtMean:
    """The mean, instead of a draw: the same in every minibatch."""

    def __call__(
        self, name: str, distribution: Any, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        return Drawn(distribution.mean, distribution.log_prob(distribution.mean), batch_shape, 0.0)


def gaussian() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 4))}))


@torch.no_grad()
def test_stratified_is_unbiased_for_the_aggregate() -> None:
    """Over all 20 minibatches of 3 of 6 rows the estimates of q(z) average to q(z) exactly."""
    model, x = gaussian(), torch.randn(6, 3)
    whole = model.evidence({"x": x}, draw={"z": AtMean()})
    log_q = whole.q["z"].log_prob
    exact = torch.exp(log_q - divergence_parts(whole, rows=6).mutual_information)
    z = whole.q["z"].value
    by_hand = model.q["z"](x).log_prob(z[:, None]).exp().mean(1)
    assert torch.allclose(exact, by_hand, rtol=1e-12)
    sums, counts = torch.zeros(6), torch.zeros(6)
    for index in itertools.combinations(range(6), 3):
        part = model.evidence({"x": x[list(index)]}, draw={"z": AtMean()})
        estimate = part.q["z"].log_prob - divergence_parts(part, rows=6).mutual_information
        sums[list(index)] += estimate.exp()
        counts[list(index)] += 1
    assert torch.allclose(sums / counts, exact, rtol=1e-12)


@torch.no_grad()
def test_weighted_is_off_by_the_number_of_rows() -> None:
    """All rows in one minibatch: log q(z) is too low by log N, each log q(z_j) as well."""
    evidence = gaussian().evidence({"x": torch.randn(7, 3)})
    one = divergence_parts(evidence, rows=7)
    other = divergence_parts(evidence, rows=7, sampler="weighted")
    gap = other.mutual_information - one.mutual_information
    assert torch.allclose(gap, torch.full((7,), math.log(7)))
    gap = other.total_correlation - one.total_correlation  # two dimensions
    assert torch.allclose(gap, torch.full((7,), math.log(7)))


@pytest.mark.parametrize("sampler", ["stratified", "weighted"])
@pytest.mark.parametrize("particles", [None, 4])
def test_with_weights_of_one_it_is_the_elbo(sampler: Any, particles: int | None) -> None:
    """Row by row; and with other latents beside it, one row, or more rows than the data have."""
    evidence = gaussian().evidence({"x": torch.randn(5, 3)}, particles=particles)
    for rows in (5, 100, 3, 1):
        value = beta_tc_elbo(evidence, rows, 1.0, sampler=sampler)
        assert torch.allclose(value, elbo(evidence), rtol=0, atol=1e-12)
    one = gaussian().evidence({"x": torch.randn(1, 3)}, particles=particles)
    assert torch.allclose(beta_tc_elbo(one, 100, 6.0, sampler=sampler), elbo(one))


def test_what_is_refused() -> None:
    x = {"x": torch.randn(4, 3)}
    p = {"z": StandardNormal(2), "y | z": Gaussian(2, MLP(2)), "x | y": Gaussian(3, MLP(2))}
    q = {"z | x": Gaussian(2, MLP(3)), "y | x, z": Gaussian(2, MLP(5))}
    deep = LatentVariableModel(Joint(p), Joint(q)).evidence(x, particles=3)
    with pytest.raises(ValueError, match=r"say which.*latents here are: z, y"):
        beta_tc_elbo(deep, 10)
    with pytest.raises(ValueError, match=r"q\(y \| ...\) depends on latents"):
        beta_tc_elbo(deep, 10, name="y")
    assert beta_tc_elbo(deep, 10, name="z").shape == (4,)
    full = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))}),
        Joint({"z | x": FullCovarianceGaussian(2, MLP(3))}),
    )
    with pytest.raises(ValueError, match="does not factorise over its dimensions"):
        beta_tc_elbo(full.evidence(x), 10)
    with pytest.raises(ValueError, match="rows is the number of rows"):
        beta_tc_elbo(gaussian().evidence(x), 0)
    with pytest.raises(ValueError, match="'stratified' or 'weighted', not 'other'"):
        beta_tc_elbo(gaussian().evidence(x), 10, sampler="other")  # type: ignore[arg-type]
