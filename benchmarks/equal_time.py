"""Which extra flexibility pays first? The same minutes for models of MNIST that bend one thing.

Each is a recipe as the command line has it, with the batch and learning rate given here, trained
for `--minutes` on dynamically binarized MNIST, then log p(x) of the same test rows by importance
sampling (exactly where there are no latents). Real NVP has a density of grey values: it stands
beside a VAE of grey values, both in bits a pixel. What a model gave is kept in the folder, and a
run does what is missing there; the picture is made of what there is. Needs `mnist`.

    python benchmarks/equal_time.py [--minutes 10] [--only made] [--seed 0] [--rows 2000]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from deeplvm.data import load
from deeplvm.likelihood import bits_per_dimension, importance_sampling
from deeplvm.recipes import find, training_of
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded
from machine import keep

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "equal_time.png"


@dataclass(frozen=True)
class Side:
    """A model: its recipe with options, and how it is trained."""

    what: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    particles: int = 200
    data: dict[str, Any] = field(default_factory=lambda: {"binarize": "dynamic"})


MLPS: dict[str, Any] = {"latent": 40, "hidden": (300, 300)}
FAST: dict[str, Any] = {"batch_size": 250, "learning_rate": 2e-3, "schedule": "cosine"}
SIDES = {
    "vae": Side("nothing: Gaussian prior and posterior", "vae", MLPS, FAST),
    "iaf": Side(
        "posterior: inverse autoregressive flow", "vae", MLPS | {"posterior": "iaf"}, FAST
    ),
    "vamp": Side("prior: mixture of 500 posteriors", "vae", MLPS | {"prior": "vamp"}, FAST),
    "flow": Side("prior: masked autoregressive flow", "vae", MLPS | {"prior": "maf"}, FAST),
    "ladder": Side("five layers of latents", "ladder_vae", {}, FAST),
    "pixel_vae": Side("decoder: convolutions of earlier pixels", "pixel_vae", {}, {}, 20),
    "made": Side("no latents: pixels of earlier pixels", "made", {}, FAST, 1),
    "grey vae": Side(
        "grey values: latents, logistic likelihood",
        "vae",
        MLPS,
        FAST,
        data={"likelihood": "discretized-logistic"},
    ),
    "real_nvp": Side(
        "grey values: no latents, couplings", "real_nvp", {}, {}, 1, data={"dequantize": "uniform"}
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2_000, help="test rows that are measured")
    parser.add_argument("--limit", type=int, help="training rows; a small trial")
    parser.add_argument("--folder", type=Path, default=Path("runs/equal_time"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in [given.only] if given.only else SIDES:
        path = given.folder / f"{name.replace(' ', '_')}-{given.seed}.json"
        if not path.exists():
            found = measured(SIDES[name], given.minutes, given.seed, given.rows, given.limit)
            path.write_text(json.dumps(found, indent=1))
        shown = json.loads(path.read_text())
        print(name, json.dumps({k: v for k, v in shown.items() if k != "curve"}), flush=True)
    kept = {name: given.folder / f"{name.replace(' ', '_')}-{given.seed}.json" for name in SIDES}
    sides = {n: json.loads(path.read_text()) for n, path in kept.items() if path.exists()}
    if not given.limit:
        keep("equal_time", {"what": "equal time", "minutes": given.minutes, "sides": sides})
        drawn(sides, given.minutes)


def measured(
    side: Side, minutes: float, seed: int, rows: int, limit: int | None
) -> dict[str, Any]:
    """Of one model: log p(x) of test rows, and how it got there."""
    data = load("mnist", limit=limit, **side.data)
    recipe = find(side.recipe)
    training = {**training_of(recipe), **side.training, "epochs": 10_000, "minutes": minutes}
    model = build(recipe, data, side.options, seed)
    began = time.perf_counter()
    history = unfolded(fit)(model, data, seed=seed, quiet=True, **training)
    seconds = time.perf_counter() - began
    estimate = importance_sampling(
        model, data.test[:rows], particles=side.particles, seed=seed, draw=training.get("draw")
    )
    log_px = estimate.log_px
    bits = bits_per_dimension(log_px, torch.full_like(log_px, 784), data.variables)
    return {
        "what": side.what,
        "recipe": side.recipe,
        "settings": {key: str(value) for key, value in {**side.options, **training}.items()},
        "parameters": sum(each.numel() for each in model.parameters()),
        "estimate": estimate.to_dict(),
        "bits_per_dim": {"value": bits.value, "stderr": bits.stderr, "of": bits.explanation},
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "curve": [
            {"seconds": epoch["seconds"], "elbo": epoch["valid"]["elbo"]}
            for epoch in history.epochs
        ],
    }


def drawn(sides: dict[str, Any], minutes: float) -> None:
    """One bar a model, the better ones longer, and how each learned."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    binary = {name: side for name, side in sides.items() if "binarize" in SIDES[name].data}
    binary = dict(sorted(binary.items(), key=lambda item: item[1]["estimate"]["value"]))
    values = [side["estimate"]["value"] for side in binary.values()]
    errors = [2 * side["estimate"]["stderr"] for side in binary.values()]
    left.errorbar(values, range(len(binary)), xerr=errors, fmt="o", capsize=3)
    left.set_yticks(range(len(binary)), [side["what"] for side in binary.values()])
    left.set_xlabel(f"log p(x) of test rows after {minutes:g} minutes, nats")
    for name, side in binary.items():
        curve = side["curve"]
        right.plot([p["seconds"] / 60 for p in curve], [p["elbo"] for p in curve], label=name)
    if values:
        right.set_ylim(min(values) - 20, max(values) + 2)
    right.set(xlabel="minutes", ylabel="bound of held-out rows, nats")
    right.legend(fontsize="small")
    figure.savefig(PICTURE, dpi=120)
    print(f"drawn in {PICTURE}")


if __name__ == "__main__":
    main()
