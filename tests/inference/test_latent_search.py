"""A property is raised in latent space: exactly where it is linear, and towards a known best."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.inference.embedding import embed
from deeplvm.inference.latent_search import (
    climb,
    expected_improvement,
    improve,
    predicted,
    visited,
)
from deeplvm.networks import MLP

SLOPE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
BEST = torch.tensor([0.8, -0.5], dtype=torch.float64)


def with_property() -> LatentVariableModel:
    p = Joint(
        {
            "z": StandardNormal(3),
            "y | z": Gaussian(1, nn.Linear(3, 1), scale=1.0),
            "x | z": Gaussian(4, MLP(3, 8)),
        }
    )
    return LatentVariableModel(p, Joint({"z | x": Gaussian(3, MLP(4, 8))}))


def test_ways_begin_where_most_is_predicted_and_lead_to_more() -> None:
    torch.manual_seed(0)
    model = with_property().double().eval()
    rows = {"x": torch.randn(40, 4).double(), "y": torch.randn(40, 1).double()}
    value = predicted(model, "y")
    for lowest in (False, True):
        codes, told = visited(model, rows, "y", number=5, lowest=lowest, rounds=4, weight=0)
        best = value(embed(model, rows)["z"]).sort(descending=not lowest).values[:5]
        assert torch.allclose(told[:5], best)
        assert codes.shape == (25, 3)
        assert torch.equal(told, value(codes))
        change = told.reshape(5, 5).diff(dim=0)  # of each way, round after round
        assert bool((change < 0 if lowest else change > 0).all())


def planted(codes: Tensor) -> Tensor:
    return -(codes - BEST).square().sum(1)


def test_the_gradient_leads_to_the_known_best() -> None:
    """Of a linear property under a standard normal: the slope over the weight."""
    model = with_property().double()
    head = model.p["y"].head
    with torch.no_grad():
        head.network.weight.copy_(SLOPE)
        head.layer.weight.fill_(1)
    start = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    climbed = climb(predicted(model, "y"), start, weight=2.0, steps=500, learning_rate=0.1)
    assert torch.allclose(climbed.codes, SLOPE.expand(5, 3) / 2, atol=1e-3)
    assert climbed.to_dict()["after"]["value"] > climbed.to_dict()["before"]["value"]


def test_a_planted_property_rises_in_every_row() -> None:
    start = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    climbed = climb(planted, start, weight=0.0, steps=400)
    assert bool((climbed.after > climbed.before).all())
    assert torch.allclose(climbed.codes, BEST.expand(20, 2), atol=1e-2)


def test_proposals_come_near_to_the_planted_best() -> None:
    known = torch.randn(12, 2, generator=torch.Generator().manual_seed(2))
    codes, values = improve(planted, known, planted(known), rounds=2, number=4, candidates=500)
    assert codes.shape == (20, 2)
    assert torch.equal(codes[:12], known)
    assert values[12:].max() > planted(known).max() / 4  # a quarter of the loss that was best
    again = expected_improvement(known, planted(known), number=4, candidates=500)
    assert torch.equal(again, codes[12:16])


def test_what_cannot_be_measured_counts_as_the_worst() -> None:
    known = torch.randn(12, 2, generator=torch.Generator().manual_seed(2))
    values = planted(known)
    values[3] = torch.nan
    _, found = improve(planted, known, values, rounds=1, number=2, candidates=100)
    assert bool(found[3].isnan())
    assert bool(found[12:].isfinite().all())
    with pytest.raises(ValueError, match="property is a number, found 11 of 12"):
        expected_improvement(known, values)


@pytest.mark.parametrize("name, match", [("w", "'w' is not in p"), ("z", "reads nothing")])
def test_a_property_that_does_not_follow_from_z(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        predicted(with_property(), name)
