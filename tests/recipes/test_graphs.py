"""Graph autoencoders: nodes in another order, and a planted graph that is found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplvm.data import Description, load
from deeplvm.data.graphs import GraphData
from deeplvm.evaluation.graphs import evaluate_graph
from deeplvm.objectives import elbo
from deeplvm.recipes import RecipeError, find, training_of
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded

RECIPES = ("variational_graph_autoencoder", "graph_autoencoder")


def blocks(nodes: int = 40, *, features: bool = True) -> GraphData:
    """Two blocks: an edge between 97 of 100 pairs in one, and one of 100 others."""
    rng = np.random.default_rng(0)
    block = np.arange(nodes) % 2
    share = np.where(block[:, None] == block, 0.97, 0.01)
    source: dict[str, np.ndarray] = {
        "edges": np.argwhere(np.triu(rng.random((nodes, nodes)) < share, 1)),
        "y": block,
    }
    if features:
        source["x"] = rng.normal(size=(nodes, 3))
    data = load(source, graph=True, split=(0.7, 0.1, 0.2))
    assert isinstance(data, GraphData)
    return data


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_moves_all_parameters_and_a_description_is_enough(
    name: str, *, features: bool
) -> None:
    data = blocks(features=features)
    model = build(find(name), data, {"latent": 2, "hidden": (4, 3)}, 0)
    again = Description.from_dict(data.to_dict())
    other = build(find(name), again, {"latent": 2, "hidden": (4, 3)}, 0)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    objective = training_of(find(name))["objective"]
    objective(model.evidence(data.batch("train", slice(1)), particles=2)).mean().backward()
    assert all([p.grad is not None and p.grad.any() for p in model.parameters()])
    drawn = model.sample(2)["a"].value
    assert drawn.shape == (2, 40, 40)


def test_other_numbers_of_nodes_change_nothing() -> None:
    """Codes are those of the nodes, and the bound at the same noise is the same."""
    data = blocks()
    model = build(find(RECIPES[0]), data, {"latent": 2, "hidden": (4,)}, 0)
    row = data.batch("train", slice(1))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    dense = row["a"].to_dense()[0]
    both = torch.where(dense.T == 0, dense, dense.T)[order][:, order].triu(1)
    moved = {"a": both.to_sparse()[None], "x": row["x"][:, order]}
    with torch.no_grad():
        codes = [model.posterior(each)["z"].distribution.mean[0] for each in (row, moved)]
        torch.testing.assert_close(codes[1], codes[0][order], rtol=0, atol=1e-12)
        scored = [
            model.p({"z": z[None], "a": each["a"]}, (1,))["a"].log_prob
            for z, each in zip(codes, (row, moved), strict=True)
        ]
    torch.testing.assert_close(*scored, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_edges_of_a_planted_graph_are_found(name: str) -> None:
    data = blocks()
    model = build(find(name), data, {"latent": 4, "hidden": (8,)}, 0)
    own = training_of(find(name)) | {"epochs": 60, "quiet": True}
    unfolded(fit)(model, data, seed=0, **own)
    found = evaluate_graph(model, data)
    assert found.auc.value > 0.95
    assert found.average_precision.value > 0.9


def test_wrong_options_are_refused() -> None:
    data = blocks()
    for options, said in (
        ({"latent": 0}, "latent must be at least 1"),
        ({"hidden": ()}, "one width at least"),
        ({"hidden": (0,)}, "hidden must be at least 1"),
        ({"sampled_pairs": 0}, "sampled_pairs must be at least 1"),
    ):
        with pytest.raises(RecipeError, match=said):
            build(find(RECIPES[0]), data, options, 0)


def test_sampled_pairs_estimate_the_same_bound() -> None:
    """5 standard errors of 200 estimates."""
    data = blocks()
    exact, sampled = (
        build(find(RECIPES[1]), data, {"latent": 2, "hidden": (4,), "sampled_pairs": n}, 0)
        for n in (None, 200)
    )
    row = data.batch("train", slice(1))
    torch.manual_seed(0)
    with torch.no_grad():
        each = torch.stack([elbo(sampled.evidence(row)) for _ in range(200)])
        want = torch.stack([elbo(exact.evidence(row)) for _ in range(50)])
    error = (each.var() / len(each) + want.var() / len(want)).sqrt()
    assert abs(float(each.mean() - want.mean())) < 5 * float(error)
