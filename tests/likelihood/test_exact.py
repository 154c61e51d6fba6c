"""Sums over all values of discrete latents, against brute force and closed forms (TB2)."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, Poisson, StandardNormal
from deeplvm.likelihood.exact import exact_likelihood, exact_posterior
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.networks import MLP
from deeplvm.recurrent import Plate, Recurrent
from models import binary, log_joint


@pytest.mark.parametrize("latents", [1, 4, 12])
@pytest.mark.parametrize("pairs", [7, 4_096])
def test_binary_latents_are_summed(latents: int, pairs: int) -> None:
    """TB2: the same as brute force and as enumeration through q, however it is cut."""
    if latents == 12 and pairs == 7:
        pairs = 500
    model, x = binary(latents), torch.randint(2, (3, 5)).double()
    found = exact_likelihood(model, {"x": x}, pairs=pairs)
    joint = log_joint(model, x)
    assert torch.allclose(found.log_px, joint.logsumexp(1), rtol=0, atol=1e-12)
    through_q = importance_sampling(model, {"x": x}, draw={"z": Enumerated()})
    assert torch.allclose(found.log_px, through_q.log_px, rtol=0, atol=1e-10)
    assert found.values == 2**latents
    assert found.monte_carlo_stderr == 0.0
    posterior = exact_posterior(model, {"x": x}, pairs=pairs)
    assert torch.allclose(posterior.log_prob, joint.log_softmax(1), rtol=0, atol=1e-12)
    assert torch.allclose(posterior.log_px, found.log_px, rtol=0, atol=1e-12)
    z = posterior.values["z"]
    assert torch.allclose(posterior.mean("z"), joint.softmax(1) @ z, rtol=0, atol=1e-12)


def test_all_of_x_sums_to_one() -> None:
    """p(x) over all 32 values of x."""
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    found = exact_likelihood(binary(3), {"x": x})
    assert float(found.log_px.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_several_latents_of_different_kinds() -> None:
    """A category, and bits that depend on it; marginals, by a sum that is written out."""
    p = Joint(
        {"y": Categorical(3), "z | y": Bernoulli(2, MLP(3)), "x | y, z": Gaussian(2, MLP(5))}
    )
    q = Joint({"y | x": Categorical(3, MLP(2)), "z | y": Bernoulli(2, MLP(3))})
    model = LatentVariableModel(p, q)
    with torch.no_grad():
        p["y"].head.free.copy_(torch.randn_like(p["y"].head.free))
    x = torch.randn(4, 2)
    x[0, 1] = math.nan
    found = exact_likelihood(model, {"x": x}, pairs=5)
    posterior = exact_posterior(model, {"x": x})
    table = torch.zeros(4, 3, 4)
    for row, y, (index, z) in itertools.product(
        range(4), range(3), enumerate(itertools.product([0.0, 1.0], repeat=2))
    ):
        given = {"x": x[row : row + 1], "y": torch.tensor([y]), "z": torch.tensor([z])}
        with torch.no_grad():
            table[row, y, index] = p(given, missing=frozenset(["x"])).log_prob
    assert torch.allclose(found.log_px, table.logsumexp((1, 2)), rtol=0, atol=1e-12)
    assert posterior.log_prob.shape == (4, 3, 4)
    shares = table.flatten(1).softmax(1).reshape(4, 3, 4)
    assert torch.allclose(posterior.marginal("y"), shares.sum(2), rtol=0, atol=1e-12)
    assert torch.allclose(posterior.marginal("z"), shares.sum(1), rtol=0, atol=1e-12)
    assert found.latents == ("y", "z")
    with pytest.raises(ValueError, match="'w' is none of the latents, which are y, z"):
        posterior.marginal("w")
    assert "12 values each" in str(posterior)


def test_labels_that_the_data_have_may_be_summed_over() -> None:
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    x, y = torch.randn(6, 2), torch.randint(3, (6,))
    given = exact_posterior(model, {"x": x, "y": y}, sum_over=["y"])
    free = exact_likelihood(model, {"x": x})
    assert torch.equal(given.log_px, free.log_px)
    with torch.no_grad():
        joint = p({"x": x, "y": y}).log_prob
    chosen = given.log_prob[torch.arange(6), y]
    assert torch.allclose(chosen, joint - free.log_px, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="p has no 'w'"):
        exact_likelihood(model, {"x": x}, sum_over=["w"])
    with pytest.raises(ValueError, match="no latent to sum over"):
        exact_likelihood(model, {"x": x, "y": y})


def test_members_of_a_plate() -> None:
    """Independent members: the sum over all is the product of the members' own sums."""
    members = Plate({"z": Bernoulli(1), "x | z": Gaussian(1, MLP(1))}, repeats=3)
    inner = Plate({"z | x": Bernoulli(1, MLP(1))})
    model = LatentVariableModel(members, inner)
    x = torch.randn(4, 3, 1)
    found = exact_likelihood(model, {"x": x})
    assert found.values == 8
    one = LatentVariableModel(
        Joint({"z": members["z"], "x | z": members["x"]}), Joint({"z | x": inner["z"]})
    )
    single = exact_likelihood(one, {"x": x.reshape(12, 1)}).log_px.reshape(4, 3)
    assert torch.allclose(found.log_px, single.sum(1), rtol=0, atol=1e-12)
    assert torch.allclose(exact_posterior(model, {"x": x}).log_px, found.log_px)


