"""Stochastic recurrent models: a linear one against a Kalman filter, lengths, holes, inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import pad

from deeplvm import recipes
from deeplvm.conditionals.heads import Head
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import Data, load
from deeplvm.likelihood import particle_filter
from deeplvm.objectives import elbo
from deeplvm.recipes import RecipeError, find

SMALL: dict[str, Any] = {"latent": 2, "state": 5, "hidden": (6,)}
MEMBERS = {
    "storn": ("storn", {}),
    "vrnn": ("vrnn", {}),
    "srnn": ("srnn", {}),
    "srnn, filtering": ("srnn", {"inference": "filtering"}),
    "deep_markov_model": ("deep_markov_model", {}),
    "deep_markov_model, right": ("deep_markov_model", {"inference": "right"}),
    "deep_markov_model, left": ("deep_markov_model", {"inference": "left"}),
    "deep_markov_model, mean field": ("deep_markov_model", {"inference": "mean_field"}),
    "deep_markov_model, linear": ("deep_markov_model", {"transition": "linear", "hidden": ()}),
}
members = pytest.mark.parametrize("member", MEMBERS)


def made(member: str, data: Data, **options: Any) -> LatentVariableModel:
    name, own = MEMBERS[member]
    torch.manual_seed(0)
    return find(name)(data, **(SMALL | own | options)).double()


def series(*, holes: float = 0.0, inputs: bool = False) -> Data:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2 + each % 4, 3)) for each in range(30)]
    u = [rng.exponential(10.0, size=(len(each), 1)) for each in x]
    x = [np.where(rng.random(each.shape) < holes, np.nan, each) for each in x]
    return load({"x": x, "u": u} if inputs else {"x": x})


def kalman(
    x: Tensor, a: Tensor, b: Tensor, q: Tensor, c: Tensor, d: Tensor, r: Tensor, start: Tensor
) -> Tensor:
    """log p(x) of rows of T steps of z' ~ N(a z + b, q), x ~ N(c z + d, r), by filtering."""
    mean, spread, total = (a @ start + b).expand(len(x), -1), q, torch.zeros(len(x))
    for each in x.unbind(1):
        seen = MultivariateNormal(mean @ c.T + d, c @ spread @ c.T + r)
        total = total + seen.log_prob(each)
        gain = spread @ c.T @ torch.linalg.inv(c @ spread @ c.T + r)
        mean = (mean + (each - seen.mean) @ gain.T) @ a.T + b
        spread = a @ (spread - gain @ c @ spread) @ a.T + q
    return total


def parameters_of(model: LatentVariableModel) -> list[Tensor]:
    """Those of a linear chain of one dimension, for :func:`kalman`."""
    found, (zero, one) = [], torch.tensor([[0.0], [1.0]]).split(1)
    for conditional in (model.p["z"], model.p["x"]):
        origin = conditional(zero)
        slope = (conditional(one).mean - origin.mean).T
        found += [slope, origin.mean[0], origin.variance[0].diag()]
    return [*found, model.p.start["z"]]  # type: ignore[list-item,union-attr,index]


