"""Labels that some rows do not have, in every verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

Run = Callable[..., Any]
TINY = ("--epochs", 2, "--latent", 2, "--hidden", 8, "--evaluation-particles", 20)
FIT = ("fit", "few.csv", "--label", "kind", "--out", "run", *TINY)
KINDS = np.array(["ash", "birch", "oak"])


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pandas.DataFrame:
    """In few.csv every fourth of 120 trees has its kind; in new.csv are 20 of them, with holes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 120)
    frame = pandas.DataFrame(rng.normal(size=(120, 3)) + 3 * np.eye(3)[codes], columns=[*"abc"])
    frame["kind"] = KINDS[codes]
    frame.loc[np.arange(120) % 4 > 0, "kind"] = ""
    monkeypatch.chdir(tmp_path)
    frame.to_csv("few.csv", index=False)
    frame = frame.head(20).copy()
    frame.loc[::5, "a"] = np.nan
    frame.to_csv("new.csv", index=False)
    return frame


def test_every_verb(deeplvm: Run, rows: pandas.DataFrame) -> None:
    fitted = deeplvm(*FIT, "--recipe", "semi_supervised_vae")
    assert fitted.code == 0, fitted.err
    assert "missing in" in fitted.err
    labelled = (rows["kind"] != "").to_numpy()
    scores = read(deeplvm, "score", "run", "new.csv", "--particles", 100)
    said = deeplvm("score", "run", "new.csv", "--particles", 5, "-o", "out.csv").err
    assert f"of the {labelled.sum()} rows with a label, kind, log_px is log p(x, y)" in said
    assert (scores["label"].fillna("") == rows["kind"]).all()
    assert scores["y"].notna().tolist() == labelled.tolist()
    filled = read(deeplvm, "impute", "run", "new.csv", "--details", "details.csv")
    assert filled.isna().sum().sum() == 0
    assert (filled["kind"][labelled] == rows["kind"][labelled]).all()
    assert set(filled["kind"]) <= {*KINDS}
    details = pandas.read_csv("details.csv").query("column == 'kind'")
    assert details["row"].tolist() == np.flatnonzero(~labelled).tolist()
    assert details["probability"].between(1 / 3, 1).all()
    assert set(read(deeplvm, "sample", "run", "-n", 30)["kind"]) <= {*KINDS}
    assert set(read(deeplvm, "sample", "run", "-n", 3, "--label", "oak")["kind"]) == {"oak"}
    assert 0.4 < read(deeplvm, "sample", "run", "-n", 90, "--holes")["kind"].isna().mean() < 1
    assert len(read(deeplvm, "sample", "run", "-n", 3, "--given", "kind=oak,a=2")) == 3
    assert len(read(deeplvm, "sample", "run", "-n", 3, "--given", "a=2")) == 3
    assert len(read(deeplvm, "embed", "run", "new.csv")) == 20
    assert len(read(deeplvm, "reconstruct", "run", "new.csv")) == 20
    classes = [f"probability_{kind}" for kind in KINDS]
    for verb in (("score", "--particles", 20), ("embed",)):
        found = read(deeplvm, *verb[:1], "run", "new.csv", "--classes", *verb[1:])
        assert np.allclose(found[classes].sum(axis=1), 1)
        assert (found["class"] == KINDS[found[classes].to_numpy().argmax(1)]).all()
    annealed = ("--ais", "--annealed-rows", 6, "--temperatures", 3, "--annealed-particles", 2)
    assert deeplvm("evaluate", "run", "new.csv", "--particles", 10, *annealed).code == 0
    told = json.loads(deeplvm("evaluate", "run", "new.csv", "--particles", 20, "--json").out)
    assert told["data"]["scored"] == ["x", "y"]
    assert told["classification"]["rows"] == labelled.sum()
    assert 0 <= told["classification"]["model"]["error"]["value"] <= 1
    assert "error of q(y | x)" in deeplvm("evaluate", "run", "--particles", 20).out


def test_rows_on_disk_have_as_many_labels_as_come(deeplvm: Run, rows: pandas.DataFrame) -> None:
    """The recipe's own balance has no part then, and that is said; one asked for is refused."""
    pandas.read_csv("few.csv").to_parquet("few.parquet", row_group_size=40)
    words = ("fit", "few.parquet", "--label", "kind", "--stream", *TINY[:-2], "--no-evaluate")
    words = (*words, "--recipe", "semi_supervised_vae")
    fitted = deeplvm(*words, "--out", "run")
    assert fitted.code == 0, fitted.err
    assert "batches have as many labels as come" in fitted.err
    assert deeplvm("resume", "run", "--epochs", 3, "--no-evaluate").code == 0
    refused = deeplvm(*words, "--labelled", 0.3, "--out", "other")
    assert "an order of their own" in refused.line


def test_a_row_without_a_label_is_scored_as_a_file_without_the_column(
    deeplvm: Run, rows: pandas.DataFrame
) -> None:
    """One batch with both kinds of rows gives a row the number that it has by itself."""
    assert deeplvm(*FIT, "--recipe", "semi_supervised_vae").code == 0
    rows.drop(columns="kind").to_csv("none.csv", index=False)
    rows[rows["kind"] != ""].to_csv("all.csv", index=False)
    words = ("--particles", 2000)
    mixed, none, known = [
        read(deeplvm, "score", "run", each, *words) for each in ("new.csv", "none.csv", "all.csv")
    ]
    labelled = rows["kind"].to_numpy() != ""
    # failure rate below 1e-6: five standard errors, which are below 0.05 nats
    assert mixed["log_px_stderr"].max() < 0.05
    for other, of in ((none["log_px"][~labelled], ~labelled), (known["log_px"], labelled)):
        own = mixed[of]
        gap = np.abs(own["log_px"].to_numpy() - other.to_numpy())
        assert (gap < 7 * own["log_px_stderr"]).all()


def test_models_that_need_every_label_say_so(deeplvm: Run, rows: pandas.DataFrame) -> None:
    refused = deeplvm(*FIT, "--recipe", "conditional_vae")
    assert refused.code == 2
    assert "90 rows of few have no label; take the recipe semi_supervised_vae" in refused.line
    full = pandas.read_csv("few.csv").assign(kind=np.tile(KINDS, 40))
    full.to_csv("few.csv", index=False)
    assert deeplvm(*FIT, "--recipe", "conditional_vae").code == 0
    refused = deeplvm("score", "run", "new.csv", "-o", "s.csv")
    assert refused.code == 2
    assert "15 rows have no 'kind', the label, which the model is given" in refused.line


def test_labels_that_the_model_never_saw_are_refused(deeplvm: Run, rows: pandas.DataFrame) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("few.npz", x=x, y=np.arange(60) % 3)
    np.savez("new.npz", x=x, y=np.full(60, 7))
    words = ("fit", "few.npz", "--recipe", "semi_supervised_vae", "--out", "run", *TINY)
    assert deeplvm(*words).code == 0
    line = deeplvm("score", "run", "new.npz", "-o", "s.csv").line
    assert "'7' is none of the labels of the training data (0, 1, 2)" in line


def read(deeplvm: Run, *words: Any) -> pandas.DataFrame:
    outcome = deeplvm(*words, "-o", "out.csv")
    assert outcome.code == 0, outcome.err
    return pandas.read_csv("out.csv")
