"""What a run has learned as files, as a user would ask for them and use them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.likelihood import importance_sampling
from deeplvm.runs.run import open_run

Run = Callable[..., Any]

# A user's own pipeline, on a machine that has numpy and onnxruntime.
PIPELINE = """
import csv, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("deeplvm", "torch", "pandas", "onnx", "onnxscript"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import numpy, onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["deeplvm"])
rows = list(csv.DictReader(open(sys.argv[2])))
feed = {}
for column in about["inputs"]:
    cells = [row[column["name"]] for row in rows]
    text = column["type"] == "string"
    numbers = None if text else [float(cell or "nan") for cell in cells]
    feed[column["name"]] = numpy.array(cells, object) if text else numpy.array(numbers, "float32")
(log_px,) = session.run(["log_px"], feed)
print(json.dumps({"likelihood": about["likelihood"], "log_px": log_px.tolist()}))
"""


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with texts, counts, and holes in both."""
    draws = np.random.default_rng(0)
    job = draws.choice(["nurse", "clerk", "smith"], 80).astype(object)
    count = draws.poisson(3 + 4 * (job == "nurse")).astype(float)
    job[draws.random(80) < 0.1] = None
    count[draws.random(80) < 0.1] = np.nan
    path = tmp_path_factory.mktemp("data") / "visits.csv"
    pd.DataFrame({"job": job, "visits": count}).to_csv(path, index=False)
    return path


def test_another_process_scores_the_same_rows_without_deeplvm(
    deeplvm: Run, visits: Path, here: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = ("--epochs", "1", "--latent", "2", "--hidden", "4", "--no-evaluate")
    assert deeplvm("fit", visits, "--out", "run", *words).code == 0
    words = ("--part", "log-likelihood", "--particles", "5", "-o", "score.onnx")
    outcome = deeplvm("export", "run", *words)
    assert outcome.code == 0, outcome.err
    assert "as the run within" in outcome.out
    run = open_run(here / "run")
    rows = dataclasses.replace(run.read(str(visits)).test[:], common=True)
    expected = importance_sampling(run.model, rows, 5, seed=0).log_px.tolist()
    table = pd.read_csv(visits)
    table.loc[len(table)] = ["baker", 1]  # a job that the model does not know
    table.loc[len(table)] = ["nurse", -1]
    table.to_csv("rows.csv", index=False)
    command = [sys.executable, "-c", PIPELINE, "score.onnx", "rows.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["likelihood"] == "bound"
    np.testing.assert_allclose(told["log_px"][:-2], expected, rtol=1e-4)
    assert np.isnan(told["log_px"][-2:]).all()


def test_a_program_for_pytorch(deeplvm: Run, image_run: Path, here: Path) -> None:
    words = ("--to", "pt2", "--part", "encoder", "-o", "parts", "--json")
    outcome = deeplvm("export", image_run, *words)
    assert outcome.code == 0, outcome.err
    (written,) = json.loads(outcome.out)["written"]
    assert written["outputs"] == ["z", "z_sd"]
    assert written["difference"] < 1e-6
    extra = {"deeplvm": ""}
    program = torch.export.load(here / "parts" / "encoder.pt2", extra_files=extra).module()
    assert json.loads(extra["deeplvm"])["inputs"][0]["shape"] == ["rows", 1, 8, 8]
    mean, _ = program(torch.zeros(3, 1, 8, 8))
    assert mean.shape == (3, 2)


@pytest.mark.parametrize(
    "words, said",
    [
        (("-o", "x.onnx"), "x.onnx is one file, and a file has one function; name it with --part"),
        (("--to", "pt2", "-o", "x.onnx"), "x.onnx ends with '.onnx', and --to is pt2"),
        (("-o", "no/x.pt2", "--part", "decoder"), "no does not exist; make the folder first"),
        (("--to", "torchscript"), "torchscript"),
        (("--particles", "0"), "--particles"),
        (("--part", "prior"), "prior"),
    ],
)
def test_what_is_asked_wrongly(
    deeplvm: Run, image_run: Path, words: tuple[str, ...], said: str
) -> None:
    outcome = deeplvm("export", image_run, *words)
    assert outcome.code == 2
    assert said in outcome.line


def test_a_folder_is_made_where_its_parent_is(deeplvm: Run, image_run: Path) -> None:
    for place in ("new/deep", "new/decoder.onnx"):
        outcome = deeplvm("export", image_run, "--part", "decoder", "-o", place)
        assert outcome.code == 2
        assert "new does not exist; make the folder first" in outcome.line
    assert not Path("new").exists()


def test_what_is_no_function_of_a_row(deeplvm: Run) -> None:
    Path("texts.txt").write_text("\n".join(["a b c d", "b c d e"] * 20))
    words = ("--recipe", "sentence_vae", "--epochs", "1", "--latent", "2", "--hidden", "4")
    outcome = deeplvm(
        "fit", "texts.txt", "--out", "run", *words, "--features", "4", "--no-evaluate"
    )
    assert outcome.code == 0, outcome.err
    for verb in ("export", "explore"):
        outcome = deeplvm(verb, "run")
        assert outcome.code == 2
        assert "run: rows are texts, and functions of one row, which export and" in outcome.line
        assert not Path(f"run/{verb}").exists()
    assert not Path("run/explore.html").exists()
