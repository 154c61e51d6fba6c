"""Hierarchies: orderings that are exact, one shared path, and one layer that is a plain VAE."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from deeplvm.conditionals import Categorical, Gaussian
from deeplvm.data import Data, load
from deeplvm.networks import MLP, BatchNorm, Features, ResidualNetwork
from deeplvm.objectives import elbo
from deeplvm.recipes import RecipeError, find
from deeplvm.recipes.hierarchies import hierarchy
from deeplvm.recipes.latent_maps import same
from deeplvm.recipes.plain import one_latent
from deeplvm.training import Optimization, fit
from deeplvm.training.graph import Graph

LEAKY = partial(nn.LeakyReLU, 0.1)


class Affine(nn.Module):
    """The normal of one block of a joint normal given other blocks, with its full covariance."""

    def __init__(self, joint: Tensor, block: list[int], given: list[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size([len(block)])
        cross, inner = joint[block][:, given], joint[given][:, given]
        self.weight = torch.linalg.solve(inner, cross.T).T
        self.covariance = joint[block][:, block] - self.weight @ cross.T

    def forward(self, *parents: Tensor) -> MultivariateNormal:
        if not parents:
            return MultivariateNormal(torch.zeros(self.event_shape), self.covariance)
        leading = torch.broadcast_shapes(*[p.shape[:-1] for p in parents])
        joined = torch.cat([p.expand(*leading, p.shape[-1]) for p in parents], -1)
        return MultivariateNormal(joined @ self.weight.T, self.covariance)


@pytest.mark.parametrize("inference", ["top_down", "bottom_up"])
def test_both_orders_have_no_gap_on_a_linear_gaussian_chain(inference: Any) -> None:
    """z2 -> z1 -> x; with the exact conditionals every log-weight is log p(x)."""
    a, b = torch.randn(3, 2), torch.randn(4, 3)
    z2, z1, x = [0, 1], [2, 3, 4], [5, 6, 7, 8]
    steps = torch.cat([torch.eye(2), a, b @ a]), torch.cat([torch.zeros(2, 3), torch.eye(3), b])
    noise = torch.cat([torch.zeros(5, 4), 0.5 * torch.eye(4)])
    root = torch.cat([steps[0], 0.7 * steps[1], noise], 1)
    joint = root @ root.T
    given = {"top_down": (z2 + x, x), "bottom_up": (x, z1)}[inference]
    model = hierarchy(
        Affine(joint, x, z1),
        up=[MLP(4), MLP(3 if inference == "bottom_up" else 4)],
        down=[MLP(3), MLP(2)],
        priors=[Affine(joint, z1, z2), Affine(joint, z2, [])],
        posteriors=[Affine(joint, z1, given[0]), Affine(joint, z2, given[1])],
        inference=inference,
        carried=False,
    )
    seen = torch.randn(5, 4)
    log_weight = model.evidence({"x": seen}, particles=50).log_weight
    exact = MultivariateNormal(torch.zeros(4), joint[5:, 5:]).log_prob(seen)
    torch.testing.assert_close(log_weight, exact.expand(50, 5), rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30, binarize="static")


def test_one_layer_is_the_plain_vae(digits: Data) -> None:
    options = {"latent": (3,), "hidden": (8,), "batch_norm": False}
    deep = find("ladder_vae")(digits, **options)
    plain = one_latent(digits, Gaussian, latent=3, hidden=(8, 8), activation=LEAKY)
    for one, other in zip(plain.parameters(), deep.parameters(), strict=True):
        one.data.copy_(other.data)
    given, found = digits.batch("train", slice(9)), []
    for model in (deep, plain):
        torch.manual_seed(1)
        found.append(elbo(model.evidence({"x": given["x"].double()}, particles=4)))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_path_down_is_one_module_and_evaluated_once(digits: Data) -> None:
    model = find("very_deep_vae")(digits, layers=40, latent=1, channels=2, width=1)
    calls: list[nn.Module] = []
    shared = [model.p[f"d{n}"] for n in range(1, 40)]
    for n, module in enumerate(shared, 1):
        assert module is model.q[f"d{n}"]
        module.register_forward_hook(lambda module, *_: calls.append(module))
    with torch.no_grad():
        evidence = model.evidence({"x": digits.batch("train", slice(2))["x"].double()})
    assert calls == shared[::-1]
    assert evidence.latents == tuple([f"z{n}" for n in range(40, 0, -1)])
    assert evidence.closed == frozenset(evidence.latents)
    for n in range(1, 40):
        assert evidence.p[f"d{n}"].value is evidence.q[f"d{n}"].value


def test_the_ladder_merges_what_p_and_x_say(digits: Data) -> None:
    """The density of q(z1) is that of the normalised product of p's and the bottom-up normal."""
    model = find("ladder_vae")(digits, latent=(2, 1), hidden=(8, 8), batch_norm=False)
    with torch.no_grad():
        q = model.evidence({"x": digits.batch("train", slice(3))["x"].double()}).q
        merged = model.q["z1"]
        one, other = merged.first(q["d1"].value), merged.second(q["h1"].value)
        assert merged.first is model.p["z1"]
        grid = torch.randn(500, 1, 2)
        product = one.log_prob(grid) + other.log_prob(grid)
        ratio = product - q["z1"].distribution.log_prob(grid)
    torch.testing.assert_close(ratio, ratio[:1].expand(500, 3))


