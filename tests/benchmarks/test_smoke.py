"""The benchmarks run, in small and without peers, and their tables can be made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from long_form import FULL

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "run.py"
TITLES = {
    "step": "A training step",
    "likelihood": "An importance-sampled likelihood",
    "startup": "Start-up",
    "flows": "A flow",
    "posteriors": "Posteriors",
}
NAMES = [*TITLES]
if FULL:  # those that are like another one too
    TITLES |= {"scaling": "Growth", "annealing": "Annealing"}
    NAMES = [*TITLES, "busy", "parts", "memory"]


def test_every_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), *NAMES, "--effort", "smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in NAMES}
    assert all([result["effort"] == "smoke" for result in results.values()])
    for found in results["step"]["workloads"].values():
        assert {"deeplvm, eager", "by hand, eager"} <= set(found["sides"])
        assert "measured without peers" in found["absent"].values()
    assert all([f"## {title}" in done.stdout for title in TITLES.values()])
    posteriors = results["posteriors"]
    exact = evidence_by_one_integral()
    found = {name: posteriors["toy"]["log p(x)"][name] for name in exact}
    assert found == pytest.approx(exact, abs=1e-7)
    for part in ("toy", "mnist"):
        assert list(posteriors[part]["families"]) == ["gaussian", "planar"]
        assert not posteriors[part]["absent"]


def evidence_by_one_integral() -> dict[str, float]:
    """log p(x) of two of the known posteriors: their second coordinate integrates by hand."""
    z = np.linspace(-10, 10, 4001)
    prior = np.exp(-0.5 * z**2)
    variance = 1 + 0.15**2

    def log_px(mean: np.ndarray) -> float:
        density = np.exp(-0.5 * mean**2 / variance) / np.sqrt(2 * np.pi * variance)
        return float(np.log(density @ prior / prior.sum()))

    return {"banana": log_px(1 - z**2), "wave": log_px(np.sin(3 * z))}
