"""How many bits a pixel do exact densities and diffusion take in a given time?

Grey MNIST in bits a pixel of its 256 levels, and two moons in nats above the best Gaussian. What
is done is kept in the folder, checkpoints too, and a run goes on where it stopped; several runs
share `results/densities.json`. Needs `mnist` (see `deeplvm datasets`), but for `moons`.

    python benchmarks/densities.py moons nice real_nvp glow diffusion    # ten minutes each
    python benchmarks/densities.py glow --minutes 0.2 --rows 20          # a trial
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import make_moons

from deeplvm import evaluate
from deeplvm.data import Data, load
from deeplvm.recipes import find, training_of
from deeplvm.recipes.catalogue import loading_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

# Recipe, its options and those of training, by name; "learned noise" is a bound, as diffusion is.
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "moons": ("real_nvp", {"transforms": 6, "hidden": (32, 32)}, {"epochs": 60}),
    "nice": ("nice", {"hidden": (1000, 1000, 1000)}, {}),
    "real_nvp": ("real_nvp", {}, {}),
    "real_nvp, learned noise": ("real_nvp", {"noise": "variational"}, {}),
    "glow": ("glow", {}, {}),
    "diffusion": ("diffusion", {}, {}),
    "diffusion, 100 steps": ("diffusion", {"steps": 100}, {}),
}
PUBLISHED = {
    "https://github.com/EugenHotaj/pytorch-generative": "grey MNIST: NICE 4.34 bits a pixel",
    "Grathwohl et al. (2019), https://arxiv.org/abs/1810.01367": (
        "grey MNIST: Real NVP 1.06, Glow 1.05 bits a pixel"
    ),
}


def source(name: str, recipe: str) -> Data:
    """The data of a run."""
    if name == "moons":
        points, _ = make_moons(10_000, noise=0.05, random_state=0)
        return load({"x": points})
    return load("mnist", **loading_of(find(recipe)))


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure what was learned on test rows."""
    recipe, of_model, of_training = RUNS[name]
    minutes = options.minutes or 10.0
    folder = options.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{options.seed}"
    kept = folder / f"result-{minutes:g}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    data = source(name, recipe)
    torch.manual_seed(options.seed)
    model = find(recipe)(data, **of_model)
    training = {"epochs": 10_000, **training_of(find(recipe)), **of_training}
    began = time.perf_counter()
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=minutes, folder=folder / f"run-{minutes:g}",
        resume=True, **training,
    )  # fmt: skip
    rows = data.test[: options.rows]
    found = evaluate(model, rows, particles=options.particles)
    result = {
        "settings": {
            "recipe": recipe, **of_model, "minutes": minutes, "seed": options.seed,
            **{key: str(value) for key, value in training.items()},
        },
        "parameters": sum([each.numel() for each in model.parameters()]),
        "seconds": time.perf_counter() - began,
        "epochs": len(history.epochs),
        "test": {
            "rows": len(rows["x"]),
            "log_px": {k: found.log_px[k] for k in ("value", "stderr", "particles")},
            "bits": {"value": found.bits_per_dim, "stderr": found.bits_per_dim_stderr},
            "offset": found.bits_per_dim_offset,
        },
        "curve": [
            {"epoch": r["epoch"], **{s: r[s]["elbo"] for s in ("train", "valid")}}
            for r in history.epochs[:: max(1, len(history.epochs) // 40)]
        ],
        "published": PUBLISHED,
    }  # fmt: skip
    if name == "moons":
        x = rows["x"].double()
        best = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T)).log_prob(x)
        result["test"]["nats above a Gaussian"] = found.log_px["value"] - float(best.mean())
    kept.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", choices=list(RUNS))
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--rows", type=int, default=10_000, help="test rows")
    parser.add_argument("--particles", type=int, default=10, help="draws of learned noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/densities"))
    options = parser.parse_args()
    results = options.folder if options.minutes is not None else RESULTS
    path = results / "densities.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.runs:
        key = name if options.seed == 0 else f"{name}, seed {options.seed}"
        found[key] = measured(name, options)
        shown = {k: v for k, v in found[key].items() if k not in ("curve", "published")}
        print(json.dumps(shown, indent=1))
        found.pop("machine", None)
        keep("densities", found, results)


if __name__ == "__main__":
    main()
