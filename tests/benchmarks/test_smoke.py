"""The benchmarks run, in small and without peers, and their tables can be made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "run.py"
NAMES = ("step", "parts", "likelihood", "startup", "memory", "scaling", "flows")


def test_every_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), *NAMES, "--effort", "smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in NAMES}
    assert all([result["effort"] == "smoke" for result in results.values()])
    for found in results["step"]["workloads"].values():
        assert {"deeplvm, eager", "by hand, eager"} <= set(found["sides"])
        assert "measured without peers" in found["absent"].values()
    for title in (
        "A training step",
        "An importance-sampled likelihood",
        "Start-up",
        "Growth",
        "A flow",
    ):
        assert f"## {title}" in done.stdout
