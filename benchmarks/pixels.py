"""Pixels that follow from each other: which network learns most of MNIST in the same time?

All on dynamically binarized `mnist` (see `deeplvm datasets`), ten minutes each on two cores. What
is done is kept in the folder, checkpoints too, and a run goes on where it stopped; several runs,
or one after the other, share `results/pixels.json`.

    python benchmarks/pixels.py                        # all of them, an hour and a half
    python benchmarks/pixels.py gated_pixel_cnn pixel_vae --minutes 30
    python benchmarks/pixels.py pixel_rnn --minutes 0.1 --rows 20 --limit 500    # a trial
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from deeplvm.data import load
from deeplvm.evaluation import evaluate
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

# Recipes and options, of which most are the defaults: about as much to compute for each.
RUNS: dict[str, dict[str, Any]] = {
    "pixel_cnn": {},
    "gated_pixel_cnn": {},
    "pixel_cnn_pp": {},
    "pixel_rnn": {},
    "image_transformer": {},
    "locally_masked_pixel_cnn": {},
    "pixel_vae": {},
    "variational_lossy_autoencoder": {},
}
PUBLISHED = {
    "https://github.com/EugenHotaj/pytorch-generative": (
        "dynamic: gated PixelCNN -81.50, PixelCNN -81.45, both 15 layers of 16 channels and 457 "
        "epochs; PixelSNAIL -78.61, ImageGPT -79.17"
    ),
    "Jain et al. (2020), https://arxiv.org/abs/2006.12486": "dynamic: -77.56, 8 orders",
    "Chen et al. (2017), https://arxiv.org/abs/1611.02731": (
        "dynamic: variational lossy autoencoder -78.53, its decoder alone -87.55"
    ),
}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure test rows: exactly without latents, else by importance sampling."""
    folder = options.folder / f"{name}-{options.seed}-{options.minutes:g}-{options.limit or 'all'}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    data = load("mnist", binarize="dynamic", limit=options.limit)
    torch.manual_seed(options.seed)
    model = find(name)(data, **RUNS[name])
    training = {"epochs": 10_000, "averaging": 0.999, **training_of(find(name))}
    began = time.perf_counter()
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=options.minutes, folder=folder / "run",
        resume=True, **training,
    )  # fmt: skip
    trained = time.perf_counter() - began
    rows = data["test"][: options.rows]
    found = evaluate(model, rows, particles=options.particles, seed=options.seed).to_dict()
    result = {
        "what": str(model),
        "settings": {
            "recipe": name, **RUNS[name], "minutes": options.minutes, "seed": options.seed,
            "limit": options.limit, "binarization": "dynamic",
            **{option: str(value) for option, value in training.items()},
        },
        "parameters": sum([each.numel() for each in model.parameters()]),
        "seconds": {"training": trained, "measuring": time.perf_counter() - began - trained},
        "epochs": len(history.epochs),
        "rows per second": history.epochs[-1].get("rows_per_second"),
        "test": {key: found.get(key) for key in ("log_px", "elbo", "kl")} | {"rows": options.rows},
        "curve": [
            {"epoch": r["epoch"], **{split: r[split]["elbo"] for split in ("train", "valid")}}
            for r in history.epochs[:: max(1, len(history.epochs) // 40)]
        ],
        "published": PUBLISHED,
    }  # fmt: skip
    kept.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", choices=[[], *RUNS], help="all by default")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=2000, help="test rows")
    parser.add_argument("--particles", type=int, default=100, help="where there are latents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=None, help="training rows, of a trial")
    parser.add_argument("--folder", type=Path, default=Path("runs/pixels"))
    options = parser.parse_args()
    results = RESULTS if options.limit is None else options.folder
    path = results / "pixels.json"
    for name in options.runs or RUNS:
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        found.pop("machine", None)
        marks = [f"{options.minutes:g} minutes"] * (options.minutes != 10)
        marks += [f"seed {options.seed}"] * (options.seed != 0)
        result = found[", ".join([name, *marks])] = measured(name, options)
        shown = {key: value for key, value in result.items() if key not in ("curve", "published")}
        print(json.dumps(shown, indent=1))
        keep("pixels", found, results)


if __name__ == "__main__":
    main()
