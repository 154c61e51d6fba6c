"""How good are pictures that are drawn in steps, and how often are objects counted right?

What is done is kept in the folder, checkpoints too, and a run goes on where it stopped; several
runs, or one after the other, share `results/drawing.json`. Needs `binarized-mnist` and `mnist`.

    python benchmarks/drawing.py attention whole       # an hour each on two cores
    python benchmarks/drawing.py compression           # an hour
    python benchmarks/drawing.py objects               # an hour; multi-mnist, digits of 0 to 2
    python benchmarks/drawing.py objects --minutes 0.2 --rows 50 --particles 5    # a trial
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from deeplvm.data import load
from deeplvm.evaluation import counting
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

# data, recipe and its options, options of fit over the recipe's own
RUNS: dict[str, tuple[dict[str, Any], str, dict[str, Any], dict[str, Any]]] = {
    "attention": (
        {"source": "binarized-mnist"}, "draw", {"steps": 16, "latent": 16},
        {"learning_rate": 1e-3, "schedule": "cosine"},
    ),
    "whole": (
        {"source": "binarized-mnist"}, "draw", {"steps": 10, "latent": 16, "attention": False},
        {"learning_rate": 1e-3, "schedule": "cosine"},
    ),
    "compression": (
        {"source": "binarized-mnist"}, "convolutional_draw", {},
        {"learning_rate": 1e-3, "schedule": "cosine"},
    ),
    "objects": (
        {"source": "multi-mnist", "binarize": "static"}, "attend_infer_repeat", {"steps": 3}, {},
    ),
}  # fmt: skip
PUBLISHED = {
    "Gregor et al. (2015), https://arxiv.org/abs/1502.04623": (
        "static: bounds -80.97 with attention, 64 steps, and -87.40 without, 10 steps"
    ),
    "Eslami et al. (2016), https://arxiv.org/abs/1603.08575": "count accuracy about 0.98",
}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure what was learned on test rows."""
    rows, recipe, model_options, training = RUNS[name]
    folder = options.folder / f"{name}-{options.seed}-{options.minutes:g}"
    data = load(**rows)
    torch.manual_seed(options.seed)
    model = find(recipe)(data, **model_options)
    training = {"epochs": 10_000, "batch_size": 100, **training_of(find(recipe)), **training}
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=options.minutes, folder=folder, resume=True,
        **training,
    )  # fmt: skip
    model.eval()
    some = data.test[: options.rows]
    estimate = importance_sampling(model, some, particles=options.particles)
    counts = counting(model, some)
    return {
        "settings": {
            "data": rows, "recipe": recipe, **model_options, "minutes": options.minutes,
            "seed": options.seed, **{n: str(v) for n, v in training.items()},
        },
        "epochs": len(history.epochs),
        "test": {
            "rows": some.rows,
            "elbo": float(estimate.elbo.mean()),
            "log_px": {
                "value": float(estimate.mean), "stderr": float(estimate.stderr),
                "particles": options.particles,
            },
            "objects": None if counts is None else counts.to_dict(),
        },
        "curve": [
            {"epoch": r["epoch"], **{s: r[s]["elbo"] for s in ("train", "valid")}}
            for r in history.epochs[:: max(1, len(history.epochs) // 40)]
        ],
        "published": PUBLISHED,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", choices=list(RUNS))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rows", type=int, default=2000, help="test rows")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/drawing"))
    options = parser.parse_args()
    trial = options.minutes != parser.get_default("minutes")
    results = options.folder if trial else RESULTS
    path = results / "drawing.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.runs:
        key = name if options.seed == 0 else f"{name}, seed {options.seed}"
        found[key] = measured(name, options)
        found.pop("machine", None)
        keep("drawing", found, results)


if __name__ == "__main__":
    main()
