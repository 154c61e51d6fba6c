"""``--recipe auto``: models of a table compared on held-out rows, and the best of them trained."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from deeplvm.data import Data, load
from deeplvm.recipes import RecipeError
from deeplvm.runs.selection import select


def groups(rows: int = 120) -> np.ndarray:
    """Two far groups in three dimensions."""
    rng = np.random.default_rng(0)
    centre = rng.integers(0, 2, size=(rows, 1)) * 20.0
    return np.round(rng.normal(size=(rows, 3)) + centre, 6)


@pytest.fixture(scope="module")
def data() -> Data:
    return load(groups(), likelihood="mixture")


def test_differences_are_paired(data: Data) -> None:
    candidates = [("mixture_model", {"classes": k}) for k in (1, 8)]
    found = select(data, candidates=candidates, training={"epochs": 60, "threads": 1})
    one, other = found.trials
    assert found.best is one
    assert one.options == {"classes": 8}
    assert other.behind.value == pytest.approx(one.log_px.value - other.log_px.value)
    assert other.behind.above()
    # rows that are likely under one are likely under the other: paired, the error is smaller
    assert other.behind.stderr < 0.9 * (one.log_px.stderr + other.log_px.stderr)
    assert found.notes() == ["mixture_model(classes=8) it is."]
    assert "mixture_model(classes=1)" in str(found)
    assert found.to_dict()["trials"][1]["behind"]["value"] > 0


def test_the_same_model_twice_is_a_tie(data: Data) -> None:
    found = select(
        data, candidates=[("mixture_model", {"classes": 2})] * 2, training={"epochs": 2}
    )
    assert found.trials[1].behind.value == 0
    assert "not told apart from it: mixture_model(classes=2)" in found.notes()[0]


def test_what_it_refuses() -> None:
    with pytest.raises(RecipeError, match="compares models of tables"):
        select(load("digits", limit=30))


def test_fit_trains_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deeplvm.cli.app import main

    monkeypatch.chdir(tmp_path)
    header = "a,b,c"
    np.savetxt("groups.csv", groups(), delimiter=",", header=header, comments="", fmt="%.6f")
    words = "groups.csv --recipe auto --epochs 2 --no-evaluate --learning-rate 0.02 --out RUN"
    code = main(["fit", *words.split()])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "5 models on 12 held-out rows" in said.err
    best = json.loads(Path("RUN/selection.json").read_text())["trials"][0]
    config = tomllib.loads(Path("RUN/config.toml").read_text())
    assert config["recipe"] == best["recipe"]
    assert config["recipe_options"].items() >= best["options"].items()
    assert config["training"]["epochs"] == 2
    of_gradients = best["recipe"] != "gaussian_mixture"
    assert (config["training"]["learning_rate"] == 0.02) == of_gradients
    assert ("learning_rate has no part in how gaussian_mixture" in said.err) != of_gradients
    assert config["training"]["patience"] == 20  # the recipe's own


def test_few_rows_are_learned_by_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody said is enough for a small table, and said; what was said stays."""
    from deeplvm.cli.app import main

    monkeypatch.chdir(tmp_path)
    np.savetxt("a.csv", groups(), delimiter=",", header="a,b,c", comments="", fmt="%.6f")
    for run, words, found in (
        ("own", "--recipe table_vae", {"batch_size": 16, "patience": 50, "epochs": 2000}),
        ("said", "--recipe table_vae --patience 7", {"batch_size": 250, "patience": 7}),
    ):
        quick = f"--minutes 0.003 --no-evaluate --out {run}"
        assert main(["fit", "a.csv", *words.split(), *quick.split()]) == 0
        said = capsys.readouterr().err
        assert ("96 rows to learn from: batches of 16" in said) == (run == "own")
        training = tomllib.loads(Path(run, "config.toml").read_text())["training"]
        assert training.items() >= found.items()