def test_a_uniform_model_of_256_levels_has_8_bits_a_dimension() -> None:
    """Untrained, with all parameters zero: the latents cost nothing, and x is uniform."""
    at = (2, 3, 3)
    blank = Features(lambda x: torch.zeros(len(x), *at), at)
    model = hierarchy(
        Categorical(256, same(at), shape=at),
        up=[blank, same(at)],
        down=[ResidualNetwork([at, at], at), same(at)],
        priors=[Gaussian(at, same(at)), Gaussian(at)],
        posteriors=[Gaussian(at, ResidualNetwork([at, at], at)), Gaussian(at, same(at))],
    )
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    bounds = elbo(model.evidence({"x": torch.randint(0, 256, (5, *at))}, particles=2))
    bits = -bounds / (math.prod(at) * math.log(2))
    torch.testing.assert_close(bits, torch.full((5,), 8.0), rtol=0, atol=1e-12)


def test_batch_norm_measures_each_row_by_itself(digits: Data) -> None:
    """Trained with batches, one of a single row; then a row's bound is the same in any batch."""
    model = find("ladder_vae")(digits, latent=(2, 1), hidden=(6, 5))
    x = digits.batch("train", slice(21))["x"].double()
    still = Optimization(learning_rate=1e-3, averaging=0.0)
    fit(model, {"x": x}, epochs=2, batch_size=20, optimization=still, quiet=True)
    layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert len(layers) == 8
    assert all([bool(m.running_mean.any()) for m in layers if m.running_mean is not None])
    model.eval()
    with torch.no_grad():
        means = model.encode({"x": x})["h2"].value
        alone = torch.cat([model.encode({"x": row})["h2"].value for row in x.split(1)])
    torch.testing.assert_close(means, alone)


def test_a_layer_of_several_particles_is_normalised_over_all_of_them() -> None:
    layer, x = BatchNorm(3), 5 + 2 * torch.randn(4, 6, 3)
    found = layer(x)
    torch.testing.assert_close(found.mean((0, 1)), torch.zeros(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.var((0, 1), correction=0), torch.ones(3), rtol=0, atol=1e-4)


def test_wrong_sizes_are_refused(digits: Data) -> None:
    with pytest.raises(RecipeError, match="as many of one as of the other"):
        find("ladder_vae")(digits, latent=(3, 2), hidden=(8,))
    with pytest.raises(RecipeError, match="layers must be at least 1, found 0"):
        find("very_deep_vae")(digits, layers=0)
    table = load("iris", likelihood="gaussian")
    for recipe in ("convolutional_ladder_vae", "resnet_iaf_vae", "biva", "very_deep_vae"):
        with pytest.raises(RecipeError, match=f"{recipe} models images"):
            find(recipe)(table)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_running_statistics_are_kept_out_of_the_graph_of_a_whole_step(
    digits: Data, *, batch_norm: bool
) -> None:
    """They would change inside the function that is differentiated."""
    model = find("ladder_vae")(digits, latent=(2,), hidden=(6,), batch_norm=batch_norm)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters)
    step: Any = SimpleNamespace(
        model=model, parameters=parameters, optimizer=optimizer, beside=[], device="cpu"
    )
    step.together = None
    assert Graph.suits(step) is not batch_norm
