"""Refinement of q row by row, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Enumerated, Joint, LatentVariableModel, Plate, elbo, iwae
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    StandardNormal,
)
from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.gradients.score_function import LeaveOneOut, ScoreFunction
from deeplvm.inference import localised, refine
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP, Features

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "diagonal": lambda: Gaussian(2, MLP(4), minimum_scale=1e-6),
    "full": lambda: FullCovarianceGaussian(2, MLP(4), minimum_scale=1e-6),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_of_the_family(family: str, tb1: Any, nodes: dict[str, Any]) -> None:
    """R2.1c: what is left after refinement is the approximation gap in closed form, 0 or KL.

    KL(N(m, diag(1 / diag(S^-1))) || N(m, S)) for the diagonal family; the start is a random
    encoder, and the bound is without noise.
    """
    model = tb1.model(FAMILIES[family]())
    refined = refine(model, {"x": tb1.x}, steps=400, learning_rate=0.1, draw=nodes, particles=1)
    expected = tb1.diagonal_gap if family == "diagonal" else torch.zeros(())
    assert torch.allclose(tb1.log_px - refined.after, expected.expand(6), atol=1e-6)
    assert (refined.before < refined.after).all()


def test_a_linear_encoder_has_no_amortisation_gap(
    tb1: Any, nodes: dict[str, Any], maximise: Callable[..., float]
) -> None:
    """R2.1c: the posterior of TB1 is linear in x, so a trained linear encoder says it all."""
    posterior = Gaussian(2, MLP(4), minimum_scale=1e-6)
    model = tb1.model(posterior)
    maximise(
        lambda: elbo(model.evidence({"x": tb1.x}, draw=nodes)).mean(), list(posterior.parameters())
    )
    refined = refine(model, {"x": tb1.x}, steps=100, learning_rate=0.02, draw=nodes, particles=1)
    assert (refined.gain.abs() < 1e-4).all()
    assert torch.allclose(tb1.log_px - refined.before, tb1.diagonal_gap.expand(6), atol=1e-4)


def test_rows_do_not_feel_each_other(tb1: Any, nodes: dict[str, Any]) -> None:
    """Refined alone, in batches of four, or all at once: the same, to rounding."""
    model = tb1.model(FAMILIES["full"]())

    def after(x: Tensor, batch_size: int) -> Tensor:
        options: dict[str, Any] = {"steps": 25, "draw": nodes, "particles": 1}
        return refine(model, {"x": x}, batch_size=batch_size, **options).after

    together = after(tb1.x, 6)
    assert torch.allclose(after(tb1.x, 4), together, atol=1e-9, rtol=0)
    alone = torch.cat([after(row[None], 1) for row in tb1.x])
    assert torch.allclose(alone, together, atol=1e-9, rtol=0)


def test_the_refined_model_is_a_model(tb1: Any) -> None:
    """The tables are the ones that were found, and every row finds its own, in any order."""
    model = tb1.model(FAMILIES["full"]())
    refined = refine(model, {"x": tb1.x}, steps=150, batch_size=4, learning_rate=0.1)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    shuffled = {name: value[order] for name, value in refined.data.items()}
    estimate = importance_sampling(refined.model, shuffled, particles=400)
    # an all but exact posterior: the weights are all but constant
    assert torch.allclose(estimate.log_px, tb1.log_px[order], atol=0.03)
    assert estimate.ess.min() > 380
    assert model.q["z"].head.correction is None


def test_zero_corrections_change_nothing(tb1: Any) -> None:
    """Before the first step the local model is the model, bit for bit."""
    model = tb1.model(FAMILIES["diagonal"]())
    expected = importance_sampling(model, {"x": tb1.x}, particles=32)
    local = localised(model, 6, row="i")
    given = {"x": tb1.x, "i": torch.arange(6)}
    found = importance_sampling(local, given, particles=32)
    assert torch.equal(found.log_px, expected.log_px)
    assert str(local.q) == "q(z | x, i)"


def test_labels_that_are_enumerated() -> None:
    """The categories contain the exact posterior: refined, the bound is log p(x)."""
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3, 6))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    x = torch.randint(2, (5, 4)).double()
    draw = {"y": Enumerated()}
    exact = importance_sampling(model, {"x": x}, draw=draw).log_px
    refined = refine(model, {"x": x}, steps=400, learning_rate=0.1, draw=draw, particles=1)
    assert torch.allclose(refined.after, exact, atol=1e-6)
    assert (refined.before < exact - 1e-5).all()
    with pytest.raises(ValueError, match=r"Enumerated\(\)"):
        refine(model, {"x": x}, steps=1)


def test_labels_that_are_credited() -> None:
    """With score-function draws the exact bound, summed over the labels, nears log p(x) too."""
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3, 6))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    with torch.no_grad():
        model.q["y"].head.layer.bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
    x = torch.randint(2, (5, 4)).double()
    draw: Any = {"y": ScoreFunction(LeaveOneOut())}
    refined = refine(model, {"x": x}, steps=100, learning_rate=0.1, draw=draw)
    exact: Any = {"y": Enumerated()}
    before = importance_sampling(model, {"x": x}, draw=exact)
    after = importance_sampling(refined.model, refined.data, draw=exact)
    # a tenth of what was lost, and less
    assert ((before.log_px - after.elbo) < 0.1 * (before.log_px - before.elbo)).all()


@pytest.mark.parametrize("objective", [elbo, iwae], ids=["elbo", "iwae"])
@pytest.mark.parametrize("flow", [False, True], ids=["chain", "flow"])
def test_chains_flows_and_holes(flow: bool, objective: Callable[..., Tensor]) -> None:
    """Sampled, from a q that knows nothing, with elements missing: much is gained.

    Over six seeds the least mean gain was 40 nats a row.
    """
    p = Joint(
        {
            "z2": StandardNormal(2),
            "z1 | z2": Gaussian(2, MLP(2), scale=0.5),
            "d | z1": Features(MLP(2, 4)),
            "x | d": Gaussian(4, MLP(4), scale=0.1),
        }
    )
    first = (
        InverseAutoregressiveFlow(2, MLP(4, 4), hidden=(4,)) if flow else Gaussian(2, MLP(4, 4))
    )
    q = Joint({"z1 | x": first, "d | z1": p["d"], "z2 | z1": Gaussian(2, MLP(2, 4))})
    model = LatentVariableModel(p, q)
    x = 2 * torch.randn(6, 4)
    x[torch.rand(6, 4) < 0.2] = torch.nan
    refined = refine(model, {"x": x, "unread": x}, steps=80, objective=objective)
    assert refined.gain.mean() > 5
    assert sorted(refined.data) == ["row", "x"]
    assert refined.model.common == {"d"}
    for name in ("z1", "z2"):
        (table,) = refined.model.q[name].corrections
        assert (table.abs().flatten(1).amax(1) > 0.05).all()


def test_nothing_else_moves(tb1: Any) -> None:
    """Weights, gradients, modes and torch's random state are as before; a seed decides all."""
    model = tb1.model(FAMILIES["diagonal"]())
    model.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = refine(model, {"x": tb1.x[:4]}, steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.gain) == 4
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    again, other = (refine(model, {"x": tb1.x[:4]}, steps=5, seed=seed) for seed in (0, 1))
    assert torch.equal(again.after, first.after)
    assert not torch.equal(other.after, first.after)
    assert "4 rows" in repr(first)


