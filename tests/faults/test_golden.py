"""A run folder of each format that was ever written is opened by this version.

A run knows its data by their path; in these folders it is relative, so a test works beside them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from deeplvm.cli import main
from deeplvm.likelihood import importance_sampling
from deeplvm.runs.run import FORMAT, open_run
from deeplvm.training.checkpoint import VERSION

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.name for path in GOLDEN.glob("run-*"))


@pytest.fixture(autouse=True, params=FOLDERS)
def golden(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float64: None
) -> Path:
    """A copy to work in; users have float32."""
    torch.set_default_dtype(torch.float32)
    shutil.copytree(GOLDEN / request.param, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_one_of_this_version() -> None:
    assert f"run-{FORMAT}" in FOLDERS
    assert VERSION == 1, "keep a run folder of the new version: tests/golden/make.py"


def test_the_model_gives_the_stored_log_densities() -> None:
    run = open_run("run")
    expected = torch.tensor(json.loads(Path("expected.json").read_text())["log_prob"])
    x = run.data.batch("test", slice(None))["x"]
    found = run.model.p({"x": x, "z": torch.zeros(len(x), 2)}).log_prob
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_training_goes_on() -> None:
    before = Path("run/metrics.jsonl").read_text()
    words = ["resume", "run", "--epochs", "3", "--no-evaluate", "--device", "cpu"]
    assert main(words) == 0
    after = Path("run/metrics.jsonl").read_text()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["epoch"] == 3


def test_it_is_evaluated_as_then() -> None:
    """The draws are others since a row's noise is its own: numbers agree within their error.

    The kept ELBO is one draw of 20 particles; it fails by chance once in 16,000 kept runs.
    """
    kept = json.loads(Path("run/evaluation.json").read_text())
    run = open_run("run")
    draws = [
        importance_sampling(run.model, run.data.test, particles=20, seed=seed).elbo.mean()
        for seed in range(100)
    ]
    mean, spread = torch.stack(draws).mean(), torch.stack(draws).std()
    assert abs(kept["elbo"]["value"] - mean) < 4 * spread
    assert main(["evaluate", "run", "--particles", "20", "--device", "cpu"]) == 0
    found = json.loads(Path("run/evaluation.json").read_text())
    assert found.keys() >= kept.keys()
    assert abs(found["elbo"]["value"] - mean) < 4 * spread


@pytest.mark.parametrize("verb", ["sample", "embed"])
def test_it_is_used(verb: str) -> None:
    assert main([verb, "run", "--output", "out.csv"]) == 0
    assert len(Path("out.csv").read_text().splitlines()) > 2
