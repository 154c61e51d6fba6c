"""What every evaluation promises: what it measures, and that it leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, evaluate
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation import (
    aggregate_against_prior,
    calibration,
    elbo_surgery,
    generalisation_gap,
    holes,
    inference_gaps,
    latent_use,
    mutual_information,
    out_of_distribution,
    predictive_checks,
    probes,
    rate_distortion,
    sample_quality,
    synthetic_rows,
)
from deeplvm.networks import MLP
from deeplvm.results import plain

NEAREST = {"neighbours": KNeighborsClassifier(5)}
Rows = dict[str, Tensor]
MEASURES: dict[str, Callable[..., Any]] = {
    "evaluate": lambda m, x, **o: evaluate(m, x, particles=20, gap_rows=3, **o),
    "latent_use": lambda m, x, **o: latent_use(m, x, **o),
    "inference_gaps": lambda m, x, **o: inference_gaps(m, x, particles=9, steps=2, **o),
    "generalisation_gap": lambda m, x, **o: generalisation_gap(m, x, x, steps=2, **o),
    "rate_distortion": lambda m, x, **o: rate_distortion(m, x, temperatures=4, particles=3, **o),
    "elbo_surgery": lambda m, x, **o: elbo_surgery(m, x, **o),
    "mutual_information": lambda m, x, **o: mutual_information(m, x, particles=2, **o),
    "aggregate_against_prior": lambda m, x, **o: aggregate_against_prior(
        m, x, classifiers=NEAREST, permutations=19, **o
    ),
    "holes": lambda m, x, **o: holes(m, x, draws=100, **o),
    "probes": lambda m, x, **o: probes(m, x, x, neighbours=(1,), **o),
    "predictive_checks": lambda m, x, **o: predictive_checks(m, x, replicates=19, **o),
    "calibration": lambda m, x, **o: calibration(m, x, particles=20, **o),
    "out_of_distribution": lambda m, x, **o: out_of_distribution(m, x, x, particles=9, **o),
    "sample_quality": lambda m, x, **o: sample_quality(m, x, x, **o),
    "synthetic_rows": lambda m, x, **o: synthetic_rows(m, x, x, **o),
}
# Latents whose q is read in closed form leave nothing to chance.
EXACT = ("latent_use", "probes")


class Dropping(nn.Module):
    """A network that is another in ``train()`` mode."""

    out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def model_and_rows() -> tuple[LatentVariableModel, Rows]:
    """A model, and 40 rows with labels."""
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2), scale=0.5)})
    q = Joint({"z | x": Gaussian(2, Dropping())})
    y = torch.arange(40) % 2
    return LatentVariableModel(p, q), {"x": torch.randn(40, 3) + 3 * y[:, None], "y": y}


def told(found: Any) -> str:
    """What a record writes into a file; records by name, where there are several."""
    return json.dumps(plain(found), allow_nan=False)


@pytest.mark.parametrize("name", MEASURES)
def test_the_seed_decides_and_all_is_left_as_it_was(name: str) -> None:
    measure = MEASURES[name]
    model, rows = model_and_rows()
    model.train()
    state, weights = torch.get_rng_state(), {n: v.clone() for n, v in model.state_dict().items()}
    first = measure(model, rows, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all([module.training for module in model.modules()])
    assert all([torch.equal(weights[n], value) for n, value in model.state_dict().items()])
    assert all([value.grad is None for value in model.parameters()])
    torch.manual_seed(9)
    assert told(measure(model.eval(), rows, seed=3)) == told(first)
    assert name in EXACT or told(measure(model, rows, seed=4)) != told(first)
    for record in first.values() if isinstance(first, dict) else [first]:
        assert str(record)
        assert "<table" in record._repr_html_()


@pytest.mark.parametrize("name", MEASURES)
def test_a_whole_data_set_does_not_say_which_rows(name: str) -> None:
    model, _ = model_and_rows()
    with pytest.raises(TypeError, match=r"Say which rows: data\.test"):
        MEASURES[name](model, load("iris"))
