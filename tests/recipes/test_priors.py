"""Every named prior in a recipe, and what can be written in its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel, elbo, recipes
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal, VampPrior
from deeplvm.conditionals.flows import Flow, InverseAutoregressiveFlow, Inverted
from deeplvm.conditionals.priors import known, prior_of
from deeplvm.core.joint import filled
from deeplvm.data import Data, load
from deeplvm.data.records import Description
from deeplvm.evaluation import elbo_surgery
from deeplvm.evaluation.latents.pairwise import scores_of
from deeplvm.gradients import Enumerated
from deeplvm.learning.wake_sleep import wake_sleep
from deeplvm.likelihood import annealed_importance_sampling, importance_sampling
from deeplvm.networks import MLP
from deeplvm.training import fit
from deeplvm.training.checkpoint import load_model_into, save_model

SMALL: dict[str, Any] = {"latent": 3, "hidden": (8,)}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Data:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"a": rng.normal(size=60), "b": rng.choice(["x", "y", "z"], 60)}
    path = tmp_path_factory.mktemp("data") / "mixed.csv"
    frame = pandas.DataFrame(columns | {"c": rng.poisson(3.0, 60)})
    frame.loc[3:5, "a"] = np.nan
    frame.to_csv(path, index=False)
    return load(path)


def first_rows(model: LatentVariableModel, data: Data, number: int = 5) -> dict[str, Tensor]:
    rows = data.batch("train", slice(number))
    dtype = next(model.parameters()).dtype
    return {name: value.to(dtype) for name, value in rows.items() if name in model.names}


REAL = [name for name in known() if name not in ("bernoulli", "boltzmann")]


@pytest.mark.parametrize("name", [*REAL, "autoregressive(width=8, components=3)"])
def test_a_recipe_takes_it(name: str, digits: Data) -> None:
    """The bound is finite, every parameter gets a gradient, and rows can be drawn."""
    torch.manual_seed(0)
    choice = {"vamp": "vamp(components=4)", "naf": "naf(hidden=(8,))"}.get(name, name)
    model = recipes.vae(digits, prior=choice, **SMALL).double()
    bound = elbo(model.evidence(first_rows(model, digits), particles=2))
    assert bound.shape == (5,)
    assert bound.isfinite().all()
    bound.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.sample(4)["x"].value.shape == (4, 1, 8, 8)


@pytest.mark.parametrize("name", ["bernoulli", "boltzmann(hidden=5)", "autoregressive(width=8)"])
def test_binary_layers_take_theirs(name: str, digits: Data) -> None:
    """The bound of enumerated units is finite, with a gradient for every parameter."""
    torch.manual_seed(0)
    model = recipes.sigmoid_belief_network(digits, units=(4,), prior=name).double()
    draw = {"z1": Enumerated()}
    bound = elbo(model.evidence(first_rows(model, digits), draw=draw))
    bound.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.sample(4)["z1"].value.shape == (4, 4)


@pytest.mark.parametrize("inputs", ["learned", "data"])
@pytest.mark.parametrize("kind", ["grey", "binary", "real", "mixed"])
def test_pseudo_inputs_are_what_the_encoder_reads(
    kind: str, inputs: str, digits: Data, mixed: Data
) -> None:
    """Pixels between their least and largest values; rows of the data as they are, holes 0."""
    data = {
        "grey": lambda: digits, "mixed": lambda: mixed, "real": lambda: load("iris", limit=40),
        "binary": lambda: load("digits", limit=30, binarize="static"),
    }[kind]()  # fmt: skip
    recipe = recipes.vae if kind in ("grey", "binary") else recipes.table_vae
    prior = f"vamp(components=7, inputs={inputs!r})"
    model = recipe(data, prior=prior, **SMALL)
    found = model.p["z"].pseudo_inputs()
    assert len(found) == 7
    if inputs == "data":
        index = torch.linspace(0, data.train.rows - 1, 7).round().long()
        given = data.train.batch(index, ("x",))["x"]
        site = model.site("x", given, frozenset(("x",)))
        assert torch.equal(found, filled(site).features)
    elif kind in ("grey", "binary"):
        ends = [model.site("x", torch.tensor([float(end)])).features.item() for end in (0, 16)]
        assert found.min() > min(ends)
        assert found.max() < max(ends) if kind == "grey" else 1
    rows = first_rows(model, data)
    missing = ["x"] if kind == "mixed" else []
    elbo(model.evidence(rows, missing=missing)).mean().backward()
    grad = model.p["z"].inputs.grad
    assert (grad is None) == (inputs == "data")
    again = recipe(Description.from_dict(data.to_dict()), prior=prior, **SMALL)
    again.load_state_dict(model.state_dict())


def test_other_recipes_take_it(digits: Data) -> None:
    """Images, importance weights, flows as posteriors; where q reads more than x, but for vamp."""
    torch.manual_seed(0)
    made = {
        "vamp(components=3)": [
            recipes.convolutional_vae(
                digits, latent=2, channels=(4,), features=8, prior="vamp(components=3)"
            ),
            recipes.iwae(digits, latent=2, hidden=8, prior="vamp(components=3)"),
            recipes.vae(digits, posterior="iaf", prior="vamp(components=3)", **SMALL),
            recipes.vae(digits, posterior="full_covariance", prior="vamp(components=3)", **SMALL),
            recipes.inverse_autoregressive_flow_vae(
                digits, widths=(6,), prior="vamp(components=3)", **SMALL
            ),
            recipes.beta_vae(digits, prior="vamp(components=3)", **SMALL),
            recipes.m1(digits, prior="vamp(components=3)", **SMALL),
        ],
        "maf": [
            recipes.iwae(digits, layers=2, latent=2, hidden=8, prior="maf"),
            recipes.conditional_vae(digits, prior="maf", **SMALL),
            recipes.semi_supervised_vae(digits, prior="maf", **SMALL),
            recipes.auxiliary_vae(digits, auxiliary=2, prior="maf", **SMALL),
            recipes.hamiltonian_vae(digits, prior="maf", **SMALL),
            recipes.miwae(digits, prior="maf", **SMALL),
        ],
    }
    for name, models in made.items():
        for model in models:
            rows = first_rows(model, digits)
            if "y" in rows:
                rows["y"] = digits.batch("train", slice(5))["y"]
            assert elbo(model.evidence(rows)).isfinite().all(), (name, str(model.p))
    for recipe in (recipes.conditional_vae, recipes.miwae):
        with pytest.raises(ValueError, match=r"no q\(z \| x\) of a row alone; take another"):
            recipe(digits, prior="vamp", **SMALL)


@pytest.mark.parametrize("posterior", ["gaussian", "full_covariance", "iaf"])
def test_all_rows_as_pseudo_inputs_are_the_aggregate_posterior(
    posterior: str, digits: Data
) -> None:
    """R4.2: against the aggregate that evaluation sums, of the same draws."""
    torch.manual_seed(0)
    prior = "vamp(components=1000, inputs='data')"
    model = recipes.vae(digits, posterior=posterior, prior=prior, **SMALL).double()
    assert len(model.p["z"].inputs) == digits.train.rows
    model.p["z"].inputs.copy_(model.site("x", digits.train.batch(slice(None))["x"]).features)
    group = scores_of(model, digits.train, particles=2, minibatch=5, draw=None, seed=0).groups["z"]
    assert group.prior is not None
    torch.testing.assert_close(group.prior, group.aggregate, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prior", ["learned", "vamp(components=4)", "maf", "resampled"])
def test_the_divergence_is_information_and_distance(prior: str, digits: Data) -> None:
    """Mean KL = I + KL(q(z) || p(z)), and I is at most log N, under every prior."""
    torch.manual_seed(0)
    model = recipes.vae(digits, prior=prior, **SMALL)
    found = elbo_surgery(model, digits.train, particles=20, seed=0).joint
    total = found.mutual_information + found.marginal
    torch.testing.assert_close(total.mean(), found.kl.mean(), rtol=1e-5, atol=1e-5)
    assert found.mutual_information.mean() <= math.log(digits.train.rows) + 1e-9


class Pushed(nn.Module):
    """x | u through z = f(u)."""

    def __init__(self, flow: Flow, decoder: nn.Module) -> None:
        super().__init__()
        self.flow, self.decoder = flow, decoder
        self.event_shape = decoder.event_shape

    def forward(self, u: Tensor) -> Distribution:
        for step in self.flow().transforms:
            u, _ = step.forward(u, step.context)
        return self.decoder(u)


def test_an_autoregressive_prior_is_an_inverse_autoregressive_posterior() -> None:
    """R4.2: with a diagonal posterior the same bound as the inverse flow of it with N(0, I)."""
    torch.manual_seed(0)
    encoder, decoder = Gaussian(4, MLP(6, 8)), Bernoulli(6, MLP(4, 8))
    iaf = InverseAutoregressiveFlow(4, encoder.head.network, hidden=(8,), context=0)
    prior = Flow(4, None, [Inverted(each) for each in reversed(iaf.transforms)], minimum_scale=0)  # type: ignore[arg-type]
    with torch.no_grad():
        for each in [*iaf.parameters(), *encoder.parameters()]:
            each.add_(0.3 * torch.randn_like(each))
        own, raw = iaf.head.layer, encoder.head.layer
        own.weight[:8].copy_(raw.weight), own.bias[:8].copy_(raw.bias)  # type: ignore[arg-type]
        prior.head.free.zero_()  # N(0, I) before the steps
    torch.testing.assert_close(prior().scale, torch.ones(4))
    flow = LatentVariableModel(
        Joint({"z": prior, "x | z": decoder}), Joint({"z | x": encoder})
    ).double()
    inverse = LatentVariableModel(
        Joint({"u": StandardNormal(4), "x | u": Pushed(prior, decoder)}), Joint({"u | x": iaf})
    ).double()
    x = torch.ones(5, 6).double().bernoulli(0.5)
    bounds = []
    for model in (flow, inverse):
        torch.manual_seed(1)
        bounds.append(elbo(model.evidence({"x": x}, particles=3)))
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-6)


def test_a_saved_model_shares_the_posterior_again(digits: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = recipes.vae(digits, prior="vamp(components=4)", **SMALL)
    save_model(model, tmp_path / "model.safetensors")
    other = recipes.vae(digits, prior="vamp(components=4)", **SMALL)
    load_model_into(other, tmp_path / "model.safetensors")
    assert other.p["z"].posterior is other.q["z"]
    assert torch.equal(
        other.p["z"]().log_prob(torch.ones(3)), model.p["z"]().log_prob(torch.ones(3))
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("vam", "'vam' is not a prior; there are gaussian, learned, mixture, vamp"),
        ("vamp(", "is not a prior"),
        ("vamp(inputs='rows')", "inputs must be one of 'learned', 'data', not 'rows'"),
        ("vamp(components=0)", "components must be a whole number, from 1 to 1,000,000, not 0"),
        ("mixture(components=-1)", "components must be a whole number"),
        ("maf(steps=4)", r"prior 'maf\(steps=4\)': .*steps"),
        ("gaussian(4)", "too many positional arguments"),
    ],
)
def test_what_there_is_not_is_said(text: str, said: str, digits: Data) -> None:
    with pytest.raises(ValueError, match=said):
        recipes.vae(digits, prior=text, **SMALL)


def test_phases_that_move_q_alone_are_refused(digits: Data) -> None:
    """All of q is p's too; each phase that follows the gradient of both goes on."""
    model = recipes.vae(digits, prior="vamp(components=3)", **SMALL)
    with pytest.raises(ValueError, match=r"parameters of q\(z \| x\) are p's as well"):
        fit(model, digits, epochs=1, phases=wake_sleep(model), batch_size=10)


