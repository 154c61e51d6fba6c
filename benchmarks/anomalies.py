"""Which rows are odd? Area under the ROC curve on tables of ADBench, beside what users have.

Each set: at most 10,000 rows chosen at random, 70 % of them (by class) for training, columns
standardised by these; ``contaminated`` trains on all of these, ``clean`` on the normal ones. A
score is -log p(x) for ours and for mixtures, the distance to the fifth neighbour, and so on.
Results are kept as they come; a second call goes on with what is missing.

    python benchmarks/anomalies.py FOLDER [--methods NAME ...] [--sets NAME ...] [--seeds N]
        [--rows N] [--out FOLDER]

FOLDER holds the ``.npz`` files (``X``, ``y``) of ADBench: Anomaly Detection Benchmark (Han et
al., 2022), https://github.com/Minqi824/ADBench.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from deeplvm import LatentVariableModel
from deeplvm.data import load
from deeplvm.likelihood import score_rows
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

Array = np.ndarray[Any, Any]
Method = Callable[[Array, Array, int], Array]  # training rows, test rows, seed -> scores


def recipe(name: str, training: dict[str, Any] | None = None, **options: Any) -> Method:
    """Rows under a recipe of ours, each column a real number in its own units."""

    def scores(train: Array, test: Array, seed: int) -> Array:
        some = np.random.default_rng(seed).permutation(len(train))
        cut = max(2, len(train) // 10)
        varied = train[some[cut:]].std(0) > 1e-6  # of normal rows a column may be constant
        train, test = train[:, varied], test[:, varied]
        whole = bool((train == np.round(train)).all())
        data = load(
            {"x_train": train[some[cut:]], "x_valid": train[some[:cut]], "x_test": test},
            likelihood="gaussian",
            dequantize="uniform" if whole else None,
        )
        torch.manual_seed(seed)
        function = find(name)
        model: LatentVariableModel = function(data, **options)
        settings = {
            "epochs": 1000, "patience": 30, "batch_size": 100, "minutes": 1.0, "compile": False,
            **training_of(function), **(training or {}),
        }  # fmt: skip
        unfolded(fit)(model, data, seed=seed, quiet=True, **settings)
        return -score_rows(model, data.test, 100, seed=seed).log_px.numpy()

    return scores


def mixture(train: Array, test: Array, seed: int) -> Array:
    """Five Gaussians with full covariances."""
    found = GaussianMixture(min(5, len(train) // 2), reg_covar=1e-2, random_state=seed).fit(train)
    return -found.score_samples(test)


def forest(train: Array, test: Array, seed: int) -> Array:
    """An isolation forest."""
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def neighbours(train: Array, test: Array, _: int) -> Array:
    """The distance to the fifth neighbour."""
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def tails(train: Array, test: Array, _: int) -> Array:
    """ECOD: the sum over columns of the logarithm of the smaller empirical tail."""
    ordered = np.sort(train, 0)
    left, right = (
        np.stack(
            [
                np.clip(np.searchsorted(ordered[:, d], test[:, d], side=side), 1, len(train))
                for d in range(test.shape[1])
            ],
            1,
        )
        / len(train)
        for side in ("right", "left")
    )
    right = np.clip(1 - right, 1 / len(train), 1)
    skew = ((train - train.mean(0)) ** 3).mean(0)
    automatic = np.where(skew < 0, left, right)
    return np.stack([-np.log(each).sum(1) for each in (left, right, automatic)]).max(0)


METHODS: dict[str, Method] = {
    "isolation forest": forest,
    "5 neighbours": neighbours,
    "ECOD": tails,
    "5 Gaussians": mixture,
    "deeplvm vae": recipe("vae", latent=8, hidden=(64,)),
    "deeplvm factor_analysis": recipe("factor_analysis", {"epochs": 200}, latent=8),
    "deeplvm mixture_model": recipe("mixture_model", classes=20),
    # one setting, chosen on the sets of odd place in the list of names
    "deeplvm gaussian_mixture": recipe(
        "gaussian_mixture",
        {
            "phases": "exact_em(start='data', shrinkage=0.1, towards='variance', tolerance=3e-3)",
            "minutes": 10.0,
            "epochs": 100,
        },
    ),
    "deeplvm table_vae": recipe("table_vae", latent=8, hidden=(64,)),
}


def prepared(path: Path, rows: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Training and test rows, standardised, and their labels."""
    with np.load(path) as arrays:
        x, y = arrays["X"].astype(float), arrays["y"].astype(int)
    order = np.random.default_rng(seed).permutation(len(x))[:rows]
    x, y = x[order], y[order]
    train, test, labels, truth = train_test_split(
        x, y, test_size=0.3, stratify=y, random_state=seed
    )
    spread = train.std(0)
    kept = spread > 1e-9
    mean = train[:, kept].mean(0)
    return (
        (train[:, kept] - mean) / spread[kept],
        (test[:, kept] - mean) / spread[kept],
        labels,
        truth,
    )