def test_memory_does_not_grow_with_the_values() -> None:
    """Never more pairs than asked go through p."""
    model = binary(8)
    largest = [0]
    model.p["x"].register_forward_hook(
        lambda _m, _i, out: largest.append(out.log_prob(torch.zeros(5)).numel())
    )
    exact_likelihood(model, {"x": torch.zeros(20, 5)}, pairs=64)
    assert max(largest) == 64


def test_the_result_is_plain_and_repeats() -> None:
    model, data = binary(3), {"x": torch.zeros(4, 5)}
    model.train()
    before = torch.get_rng_state()
    found = exact_likelihood(model, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert json.loads(json.dumps(found.to_dict()))["values"] == 8
    assert "exact: a sum over 8 values of z" in str(found)
    assert (
        exact_likelihood(model, {name: value[:1] for name, value in data.items()}).to_dict()[
            "stderr"
        ]
        is None
    )


def test_what_cannot_be_summed_is_said() -> None:
    x = {"x": torch.zeros(2, 5)}
    p = Joint({"y": Categorical(2), "z": StandardNormal(1), "x | y, z": Bernoulli(5, MLP(3))})
    q = Joint({"y | x": Categorical(2, MLP(5)), "z | x": Gaussian(1, MLP(5))})
    with pytest.raises(ValueError, match=r"'z' is continuous.*quadrature.*Enumerated"):
        exact_likelihood(LatentVariableModel(p, q), x)
    p = Joint({"z": Poisson(1), "x | z": Bernoulli(5, MLP(1))})
    counts = LatentVariableModel(p, Joint({"z | x": Poisson(1, MLP(5))}))
    with pytest.raises(ValueError, match="'z' is drawn from a Poisson, whose values cannot"):
        exact_likelihood(counts, x)
    with pytest.raises(ValueError, match=r"\*\* 12 values, more than the 100"):
        exact_likelihood(binary(12), x, most=100)
    p = Joint({"a": Bernoulli(5), "z": Bernoulli(5), "x | z": Bernoulli(5, MLP(5))})
    q = Joint({"a": Bernoulli(5), "z": Bernoulli(5)})
    with pytest.raises(ValueError, match="a, z have 1,024 values together, more than the 100"):
        exact_likelihood(LatentVariableModel(p, q), x, most=100)
    p = Joint({"z": Bernoulli(1), "x | z": Bernoulli(5, MLP(1))}, shared=["z"])
    q = Joint({"z": Bernoulli(1)}, shared=["z"])
    with pytest.raises(ValueError, match="'z' is shared by all rows"):
        exact_likelihood(LatentVariableModel(p, q), x)
    chain = Recurrent(
        {"z | z[-1]": Bernoulli(1, MLP(1)), "x | z": Bernoulli(5, MLP(1))}, start={"z": 1}
    )
    q = Recurrent({"z | x": Bernoulli(1, MLP(5))}, start={})
    with pytest.raises(ValueError, match=r"'z' is remembered from step to step.*particle_filter"):
        exact_likelihood(LatentVariableModel(chain, q), {"x": torch.zeros(2, 3, 5)})
    with pytest.raises(ValueError, match="pairs is at least 1"):
        exact_likelihood(binary(2), x, pairs=0)
