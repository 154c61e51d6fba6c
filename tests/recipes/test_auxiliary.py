"""What the command line makes of posteriors with auxiliary variables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deeplvm.data import Data, load
from deeplvm.evaluation import evaluate
from deeplvm.inference import embed
from deeplvm.recipes import find
from deeplvm.runs.run import RunError, build
from deeplvm.runs.training import refuse_holes
from deeplvm.training.callbacks import flops_of

RECIPES: dict[str, dict[str, Any]] = {
    "auxiliary_vae": {"auxiliary": 3},
    "hierarchical_variational_vae": {},
    "hamiltonian_vae": {"steps": 2},
    "variational_gaussian_process": {"inputs": 2, "points": 3},
}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30)


@pytest.mark.parametrize("name", RECIPES)
def test_every_latent_can_be_embedded(name: str, digits: Data) -> None:
    """Also a flow, which has no mean in closed form, and leapfrog, which has no distribution."""
    model = build(find(name), digits, {"latent": 2, "hidden": (8, 6), **RECIPES[name]}, 0)
    latents = embed(model, digits.train, seed=0, scales=True)
    rows = digits.rows("train")
    assert latents["z"].shape == (rows, 2)
    assert {each.removesuffix("_sd") for each in latents} == set(model.q.names) - {"h"}
    assert all([bool(value.isfinite().all()) for value in latents.values()])


def test_the_mean_of_a_flow_is_that_of_its_draws(digits: Data) -> None:
    """Within 6 standard errors of 4,000 other draws, everywhere: one seed in 1e5 fails."""
    options = {"latent": 2, "hidden": (8, 6)}
    model = build(find("hierarchical_variational_vae"), digits, options, 0)
    mean = embed(model, digits.train, seed=0, scales=True)
    x = digits.batch("train", slice(None))["x"]
    with torch.no_grad():
        draws = model.posterior({"x": x}, particles=4_000)["l"].value
    error = draws.std(0) * (1 / 64 + 1 / 4_000) ** 0.5
    assert ((mean["l"] - draws.mean(0)).abs() < 6 * error).all()
    assert (mean["l_sd"] / draws.std(0)).log().abs().max() < 0.7


def test_only_a_latent_that_p_reads_can_collapse(digits: Data) -> None:
    """The untrained z is said to be ignored; v, of which p computes nothing, is not."""
    model = build(find("hamiltonian_vae"), digits, {"latent": 2, "hidden": (8, 6), "steps": 1}, 0)
    with torch.no_grad():  # what x says reaches neither
        model.q["h"].layers[0].weight.zero_()
        model.q.conditional("z").leapfrog.raw.fill_(-10.0)
    warnings = evaluate(model, digits.train, particles=2).warnings
    assert any("z has collapsed" in text for text in warnings)
    assert not any("v has collapsed" in text for text in warnings)


def test_operations_of_a_gradient_in_the_forward_pass_are_counted(digits: Data) -> None:
    """One leapfrog step more costs more, by the same each time."""
    x = digits.batch("train", slice(5))["x"]
    counts = []
    for steps in (1, 2, 3):
        options = {"latent": 2, "hidden": (8, 6), "steps": steps}
        model = build(find("hamiltonian_vae"), digits, options, 0)
        counts.append(flops_of(lambda model=model: model.evidence({"x": x}).log_weight))
    assert counts[1] - counts[0] == counts[2] - counts[1] > 0


@pytest.mark.parametrize(
    "name", ["auxiliary_vae", "hamiltonian_vae", "variational_gaussian_process"]
)
def test_holes_that_p_would_read_are_refused_by_their_columns(name: str) -> None:
    """Before training, in the words of the data: no name that the recipe made up."""
    x = torch.randn(40, 3)
    x[3, 1] = torch.nan
    data, recipe = load(x.numpy(), likelihood="gaussian"), find(name)
    with pytest.raises(RunError, match=rf"{name} needs every value.*missing, of 'x\[1\]'; fill"):
        refuse_holes(recipe(data, latent=2, hidden=(4,)), data, name)
    refuse_holes(find("vae")(data, latent=2, hidden=(4,)), data, "vae")
