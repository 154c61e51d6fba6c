"""Held-out edges of a citation graph, found by graph autoencoders over several splits.

    python benchmarks/graphs.py [--data cora] [--splits 10] [--epochs N] [--out FOLDER]

Both models of Kipf & Welling (2016), https://arxiv.org/abs/1611.07308, with their settings (200
epochs, 32 and 16 units, Adam at 0.01) on splits of our own: 85 % of the edges are learned from,
10 % with as many other pairs are ranked. Their errors are over starts on one split, ours over
splits, which differ by more: no claim that one model beats the other. What is done is kept, and a
run does the rest; a split takes each model some 40 seconds of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from deeplvm.data import load
from deeplvm.evaluation.graphs import evaluate_graph
from deeplvm.recipes import find, training_of
from deeplvm.results import Estimate
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

# AUC and average precision, percent
PUBLISHED = {
    "cora": {
        "variational_graph_autoencoder": (91.4, 92.6),
        "graph_autoencoder": (91.0, 92.0),
    },
    "citeseer": {
        "variational_graph_autoencoder": (90.8, 92.0),
        "graph_autoencoder": (89.5, 89.9),
    },
}


def of_split(recipe: str, name: str, split: int, epochs: int | None) -> dict[str, Any]:
    """What one model reaches on one split."""
    began, data = time.process_time(), load(name, seed=split)
    model = build(find(recipe), data, {}, split)
    settings = training_of(find(recipe)) | ({"epochs": epochs} if epochs else {})
    unfolded(fit)(model, data, seed=split, quiet=True, threads=1, **settings)
    found = evaluate_graph(model, data)  # type: ignore[arg-type]
    return {
        "auc": found.auc.value,
        "average_precision": found.average_precision.value,
        "elbo_per_node": found.per_node,
        "log_p_edge": found.held_out_edge.value,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def summary(splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over splits, with the standard error, and the standard deviation of one split."""
    found: dict[str, Any] = {"splits": len(splits)}
    for key in ("auc", "average_precision"):
        each = torch.tensor([one[key] for one in splits.values()], dtype=torch.float64)
        spread = float(each.std()) if len(each) > 1 else None
        found[key] = Estimate.of(each).to_dict() | {"of_one_split": spread}
    return found


def main() -> None:
    """Every model on every split that is not kept yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=[*PUBLISHED], default="cora")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.out / "graphs.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    results = {"question": "held-out edges of a graph", "data": {}} | kept
    models = results["data"].setdefault(asked.data, {})
    for split in range(asked.splits):
        for recipe, published in PUBLISHED[asked.data].items():
            of = models.setdefault(recipe, {"published": published, "by_split": {}})
            if str(split) in of["by_split"]:
                continue
            done = of["by_split"][str(split)] = of_split(recipe, asked.data, split, asked.epochs)
            of |= summary(of["by_split"])
            keep("graphs", results, asked.out)
            print(f"{recipe}, split {split}: {done}", flush=True)
    for recipe, of in models.items():
        auc, precision = of["auc"], of["average_precision"]
        print(
            f"{recipe}: AUC {100 * auc['value']:.2f} ± {100 * (auc['stderr'] or 0):.2f}, AP "
            f"{100 * precision['value']:.2f} ± {100 * (precision['stderr'] or 0):.2f} over "
            f"{of['splits']} splits; published {of['published'][0]} and {of['published'][1]}"
        )


if __name__ == "__main__":
    main()
