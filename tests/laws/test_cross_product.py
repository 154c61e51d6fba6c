"""Every objective with every estimator: it runs and is differentiable, or is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from deeplvm import Evidence, Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gamma, Gaussian, LogDensity, StandardNormal
from deeplvm.core.draws import is_estimator
from deeplvm.gradients import Suited, named
from deeplvm.gradients.credit import Objective
from deeplvm.networks import MLP
from deeplvm.registry import known

ROWS, PARTICLES = 6, 4

# What an objective asks for before it is a function of evidence.
OPTIONS = {
    "beta_tc_elbo": {"rows": 100},
    "constrained": {"most": 1.0},
    "fair_elbo": {"group": "x"},
    "semi_supervised_elbo": {"label": "z"},
    "soft_free_bits": {"targets": {"z": 0.1}},
}
# These weigh the rows of a batch together, or read values or distributions: a draw that needs a
# credit cannot be told what it is worth to its row.
NOT_ROW_BY_ROW = {
    "auxiliary_elbo",
    "beta_tc_elbo",
    "fair_elbo",
    "free_bits",
    "growing_capacity",
    "info_vae",
}
# These take the divergence in closed form, of which no score can be left out.
CLOSED = {"balanced_elbo", "constrained", "soft_free_bits"}
REFUSED = {
    "sticking_the_landing": NOT_ROW_BY_ROW | CLOSED,
    "doubly_reparameterised": NOT_ROW_BY_ROW | CLOSED,
}


def objective_of(name: str) -> Objective:
    function = known("objective")[name]
    options = OPTIONS.get(name, {})
    return function(**options) if isinstance(function, type) else partial(function, **options)


def beside() -> dict[str, nn.Module]:
    """What p computes for auxiliary_elbo."""
    return {"a | z, x": LogDensity(Bernoulli(4, MLP(2, 5)))}


def discrete() -> LatentVariableModel:
    p = Joint({"z": Bernoulli(2), "x | z": Bernoulli(4, MLP(2, 5)), **beside()})
    return LatentVariableModel(p, Joint({"z | x": Bernoulli(2, MLP(4, 5))}))


def continuous() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, MLP(2, 5)), **beside()})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4, 5))}))


def positive() -> LatentVariableModel:
    p = Joint({"z": Gamma(2), "x | z": Bernoulli(4, MLP(2, 5)), **beside()})
    return LatentVariableModel(p, Joint({"z | x": Gamma(2, MLP(4, 5))}))


MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "sticking_the_landing": continuous,
    "doubly_reparameterised": continuous,
    "generalised": positive,
    "antithetic": continuous,
    "stratified": continuous,
    "quasi_random": continuous,
}

every_estimator = pytest.mark.parametrize("estimator", sorted(named.known()))
every_objective = pytest.mark.parametrize("objective", sorted(known("objective")))


def gradient(model: LatentVariableModel, objective: Objective, estimator: str) -> list[bool]:
    """Whether each parameter of q has a finite gradient."""
    torch.manual_seed(1)
    x = (torch.rand(ROWS, 4) < 0.5).double()
    way = Suited(named.estimator_of(estimator))
    model.prepare({"x": x}, particles=PARTICLES, default=way)
    value, evidence = model.estimate(objective, {"x": x}, particles=PARTICLES, default=way)
    assert isinstance(evidence, Evidence)
    assert value.shape == (ROWS,)
    found = torch.autograd.grad(value.mean(), list(model.q.parameters()))
    return [bool(each.isfinite().all()) for each in found]


@every_objective
@every_estimator
def test_it_runs_or_says_why_not(estimator: str, objective: str) -> None:
    torch.manual_seed(0)
    model = MODELS.get(estimator, discrete)()
    credited = is_estimator(named.estimator_of(estimator))
    if credited and objective in REFUSED.get(estimator, NOT_ROW_BY_ROW):
        with pytest.raises(ValueError, match="use"):
            gradient(model, objective_of(objective), estimator)
        return
    assert all(gradient(model, objective_of(objective), estimator))


def test_the_lists_are_complete() -> None:
    assert known("objective").keys() >= NOT_ROW_BY_ROW | OPTIONS.keys()
    assert named.known().keys() >= MODELS.keys()
