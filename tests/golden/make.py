"""Make ``tests/golden/run-N``, N the format of this version: ``python tests/golden/make.py``.

Only for a new format: the folders of older ones stay as they are, for later versions to open.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from deeplvm.cli import main
from deeplvm.runs.run import FORMAT, open_run

HERE = Path(__file__).parent
OPTIONS = (
    "--label kind --latent 2 --hidden 4 --epochs 2 --batch-size 16 --evaluation-particles 20 "
    "--no-compile --device cpu"
)
KEPT = ("checkpoint", "config.toml", "data.json", "evaluation.json", "metrics.jsonl")


def make(folder: Path) -> None:
    """A table of three columns and a label, a run on it, and what its model says of ten rows."""
    folder.mkdir()
    os.chdir(folder)
    draws = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    lines = [f"{a},{b},{c},{'tall' if a > 0 else 'small'}\n" for a, b, c in draws]
    Path("people.csv").write_text("".join(["height,weight,age,kind\n", *lines]))
    if main(["fit", "people.csv", *OPTIONS.split(), "--out", "run"]):
        sys.exit("the fit failed")
    for path in Path("run").iterdir():
        if path.name not in (*KEPT, "model.safetensors"):
            path.unlink()
    # a run knows its data by their whole path, which is another one wherever this is checked out
    for name in ("config.toml", "data.json", "evaluation.json"):
        path = Path("run") / name
        path.write_text(path.read_text().replace(str(folder / "people.csv"), "people.csv"))
    run = open_run("run")
    x = run.data.batch("test", slice(None))["x"]
    densities = run.model.p({"x": x, "z": torch.zeros(len(x), 2)}).log_prob
    Path("expected.json").write_text(json.dumps({"log_prob": densities.tolist()}))


if __name__ == "__main__":
    make((HERE / f"run-{FORMAT}").absolute())
