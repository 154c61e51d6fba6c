"""Lossy reconstructions: all latents are the reconstruction, none is p alone, nats add up."""

from __future__ import annotations

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.core.draws import Sampled
from deeplvm.inference import lossy_reconstructions
from deeplvm.networks import GRU, MLP
from deeplvm.networks.canvas import LastStep


def hierarchy() -> LatentVariableModel:
    p = Joint(
        {
            "z2": StandardNormal(1),
            "z1 | z2": Gaussian(2, MLP(1, 4)),
            "x | z1, z2": Bernoulli(3, MLP(3, 4)),
        }
    )
    q = Joint({"z1 | x": Gaussian(2, MLP(3)), "z2 | z1": Gaussian(1, MLP(2))})
    return LatentVariableModel(p, q)


def recurrent(*, discrete: bool = False) -> LatentVariableModel:
    """Three steps of a state, and a latent above all of them."""
    make = Bernoulli if discrete else Gaussian
    cell = GRU(2, 4)
    p = Joint(
        {
            "a": StandardNormal(1),
            "z, h | a": Recurrent(
                {"z | h[-1], a": make(2, MLP(5)), "h | z, h[-1]": cell},
                start={"h": 4},
                outside=["a"],
                repeats=3,
            ),
            "l | h": LastStep((4,)),
            "x | l": Bernoulli(3, MLP(4, 4)),
        }
    )
    q = Joint(
        {
            "a | x": Gaussian(1, MLP(3)),
            "z, h | x": Recurrent(
                {"z | x, h[-1]": make(2, MLP(7)), "h | z, h[-1]": cell},
                start={"h": 4},
                outside=["x"],
                repeats=3,
            ),
        }
    )
    return LatentVariableModel(p, q)


MODELS = {
    "hierarchy": (hierarchy, 2),
    "recurrent": (recurrent, 4),
    "discrete steps": (lambda: recurrent(discrete=True), 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_latents_are_the_reconstruction_and_none_is_p_alone(name: str) -> None:
    make, layers = MODELS[name]
    model, x = make(), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    torch.manual_seed(0)
    found = lossy_reconstructions(model, {"x": x}, rest="mean")
    assert [each.depth for each in found] == list(range(layers + 1))
    torch.manual_seed(0)
    whole = model.reconstruct({"x": x}, default=Sampled())["x"].distribution.mean
    torch.testing.assert_close(found[-1].trace["x"].distribution.mean, whole)
    nothing = found[0].trace["x"].distribution.mean
    torch.testing.assert_close(nothing[0], nothing[1])  # of no row in particular
    assert not torch.allclose(whole[0], whole[1])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_is_q_s_and_nats_add_up(name: str) -> None:
    model, x = MODELS[name][0](), torch.ones(4, 3)
    torch.manual_seed(0)
    found = lossy_reconstructions(model, {"x": x}, rest="draw", default=Sampled())
    torch.manual_seed(0)
    with torch.no_grad():
        evidence = model.evidence({"x": x}, default=Sampled())
    nats = torch.stack([each.nats for each in found])
    assert not nats[0].any()
    closed = sum([evidence.kl(name) for name in evidence.latents])
    torch.testing.assert_close(nats[-1], closed)
    if name != "hierarchy":
        for each in found[1:]:
            kept, drawn = each.depth - 1, each.trace["z"].value
            torch.testing.assert_close(drawn[:, :kept], evidence.q["z"].value[:, :kept])
            torch.testing.assert_close(each.trace["a"].value, evidence.q["a"].value)
        assert not torch.equal(found[1].trace["z"].value, found[-1].trace["z"].value)


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"There are 2 layers.*not 3"):
        lossy_reconstructions(hierarchy(), {"x": torch.ones(1, 3)}, [3])
    nothing = LatentVariableModel(Joint({"x": Bernoulli(3)}))
    with pytest.raises(ValueError, match="draws no latents"):
        lossy_reconstructions(nothing, {"x": torch.ones(1, 3)})
