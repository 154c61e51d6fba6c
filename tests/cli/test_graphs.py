"""The verbs on a model of a graph: what each writes, and what none of them does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deeplvm.cli.app import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two blocks of named nodes, trained for a few epochs, with its report."""
    folder = tmp_path_factory.mktemp("graph")
    rng = np.random.default_rng(0)
    block = np.arange(40) % 2
    share = np.where(block[:, None] == block, 0.9, 0.05)
    edges = np.argwhere(np.triu(rng.random((40, 40)) < share, 1))
    lines = [f"n{a:02d},n{b:02d}" for a, b in edges]
    (folder / "edges.csv").write_text("\n".join(["from,to", *lines]))
    words = ["--recipe", "variational-graph-autoencoder", "--latent", "2", "--epochs", "40"]
    words += ["--learning-rate", "0.05"]
    assert main(["fit", str(folder / "edges.csv"), *words, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_fit_leaves_its_evaluation_and_report(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())
    assert found["auc"]["value"] > 0.8
    assert found["nodes"] == 40
    page = (run / "report.html").read_text()
    for said in ("Held-out edges", "average precision", "The nodes", "principal axis", "<svg"):
        assert (said in page) == (said != "principal axis")
    assert "was not evaluated" not in page


WRITTEN = {
    "embed": (["--scales"], ["node", "z_0", "z_1", "z_scale_0", "z_scale_1"], 40),
    "score": ([], ["source", "target", "probability", "edge"], None),
    "score, known": (["--split", "train"], ["source", "target", "probability", "edge"], None),
    "reconstruct": (["-n", "10"], ["source", "target", "probability", "edge"], 10),
    "impute": ([], ["source", "target", "probability", "edge"], None),
    "sample": (["-n", "2"], ["graph", "source", "target"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_verbs_write_nodes_and_pairs(name: str, run: Path, tmp_path: Path) -> None:
    options, columns, rows = WRITTEN[name]
    output = tmp_path / "out.csv"
    assert main([name.split(",")[0], str(run), *options, "-o", str(output)]) == 0
    table = pd.read_csv(output)
    assert [*table.columns] == columns
    assert rows in (None, len(table))
    if "probability" in columns and name not in ("score", "score, known"):
        ranks = table["probability"].rank()  # ranked by the means of codes, shown over draws
        assert ranks.corr(pd.Series(-np.arange(len(table)))) > 0.5
    if name == "impute":  # held-out edges are among the first of those that are not known
        assert table["edge"].iloc[:20].sum() > table["edge"].iloc[-200:].sum() / 10


def test_pairs_of_a_file_are_scored_by_their_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("n00,n02\nn00,n01\nn02,n00\n")
    words = ["score", str(run), str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out.csv")]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    same, other, again = table["probability"]
    assert same > other
    assert again == pytest.approx(same)
    (tmp_path / "pairs.csv").write_text("n00,n02\nn00,zoe\n")
    assert main(words) == 2


REFUSED = {
    "diagnose": (["diagnose"], "looks at many rows, and a graph is one"),
    "annealing": (["evaluate", "--ais"], "--ais is of rows of values"),
    "training edges": (["evaluate", "--split", "train"], "edges are ranked that were held out"),
    "cells": (["score", "--cells", "-o", "x.csv"], "--cells is of rows of values"),
    "a picture": (["sample", "-o", "x.png"], "ends with '.png'"),
    "an option": (["sample", "-o", "x.csv", "--rows", "0"], "rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_rows_is_refused(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (verb, *words), said = REFUSED[name]
    assert main([verb, str(run), *words]) == 2
    assert said in capsys.readouterr().err


def test_resume_goes_on_and_other_edges_of_the_same_nodes_are_encoded(
    run: Path, tmp_path: Path
) -> None:
    assert main(["resume", str(run), "--epochs", "41"]) == 0
    output = tmp_path / "codes.npz"
    edges = run.parent / "edges.csv"
    assert main(["embed", str(run), str(edges), "-o", str(output)]) == 0
    assert np.load(output)["z"].shape == (40, 2)