def test_never_worse_on_average(tb1: Any, nodes: dict[str, Any]) -> None:
    """Sixteen noisy steps with two draws each: the true bound rises in every row all the same."""
    model = tb1.model(FAMILIES["full"]())
    refined = refine(model, {"x": tb1.x}, steps=16, particles=2)
    exact = elbo(refined.model.evidence(refined.data, draw=nodes))
    assert (exact > elbo(model.evidence({"x": tb1.x}, draw=nodes))).all()


class Known(nn.Module):
    """A posterior that is no head's."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Any:
        return StandardNormal(2)().expand(x.shape[:1])


def two() -> Joint:
    return Joint({"a": StandardNormal(2), "b": StandardNormal(2), "x | a, b": Gaussian(3, MLP(4))})


@pytest.mark.parametrize(
    "make, options, match",
    [
        (lambda: Joint({"a | x": Known(), "b | x": Known()}), {}, "from a Head"),
        (
            lambda: Joint({"a | x": Known(), "b | x": Gaussian(2, MLP(3))}),
            {},
            "parameters of 'a' come from a Known",
        ),
        (lambda: Joint({"a | x": Gaussian(2, MLP(3)), "b | a": Known()}), {"row": "x"}, "a name"),
        (lambda: Joint({"a | x": Gaussian(2, MLP(3)), "b | a": Known()}), {"steps": 0}, "least 1"),
    ],
    ids=["no head", "one without", "name taken", "no steps"],
)
def test_errors(make: Callable[[], Joint], options: dict[str, Any], match: str) -> None:
    model = LatentVariableModel(two(), make())
    with pytest.raises(ValueError, match=match):
        refine(model, {"x": torch.zeros(2, 3)}, **options)


def test_what_has_no_parameters_of_a_row_is_refused() -> None:
    """As many members of a set as rows: shapes that would fit, and mean something else."""
    p = Plate({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))
    with pytest.raises(ValueError, match=r"'z' repeats inside a row \(4,\)"):
        refine(model, {"x": torch.zeros(4, 4, 3)}, steps=1)
    with pytest.raises(ValueError, match="repeats inside"):
        refine(model, {"x": torch.zeros(7, 4, 3)}, steps=1)
    nested = Joint({"z | x": Plate({"z | x": Gaussian(2, MLP(3))}), "c | x": Gaussian(2, MLP(3))})
    with pytest.raises(ValueError, match="come from a Plate"):
        refine(
            LatentVariableModel(Joint({"c": StandardNormal(2), "z, x": p}), nested),
            {"x": torch.zeros(7, 4, 3)},
            steps=1,
        )
    with pytest.raises(ValueError, match="draws no latents"):
        localised(LatentVariableModel(Joint({"x": Gaussian(2)})), 3)
    shared = LatentVariableModel(
        Joint({"w": StandardNormal(2), "x | w": Gaussian(3, MLP(2))}, shared=["w"]),
        Joint({"w": Gaussian(2)}, shared=["w"]),
    )
    with pytest.raises(ValueError, match="All rows share 'w'"):
        refine(shared, {"x": torch.zeros(7, 3)}, steps=1)
