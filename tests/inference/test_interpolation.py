"""Codes from one row to another: exact at both ends, and where latents live in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    Gaussian,
    StandardNormal,
    VonMisesFisher,
)
from deeplvm.conditionals.flows import RealNVP
from deeplvm.distributions.centre import centre
from deeplvm.inference import codes_between, decoded, embed
from deeplvm.networks import MLP


def labelled() -> LatentVariableModel:
    p = {"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Gaussian(4, MLP(5, 6))}
    q = {"y | x": Categorical(3, MLP(4, 6)), "z | x, y": Gaussian(2, MLP(7, 6))}
    return LatentVariableModel(Joint(p), Joint(q)).double()


def of_steps() -> LatentVariableModel:
    p = {"z | z[-1]": Gaussian(2, MLP(2, 4)), "x | z": Gaussian(3, MLP(2, 4))}
    q = {"z | x, z[-1]": Gaussian(2, MLP(5, 4))}
    model = LatentVariableModel(
        Recurrent(p, start={"z": 2}, length="n"), Recurrent(q, start={"z": 2}, length="n")
    )
    return model.double()


def rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=generator, dtype=torch.float64)


def test_the_ends_are_the_codes_of_the_rows_and_what_they_decode_to() -> None:
    torch.manual_seed(0)
    model = labelled().eval()
    ends = [{"x": rows(4, seed=each), "y": torch.tensor([each])} for each in (0, 1)]
    between = codes_between(model, *ends, points=5)
    own = decoded(model, between)["x"].distribution
    assert own is not None
    for place, end in ((0, ends[0]), (-1, ends[1])):
        code = embed(model, end)["z"]
        assert torch.allclose(between.codes["z"][place], code[0], atol=1e-12)
        truth = model.p({"z": code, "y": end["y"]}, (1,))["x"].distribution.mean
        assert torch.allclose(centre(own)[place], truth[0], atol=1e-12)
    assert torch.allclose(between.codes["z"].diff(2, dim=0), torch.zeros(()).double(), atol=1e-12)
    assert between.turned == ("y",)
    assert between.known["y"].tolist() == [0, 0, 0, 1, 1]


def test_a_missing_label_is_that_of_the_classifier() -> None:
    torch.manual_seed(0)
    model = labelled().eval()
    ends = [{"x": rows(4, seed=each), "y": torch.tensor([torch.nan])} for each in (0, 1)]
    between = codes_between(model, *ends, points=2)
    told = torch.cat([model.q["y"](end["x"]).mode for end in ends])
    assert torch.equal(between.codes["y"], told)
    assert not between.known


def test_an_arc_has_equal_angles_and_keeps_the_length() -> None:
    p = {"z": StandardNormal(3), "x | z": Gaussian(3, nn.Linear(3, 3), scale=1.0)}
    q = {"z | x": Gaussian(3, nn.Linear(3, 3), scale=1.0)}
    model = LatentVariableModel(Joint(p), Joint(q)).double()
    with torch.no_grad():
        for each in model.q["z"].parameters():
            each.copy_(torch.eye(3) if each.dim() == 2 else torch.zeros(3))
    first, last = torch.eye(3).double()[:2, None] * 2
    z = codes_between(model, {"x": first}, {"x": last}, points=4, spherical=True).codes["z"]
    assert torch.allclose(z.norm(dim=1), torch.tensor(2.0).double(), atol=1e-12)
    cosines = (z[1:] * z[:-1]).sum(1) / 4
    assert torch.allclose(cosines.arccos(), torch.tensor(torch.pi / 6).double(), atol=1e-12)
    line = codes_between(model, {"x": first}, {"x": last}, points=3).codes["z"]
    assert torch.allclose(line[1].norm(), torch.tensor(2.0).double().sqrt(), atol=1e-12)
    same = codes_between(model, {"x": first}, {"x": 2 * first}, points=3, spherical=True)
    assert torch.allclose(same.codes["z"][1], 1.5 * first[0], atol=1e-12)


def test_codes_on_a_sphere_stay_there() -> None:
    torch.manual_seed(0)
    p = {"z": VonMisesFisher(3), "x | z": Gaussian(4, MLP(3, 4))}
    q = {"z | x": VonMisesFisher(3, MLP(4, 4))}
    model = LatentVariableModel(Joint(p), Joint(q)).double()
    z = codes_between(model, {"x": rows(4)}, {"x": rows(4, seed=1)}, points=5).codes["z"]
    assert torch.allclose(z.norm(dim=1), torch.ones(()).double(), atol=1e-10)


def test_a_flow_moves_the_noise_that_it_makes_rows_of() -> None:
    torch.manual_seed(0)
    model = LatentVariableModel(Joint({"x": RealNVP(4, transforms=2, hidden=(8,))})).double()
    ends = [{"x": rows(4, seed=each)} for each in (0, 1)]
    between = codes_between(model, *ends, points=3)
    x = decoded(model, between)["x"].value
    for place, end in zip((0, -1), ends, strict=True):
        assert torch.allclose(x[place], end["x"][0], atol=1e-10)
    assert between.noise == {"x"}
    noise = model.evidence({"x": x}).p["x"].distribution.noise_of(x)[0]
    assert torch.allclose(noise[1], noise[[0, 2]].mean(0), atol=1e-10)


def test_a_flow_of_a_prior_leaves_codes_as_they_are() -> None:
    p = {"z": RealNVP(2, transforms=2, hidden=(8,)), "x | z": Gaussian(4, MLP(2, 4))}
    model = LatentVariableModel(Joint(p), Joint({"z | x": Gaussian(2, MLP(4, 4))})).double()
    between = codes_between(model, {"x": rows(4)}, {"x": rows(4, seed=1)}, points=2)
    assert not between.noise
    assert torch.allclose(between.codes["z"][:1], embed(model, {"x": rows(4)})["z"], atol=1e-12)


def test_latents_of_steps_move_step_by_step() -> None:
    torch.manual_seed(0)
    model = of_steps().eval()
    ends = [
        {"x": rows(steps, 3, seed=steps), "n": torch.tensor([steps])} for steps in (5, 3)
    ]  # fmt: skip
    between = codes_between(model, *ends, points=3)
    assert between.steps == 3
    assert between.known["n"].tolist() == [3, 3, 3]
    trace = decoded(model, between)
    assert trace["x"].value.shape == (3, 3, 3)
    z = torch.zeros(1, 2).double()
    for step in range(3):  # the mean given the one before
        z = model.q["z"](ends[1]["x"][:, step], z).mean
        assert torch.allclose(between.codes["z"][-1, step], z[0], atol=1e-12)


@pytest.mark.parametrize(
    "p, q, said",
    [
        ({"x": Gaussian(4)}, None, "no continuous latents"),
        (
            {"z": Bernoulli(2), "x | z": Gaussian(4, MLP(2))},
            {"z | x": Bernoulli(2, MLP(4))},
            "z have no values in between",
        ),
        (
            {"z | x": Gaussian(2, MLP(4)), "y | z": Categorical(3, MLP(2))},
            {"z | x": Gaussian(2, MLP(4))},
            "p makes no row",
        ),
    ],
)
def test_what_has_nothing_in_between(p: Any, q: Any, said: str) -> None:
    model = LatentVariableModel(Joint(p), q and Joint(q)).double()
    ends = [{"x": rows(4), "y": torch.tensor([0])}] * 2
    with pytest.raises(ValueError, match=said):
        codes_between(model, *ends)
    with pytest.raises(ValueError, match="one row each, not at 2"):
        codes_between(labelled(), {"x": torch.zeros(2, 4)}, ends[0])
    with pytest.raises(ValueError, match="points is at least 2"):
        codes_between(labelled(), *ends, points=1)