def test_r4_5_1g_a_linear_deep_markov_model_reaches_the_kalman_likelihood() -> None:
    torch.manual_seed(0)
    rows, steps = 200, 5
    one = torch.ones(1, 1)
    slope, noise = torch.tensor([[1.0], [-0.5]]), torch.tensor([0.3, 0.5])
    zero = torch.zeros(2)
    truth = (0.8 * one, zero[:1], 0.5 * one, slope, zero, noise.diag(), zero[:1])
    z, states = torch.zeros(rows, 1), []
    for _ in range(steps):
        z = 0.8 * z + 0.5**0.5 * torch.randn(rows, 1)
        states.append(z)
    x = torch.stack(states, 1) @ slope.T + noise.sqrt() * torch.randn(rows, steps, 2)
    data = load(x.numpy(), lengths=[steps] * rows)
    model = made("deep_markov_model, linear", data, latent=1, state=8, inference="right")
    given = {"x": x, "n": torch.full((rows,), steps)}
    optimizer = torch.optim.Adam(model.parameters(), 5e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        optimizer.zero_grad()
        (-elbo(model.evidence(given, missing=()), "analytic").mean() / steps).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        bound = elbo(model.evidence(given, particles=100, missing=()), "analytic").mean() / steps
        exact = kalman(x, *parameters_of(model)).mean() / steps
    best = kalman(x, *truth).mean() / steps  # of the rows' own source, a little below the maximum
    assert bound > best - 0.01
    assert -0.002 < exact - bound < 0.01  # the error of 100 draws is far below 0.002


def densities(
    model: LatentVariableModel, given: dict[str, Tensor], z: Tensor
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x), with missing values."""
    holes = frozenset([name for name, value in given.items() if value.isnan().any()])
    p, q = (joint({**given, "z": z}, missing=holes) for joint in (model.p, model.q))
    return p["x"].log_prob + p["z"].log_prob, q["z"].log_prob


def double(data: Data, rows: int) -> dict[str, Tensor]:
    given = data.batch("train", slice(rows))
    return {n: v.double() if v.is_floating_point() else v for n, v in given.items()}


@members
@torch.no_grad()
def test_padding_and_the_order_of_rows_change_nothing(member: str) -> None:
    data = series(holes=0.2, inputs=True)
    model, given = made(member, data), double(data, 12)
    z = torch.randn(12, 5, 2)
    p, q = densities(model, given, z)
    order = torch.randperm(12)
    turned = densities(model, {n: v[order] for n, v in given.items()}, z[order])
    torch.testing.assert_close(turned, (p[order], q[order]))
    beyond = torch.arange(8) >= given["n"][:, None]
    longer = {n: pad(v, (0, 0, 0, 3)) for n, v in given.items() if n != "n"}
    for value in longer.values():
        value[beyond] = 1e3
    longer["n"] = given["n"]
    torch.testing.assert_close(densities(model, longer, pad(z, (0, 0, 0, 3), value=7.0)), (p, q))
    for row in (0, 3):
        alone = {n: v[row : row + 1, : given["n"][row]] for n, v in given.items() if n != "n"}
        alone["n"] = given["n"][row : row + 1]
        found = densities(model, alone, z[row : row + 1, : given["n"][row]])
        torch.testing.assert_close(found, (p[row : row + 1], q[row : row + 1]))


@members
@torch.no_grad()
def test_what_is_missing_is_no_number_and_inputs_move_the_states(member: str) -> None:
    data = series(holes=0.2, inputs=True)
    model, given = made(member, data), double(data, 12)
    z = torch.randn(12, 5, 2)
    p, q = densities(model, given, z)
    assert given["x"].isnan().any()
    assert (p.isfinite() & q.isfinite()).all()
    filled = {**given, "x": torch.nan_to_num(given["x"])}
    there = torch.isnan(given["x"]).flatten(1).any(1)  # a zero that was seen is another thing
    assert (densities(model, filled, z)[1] != q)[there].all()
    assert (densities(model, {**given, "u": given["u"] + 5.0}, z)[0] != p).all()
    assert model.sample(given={"n": given["n"], "u": given["u"]})["x"].value.isfinite().all()


@members
@torch.no_grad()
def test_divergences_are_in_closed_form_and_a_particle_filter_goes_through(member: str) -> None:
    data = series()
    model = made(member, data)
    assert model.evidence(double(data, 5)).has_closed_kl("z")
    for proposal in ("posterior", "prior"):
        assert particle_filter(model, data.test, 10, proposal=proposal).log_px.isfinite().all()


def test_srnn_with_a_zero_correction_has_its_prior_as_its_posterior() -> None:
    data = series()
    model = made("srnn", data)
    for module in model.q.modules():
        if isinstance(module, Head) and module.owner == "ResidualGaussian":
            for parameter in module.layer.parameters():
                parameter.detach().zero_()
    assert model.evidence(double(data, 5)).kl("z").abs().max() < 1e-12


@pytest.mark.parametrize("likelihood", ["mixture", "student-t"])
def test_other_likelihoods_of_a_step(likelihood: str) -> None:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2 + each % 4, 3)) for each in range(30)]
    data = load({"x": x}, likelihood=likelihood)
    model = made("vrnn", data)
    assert elbo(model.evidence(double(data, 5)), "analytic").isfinite().all()


def test_what_is_no_sequence_is_refused() -> None:
    data = load(np.random.default_rng(0).normal(size=(30, 3)))
    for recipe in (recipes.storn, recipes.vrnn, recipes.srnn, recipes.deep_markov_model):
        with pytest.raises(RecipeError, match=r"models sequences, but a row of .* is none"):
            recipe(data)
    with pytest.raises(RecipeError, match="state must be at least 1, found 0"):
        recipes.vrnn(series(), state=0)
    with pytest.raises(RecipeError, match=r"models single rows.*deep_markov_model"):
        recipes.vae(series())


@torch.no_grad()
def test_dvbf_and_e2c_of_pictures_follow_their_controls() -> None:
    data = load("pendulum", limit=30)
    given = data.batch("train", slice(4))
    for recipe in (recipes.dvbf, recipes.e2c):
        torch.manual_seed(0)
        model = recipe(data, latent=3, state=8, hidden=(12,))
        evidence = model.evidence(given)
        assert evidence.log_weight.isfinite().all()
        pushed = {"n": given["n"], "u": given["u"].clone()}
        torch.manual_seed(1)
        free = model.sample(given=pushed)["z"].value
        pushed["u"][:, 10] += 5.0
        torch.manual_seed(1)
        found = model.sample(given=pushed)["z"].value
        moved = (free != found).any(-1).any(0)
        assert moved.tolist() == [step >= 10 for step in range(20)]
    with pytest.raises(RecipeError, match="e2c learns what controls do"):
        recipes.e2c(series())


def test_e2c_decodes_what_its_transition_expects() -> None:
    data = series(holes=0.2, inputs=True)
    torch.manual_seed(0)
    model, given = recipes.e2c(data, **SMALL).double(), double(data, 5)
    evidence = model.evidence(given, missing=frozenset({"x"}))
    z, u, n = evidence.q["z"].value[0], given["u"][0], int(given["n"][0])
    expected, one = 0.0, torch.ones(())
    for t in range(1, n):
        u_t = model.p["w"](u[t])
        mean = model.p["z"](z[t - 1], u_t, one).mean
        elements = model.p["x"](mean).base_dist.log_prob(torch.nan_to_num(given["x"][0, t]))
        expected = expected + elements[~given["x"][0, t].isnan()].sum()
    found = evidence.p["r"].value[0]
    torch.testing.assert_close(found.sum(), expected)
    assert not found[n:].any()