def test_a_prior_of_other_values_is_refused(digits: Data) -> None:
    with pytest.raises(ValueError, match="boltzmann is of binary units, and these latents are re"):
        recipes.vae(digits, prior="boltzmann", **SMALL)
    with pytest.raises(ValueError, match="components of an autoregressive prior are of real"):
        recipes.sigmoid_belief_network(digits, prior="autoregressive(components=2)")
    with pytest.raises(ValueError, match="take one of bernoulli, boltzmann, autoregressive"):
        recipes.sigmoid_belief_network(digits, prior="maf")


def test_a_function_serves_as_well_as_a_name(digits: Data) -> None:
    assert isinstance(prior_of(lambda shape: Gaussian(shape, scale=2.0), 3), Gaussian)
    assert isinstance(recipes.vae(digits, **SMALL).p["z"], StandardNormal)
    assert isinstance(recipes.vae(digits, prior="vamp", **SMALL).p["z"], VampPrior)


def test_chains_walk_where_a_prior_is_a_mixture_for_each_element() -> None:
    """Failure rate below 1 in 10,000: errors are a fifth of what is allowed."""
    torch.manual_seed(0)
    data = load("digits", binarize="static", limit=20)
    prior = "autoregressive(components=2)"
    model = recipes.vae(data, latent=1, hidden=(4,), prior=prior)
    exact = importance_sampling(model, data.test[:4], particles=4000).log_px
    annealed = annealed_importance_sampling(model, data.test[:4], 16, 30, steps=2).log_px
    torch.testing.assert_close(annealed, exact, rtol=0, atol=0.5)
