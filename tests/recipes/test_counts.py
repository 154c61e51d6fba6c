"""Counts of cells: what the library size is, what a batch is, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.conditionals import Multinomial, NegativeBinomial
from deeplvm.data import load
from deeplvm.evaluation import evaluate
from deeplvm.networks import MLP
from deeplvm.recipes import RecipeError, nvdm, scvi

COUNTS = np.random.default_rng(0).poisson([3.0, 1.0, 0.2, 2.0], size=(60, 4))
SMALL: dict[str, Any] = {"latent": 2, "hidden": (4,)}


def test_a_batch_is_given_and_never_scored() -> None:
    data = load({"x": COUNTS, "y": np.arange(60) % 3}, likelihood="negative-binomial")
    model = scvi(data, batches=True, **SMALL)
    assert model.factorisation == "p(c | y) p(z) p(x | z, c) · q(c | y) q(z | x, c)"
    found = evaluate(model, data.test, particles=5)
    assert found.data["conditions"] == ["y", "total of x"]
    latent = scvi(data, batches=True, library="latent", **SMALL)
    assert evaluate(latent, data.test, particles=5).data["conditions"] == ["y"]


def test_shares_of_a_total_that_a_parent_says_are_shares_of_it() -> None:
    """With each value's own total, the two ways of saying it agree."""
    torch.manual_seed(0)
    own = NegativeBinomial(4, MLP(2), total=7)
    torch.manual_seed(0)
    parent = NegativeBinomial(4, MLP(2), total="parent")
    z, x = torch.randn(5, 3, 2), torch.from_numpy(COUNTS[:3]).double()
    log_total = x.sum(1, keepdim=True).log()
    torch.testing.assert_close(own(z).log_prob(x), parent(z, log_total).log_prob(x))


def test_columns_of_counts_have_one_likelihood_though_they_differ() -> None:
    """A table, whose columns have a Poisson, a negative binomial, or are flags, each by itself."""
    draws = np.random.default_rng(0)
    wide = draws.negative_binomial(1, 0.1, 60)
    frame = pd.DataFrame({"a": wide, "b": COUNTS[:, 0], "c": (COUNTS[:, 1] > 0).astype(int)})
    kinds = {part.likelihood for part in load(frame).variables["x"].parts}
    assert len(kinds) == 3
    for schema in (None, {name: {"type": "counts"} for name in "abc"}):
        data = load(frame, schema=schema)
        assert isinstance(scvi(data, **SMALL).p["x"], NegativeBinomial)
        assert isinstance(nvdm(data, **SMALL).p["x"], Multinomial)
    asked = load(frame, schema={"a": {"likelihood": "poisson"}})
    with pytest.raises(RecipeError, match="columns of several kinds"):
        scvi(asked, **SMALL)
    with pytest.raises(RecipeError, match="a column each, none missing"):
        nvdm(load(frame.astype(float).mask(frame == 0)), **SMALL)


@pytest.mark.parametrize(
    "values, options, said",
    [
        (COUNTS / 2 + 0.25, {}, "scvi models counts, a column a gene, none missing"),
        (COUNTS, {"batches": True}, "scvi models batches of cells, but memory has no labels"),
    ],
)
def test_what_are_no_cells_is_refused(values: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        scvi(load(values), **options)


def test_a_multinomial_has_no_library_size_to_learn() -> None:
    data = load(COUNTS, likelihood="multinomial")
    assert scvi(data, **SMALL).p["x"].of_total
    with pytest.raises(RecipeError, match="take library observed"):
        scvi(data, library="latent")
