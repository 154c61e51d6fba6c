"""Draws at a temperature: what is scaled, in each family, and what has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Independent, Laplace, Poisson

from deeplvm import distributions as d
from deeplvm import recipes
from deeplvm.conditionals import (
    Autoregressive,
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    GaussianMixture,
    StandardNormal,
    StudentT,
)
from deeplvm.conditionals.flows import RealNVP
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import load
from deeplvm.distributions.temperature import tempered
from deeplvm.inference import sample_at

SCALED: dict[str, Any] = {
    "StandardNormal": StandardNormal(3),
    "Gaussian": Gaussian(3),
    "StudentT": StudentT(3),
    "Laplace": lambda: Independent(Laplace(torch.zeros(3), torch.ones(3)), 1),
    "RealNVP": RealNVP(3, transforms=2, hidden=(4,)),
    "Autoregressive": Autoregressive(Gaussian(3), width=4).eval(),
}


@pytest.mark.parametrize("name", SCALED)
def test_scales_are_multiplied(name: str) -> None:
    """Draws with the same noise are T times as far from the location."""
    torch.manual_seed(0)
    distribution = SCALED[name]()
    found = []
    for temperature in (1.0, 0.5, 1e-9):
        torch.manual_seed(1)
        found.append(tempered(distribution, temperature).sample((200,)))
    full, half, none = found
    if name in ("RealNVP", "Autoregressive"):  # bent: the noise is halved, not the value
        assert (half.std(0) < 0.75 * full.std(0)).all()
        assert (none.std(0) < 1e-6).all()
    else:
        torch.testing.assert_close(half - none, (full - none) / 2)
    assert tempered(distribution, 1.0) is distribution


@pytest.mark.parametrize(
    "distribution",
    [
        Bernoulli(2, mean=0.3)(),
        Categorical(3, shape=2, probabilities=torch.tensor([0.5, 0.3, 0.2]))(),
        Categorical(3, shape=2, probabilities=torch.tensor([0.5, 0.3, 0.2]), ordered=True)(),
    ],
)
def test_logits_are_divided(distribution: Independent) -> None:
    """At a half, probabilities are as their squares."""
    found = []
    for each in (distribution, tempered(distribution, 0.5)):
        base = each.base_dist
        found.append(base.log_prob(base.enumerate_support()).exp())
    torch.testing.assert_close(found[1], found[0].square() / found[0].square().sum(0))


def test_mixtures_are_of_fewer_and_narrower_components() -> None:
    logits, loc, scale = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([-0.5, 0.5]),
        torch.tensor([0.2, 0.1]),
    )
    cold = tempered(d.DiscretizedLogisticMixture(logits, loc, scale, 9), 0.5)
    expected = d.DiscretizedLogisticMixture(2 * logits, loc, scale / 2, 9)
    levels = torch.arange(9.0)
    torch.testing.assert_close(cold.log_prob(levels), expected.log_prob(levels))
    pixel = DiscretizedLogisticMixture((3, 2, 2), components=2, coupled=True)()
    normals = GaussianMixture(2, components=3)()
    for one in (pixel, normals):
        assert tempered(one, 0.5).sample((4,)).shape == (4, *one.event_shape)
    torch.testing.assert_close(tempered(pixel, 0.5).log_weights.exp().sum(-3), torch.ones(2, 2))


def test_every_layer_of_latents_is_drawn_at_the_temperature() -> None:
    """Almost at zero every row is that of the prior's mean; x alone is as spread as before."""
    model = recipes.ladder_vae(load("digits"), latent=(2, 2), hidden=(8, 8))
    model.eval()
    torch.manual_seed(0)
    trace = sample_at(model, 50, temperature=1e-9)
    for name in ("z2", "z1"):
        assert trace[name].value.std(0).max() < 1e-6
    assert trace["x"].value.std(0).min() > 0
    torch.manual_seed(0)
    cold = sample_at(model, 50, temperature=1e-9, likelihood_temperature=1e-9)["x"].value
    assert (cold.std(0) == 0).all()
    torch.manual_seed(1)
    first = sample_at(model, 3)["x"].value
    torch.manual_seed(1)
    assert torch.equal(first, model.sample(3)["x"].value)


def test_what_has_no_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="No temperature is known of a Poisson"):
        tempered(Independent(Poisson(torch.ones(2)), 1), 0.5)
    with pytest.raises(ValueError, match="a number above 0, not -1"):
        tempered(StandardNormal(1)(), -1)
    alone = LatentVariableModel(Joint({"x": DiscretizedLogistic(3)}))
    with pytest.raises(ValueError, match=r"has no latents .* likelihood_temperature"):
        sample_at(alone, 2, temperature=0.5)
    labelled = recipes.made(load("digits", limit=60), hidden=(4,), given_label=True)
    with pytest.raises(ValueError, match="has no latents"):  # its label is none
        sample_at(labelled, given={"y": torch.arange(2)}, temperature=0.5)
    assert sample_at(alone, 2, likelihood_temperature=0.5)["x"].value.shape == (2, 3)
