"""Several names of a row: what is missing is summed out, and what is there says what is not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deeplvm.cli.app import main
from deeplvm.conditionals import Gaussian, ProductOfExperts, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import load
from deeplvm.diagnosis.rules.data import repeated_rows
from deeplvm.diagnosis.rules.samples import lost_correlations
from deeplvm.evaluation.examination import Effort, Examination
from deeplvm.recipes import RecipeError, multimodal_vae
from deeplvm.training import fit
from deeplvm.training.cells import some_hidden

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(300, 1))
X1, X2 = Z + 0.2 * RNG.normal(size=(300, 2)), -Z + 0.2 * RNG.normal(size=(300, 1))


def test_a_name_that_is_missing_is_summed_out() -> None:
    """Particle by particle the weights are those of the model without that name."""
    data = load({"x1": X1, "x2": X2}, likelihood="gaussian")
    both = multimodal_vae(data, latent=2, hidden=(4,))
    experts, view = both.q["z"].experts, both.p["x1"].embed
    alone = LatentVariableModel(
        Joint({"z": both.p["z"], "x1 | z": both.p["x1"]}),
        Joint({"z | x1": ProductOfExperts([experts[0]], views=[view])}),
    )
    given = {"x1": torch.tensor(X1[:5]), "x2": torch.full((5, 1), torch.nan)}
    found = []
    for model in (both, alone):
        torch.manual_seed(0)
        known = {name: value for name, value in given.items() if name in model.names}
        found.append(model.evidence(known, particles=7).log_weight)
    torch.testing.assert_close(*found)


def test_whole_names_are_hidden_one_at_least_is_there() -> None:
    batch = {name: torch.zeros(4000, 2) for name in ("a", "b", "c")}
    found = some_hidden(batch, ("a", "b", "c"), 0.5, torch.Generator().manual_seed(0))
    holes = torch.stack([value.isnan() for value in found.values()])
    assert torch.equal(holes[..., 0], holes[..., 1])
    there = (~holes[..., 0]).sum(0)
    assert there.min() == 1
    # 1000 each of one and of two of three, and half of the rows whole: 5 standard deviations
    counts = there.bincount(minlength=4)[1:]
    assert ((counts - torch.tensor([1000, 1000, 2000])).abs() < 160).all()
    assert not any([value.isnan().any() for value in batch.values()])


def test_a_diagnosis_looks_at_all_names() -> None:
    data = load({"x1": X1, "x2": np.arange(300) % 3}, likelihood="auto")
    model = multimodal_vae(data, latent=2, hidden=(4,))
    seen = Examination(model, data, "test", effort=Effort(rows=20))
    assert seen.variable.titles == ("x1[0]", "x1[1]", "x2[0]")
    assert seen.resting("train").shape == (240, 3)
    assert seen.residuals.shape == (20, 3)
    assert seen.numbers_a_row == 3
    for rule in (repeated_rows, lost_correlations):  # of all names together
        rule(seen)


def test_what_it_cannot_model_is_said() -> None:
    with pytest.raises(RecipeError, match="has one alone; give --group"):
        multimodal_vae(load(X1))
    with pytest.raises(RecipeError, match="has 'z', the latent"):
        multimodal_vae(load({"z": X1, "x2": X2}))
    data = load(X1, likelihood="gaussian")
    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Gaussian(2, nn.Linear(1, 2))}),
        Joint({"z | x": Gaussian(1, nn.Linear(2, 2))}),
    )
    with pytest.raises(ValueError, match="hide_names hides some of several names"):
        fit(model, data, hide_names=0.5, epochs=1, quiet=True)


def test_every_verb_knows_all_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(np.concatenate([X1, X2], 1).round(3)[:100], columns=["a", "b", "c"])
    table["d"], table["id"] = RNG.poisson(3.0, 100), [f"row {i}" for i in range(100)]
    table.to_csv("t.csv", index=False)

    def run(*words: str) -> Any:
        assert main(list(words)) == 0, capsys.readouterr().err
        output = words[words.index("-o") + 1] if "-o" in words else ""
        return pd.read_csv(output) if output.endswith(".csv") else None

    few = ("--epochs", "1", "--latent", "2", "--hidden", "4", "--evaluation-particles", "2")
    run("fit", "t.csv", "--group", "x1=a,b", "--group", "x2=c,d", "--recipe", "multimodal-vae",
        *few, "--out", "run")  # fmt: skip
    assert Path("run/report.html").read_text().count("Columns: x") == 2 * 2  # contents, headings
    table[["id", "b", "a"]][:4].to_csv("one.csv", index=False)
    filled = run("impute", "run", "one.csv", "-o", "both.csv")
    assert [*filled] == ["id", "b", "a", "c", "d"]
    assert filled[["id", "b", "a"]].equals(table[["id", "b", "a"]][:4])
    assert not filled.isna().any().any()
    np.savez("one.npz", x2=table[["c", "d"]][:4])
    run("impute", "run", "one.npz", "-o", "both.npz", "--draws", "2")
    with np.load("both.npz") as both:
        assert {name: both[name].shape for name in ("x1", "x2")} == {"x1": (8, 2), "x2": (8, 2)}
    given = run("sample", "run", "-n", "3", "--given", "a=1,d=2", "-o", "given.csv")
    assert given[["a", "d"]].to_numpy().tolist() == [[1, 2]] * 3
    given = run("sample", "run", "-n", "2", "--given", "a=1,b=2", "-o", "given.csv")
    assert given[["a", "b"]].to_numpy().tolist() == [[1, 2]] * 2
    assert not given.isna().any().any()
    scores = run("score", "run", "one.csv", "--cells", "--particles", "5", "-o", "scores.csv")
    assert {"nats_a", "nats_b", "nats_c", "nats_d"} <= {*scores}
    assert scores["nats_c"].isna().all()
    assert [*run("sample", "run", "-n", "2", "-o", "new.csv")] == ["a", "b", "c", "d"]
    schema = Path("run/schema.toml").read_text()
    order = [schema.index(f"\n{column} = ") for column in "abcd"]
    assert all([one < other for one, other in pairwise(order)])