def main() -> None:
    """Every method on every set and seed, in both settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", help="names of files; all without")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    partial = options.out / "anomalies.partial.jsonl"
    lines = partial.read_text().splitlines() if partial.exists() else []
    read = [json.loads(line) for line in lines]
    found = {tuple(run["key"]): run for run in read if "error" not in run}
    paths = sorted(options.folder.glob("*.npz"), key=lambda path: path.stat().st_size)
    for seed in range(options.seeds):
        for path in paths:
            if options.sets and path.stem not in options.sets:
                continue
            train, test, labels, truth = prepared(path, options.rows, seed)
            for setting in ("contaminated", "clean"):
                rows = train if setting == "contaminated" else train[labels == 0]
                for name in options.methods:
                    key = (path.stem, setting, name, seed)
                    if key in found:
                        continue
                    found[key] = record(key, METHODS[name], rows, test, truth, seed)
                    with partial.open("a") as file:
                        file.write(json.dumps(found[key]) + "\n")
                    print(found[key], flush=True)
    keep(
        "anomalies",
        {
            "what": "AUROC and average precision of odd rows, ADBench, higher is better",
            "rows": options.rows,
            "means": means(list(found.values())),
            "runs": list(found.values()),
        },
        options.out,
    )


def record(
    key: tuple[str, str, str, int],
    method: Method,
    rows: Array,
    test: Array,
    truth: Array,
    seed: int,
) -> dict[str, Any]:
    """One line of the result; an error is one too."""
    began = time.perf_counter()
    try:
        scores = method(rows, test, seed)
    except ValueError as error:
        return {"key": key, "error": str(error)[:300]}
    return {
        "key": key,
        "auroc": round(float(roc_auc_score(truth, scores)), 4),
        "average_precision": round(float(average_precision_score(truth, scores)), 4),
        "seconds": round(time.perf_counter() - began, 2),
    }


def means(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By setting and method: the mean over all sets, and over those that nothing was chosen on.

    A method that lacks some of the sets is left out.
    """
    done = [run for run in runs if "auroc" in run]
    names = sorted({run["key"][0] for run in done})
    found: dict[str, dict[str, Any]] = {}
    for setting in ("contaminated", "clean"):
        for title, sets in ((setting, names), (f"{setting}, even places", names[1::2])):
            values: dict[str, dict[Any, float]] = {}
            for run in done:
                name, where, method, seed = run["key"]
                if where == setting and name in sets:
                    values.setdefault(method, {})[name, seed] = run["auroc"]
            most = max(map(len, values.values()), default=0)
            found[title] = {"sets and seeds": most}
            for method, each in sorted(values.items()):
                if len(each) == most:
                    numbers = list(each.values())
                    found[title][method] = {
                        "auroc": round(float(np.mean(numbers)), 4),
                        "stderr": round(float(np.std(numbers) / np.sqrt(most)), 4),
                        "median": round(float(np.median(numbers)), 4),
                    }
    return found


if __name__ == "__main__":
    main()
