"""Models of sets: what does not see the order of members, what is given of those before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm import recipes
from deeplvm.core.draws import Held
from deeplvm.data import Data, DataError, load
from deeplvm.inference import embed
from deeplvm.recipes import RecipeError
from deeplvm.runs.run import build

SMALL: dict[str, Any] = {"latent": 2, "hidden": (6,)}


@pytest.fixture(scope="module")
def sets() -> Data:
    return load("digits", members=4, limit=8)


def batch(data: Data, rows: int = 5) -> Tensor:
    return data.batch("train", slice(rows))["x"]


def test_a_statistician_does_not_see_the_order(sets: Data) -> None:
    model, order = build(recipes.neural_statistician, sets, SMALL, 0), [2, 0, 3, 1]
    x = batch(sets)
    one, other = (model.posterior({"x": each}) for each in (x, x[:, order]))
    torch.testing.assert_close(one["c"].distribution.mean, other["c"].distribution.mean)
    c, z = one["c"].value, one["z"].value
    bounds = [
        model.evidence({"x": a}, draw={"c": Held(c), "z": Held(b)}).log_weight
        for a, b in ((x, z), (x[:, order], z[:, order]))
    ]
    torch.testing.assert_close(*bounds)
    mixed = model.evidence({"x": x[:, order]}, draw={"c": Held(c), "z": Held(z)})
    assert not torch.allclose(mixed.log_weight, bounds[0])


@pytest.mark.parametrize("context", ["pooled", "attended"])
def test_a_member_follows_from_those_before_it_in_any_order(sets: Data, context: str) -> None:
    model = build(recipes.one_shot_generalisation, sets, {**SMALL, "context": context}, 0)
    x, z = batch(sets), torch.randn(5, 4, 2)

    def steps(x: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            trace = model.evidence({"x": x}, draw={"z": Held(z)}).p
        return trace["x"].distribution.log_prob(x)  # (rows, members)

    found = steps(x, z)
    assert found.shape == (5, 4)
    later = x.clone()
    later[:, 3] = x[:, 0]
    torch.testing.assert_close(steps(later, z)[:, :3], found[:, :3])
    turned = [1, 2, 0, 3]
    torch.testing.assert_close(steps(x[:, turned], z[:, turned])[:, 3], found[:, 3])
    other = x.clone()
    other[:, 0] = 16 - x[:, 0]
    assert not torch.allclose(steps(other, z)[:, 3], found[:, 3])


def test_rows_have_numbers_of_their_own_for_every_member(sets: Data) -> None:
    """As the verbs draw, ``default`` for every name: alike in whatever batch a row comes."""
    model = build(recipes.neural_statistician, sets, SMALL, 0)
    found = embed(model, sets.test)
    for name, shape in (("c", (10,)), ("z", (4, 2))):
        assert found[name].shape == (len(found[name]), *shape)
    few = embed(model, sets.test[1:3])
    torch.testing.assert_close(few["z"], found["z"][1:3])


def test_members_have_the_label_of_their_set_and_are_in_one() -> None:
    rows = np.arange(50.0).reshape(50, 1)
    labels = np.repeat(["a", "b", "c"], [20, 17, 13])
    data = load({"x": rows, "y": labels}, members=3)
    assert data.variables["x"].shape == (3, 1)
    found = [
        (s["x"][:].long().squeeze(-1), s["y"][:]) for s in (data.train, data.valid, data.test)
    ]
    members = torch.cat([x.flatten() for x, _ in found]).tolist()
    assert len(set(members)) == len(members) == 3 * (6 + 5 + 4)
    for x, y in found:
        for one, code in zip(x, y, strict=True):
            assert {labels[i] for i in one.tolist()} == {"abc"[int(code)]}
    assert "5 rows are left over" in " ".join(data.notes)
    assert "sets of 3 rows" in " ".join(data.notes)


def test_what_cannot_be_sets_is_said() -> None:
    for source, members, words in (
        ("iris", 2, "of the rows of one array"),
        ({"x": np.zeros((9, 2))}, 2, "these have no labels"),
        ("digits", 0, "at least 1"),
        ("digits", 500, "no label has so many rows; ask for fewer"),
    ):
        with pytest.raises(DataError, match=words):
            load(source, members=members)
    with pytest.raises(RecipeError, match=r"neural_statistician models sets.*--members 5"):
        recipes.neural_statistician(load("digits", limit=20))
