"""How well are missing cells filled in? Tables of numbers with 20 and 50 % of the cells taken out.

Cells are taken out completely at random, or the larger the likelier ("not at random"); columns
are divided by their range, and every method learns from the incomplete rows that it fills in. The
mean absolute error is of medians, the root mean squared one of means; the continuous ranked
probability score, the log-likelihood of a Gaussian with the moments of the draws, and the coverage
of 95 % intervals are of multiple imputations; where a method has none, its score is its absolute
error. Results are kept as they come; a second call goes on with what is missing.

    python benchmarks/imputation.py [--methods NAME ...] [--sets NAME ...] [--seeds N]
        [--rows N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next import
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import BayesianRidge

from deeplvm.data import load
from deeplvm.inference import impute
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep

Array = np.ndarray[Any, Any]
# incomplete rows, seed -> means, medians and draws (or none) of all cells
Method = Callable[[Array, int], tuple[Array, Array, Array | None]]
DRAWS = 50


def point(make: Callable[[int], Any]) -> Method:
    """An imputer of scikit-learn that fills in one value."""

    def filled(x: Array, seed: int) -> tuple[Array, Array, None]:
        found = make(seed).fit_transform(x)
        return found, found, None

    return filled


def ridge(x: Array, seed: int) -> tuple[Array, Array, Array]:
    """Chained Bayesian ridge regressions, and draws from them."""
    draws = np.stack(
        [
            IterativeImputer(
                BayesianRidge(), sample_posterior=True, max_iter=10, random_state=100 * seed + i
            ).fit_transform(x)
            for i in range(DRAWS // 2)
        ]
    )
    found = IterativeImputer(BayesianRidge(), max_iter=20, random_state=seed).fit_transform(x)
    return found, found, draws


def ours(name: str, models: int = 1, minutes: float = 1.5, **options: Any) -> Method:
    """A recipe, trained on the incomplete rows; several models are one mixture."""

    def filled(x: Array, seed: int) -> tuple[Array, Array, Array]:
        train = partial(_one, name, options, minutes, x)
        parts = [train(100 * seed + i, DRAWS // models) for i in range(models)]
        mean, median, draws = zip(*parts, strict=True)
        pooled = np.concatenate(draws)
        middle = median[0] if models == 1 else np.median(pooled, 0)
        return np.mean(mean, 0), middle, pooled

    return filled


def _one(
    name: str, options: dict[str, Any], minutes: float, x: Array, seed: int, draws: int
) -> tuple[Array, Array, Array]:
    some = np.random.default_rng(seed).permutation(len(x))
    cut = max(5, len(x) // 10)
    data = load(
        {"x_train": x[some[cut:]], "x_valid": x[some[:cut]], "x_test": x}, likelihood="gaussian"
    )
    torch.manual_seed(seed)
    recipe = find(name)
    model = recipe(data, **options)
    settings = {**training_of(recipe), "minutes": minutes, "compile": False}
    unfolded(fit)(model, data, seed=seed, quiet=True, **settings)
    mean = impute(model, data.test, by="mean", particles=500, draws=draws, seed=seed)
    median = impute(model, data.test, by="median", particles=500, seed=seed)
    return (
        mean.values["x"].double().numpy(),
        median.values["x"].double().numpy(),
        mean.draws["x"].double().numpy(),
    )


def trees(seed: int) -> IterativeImputer:
    """Chained extra trees, in the manner of MissForest."""
    forest = ExtraTreesRegressor(50, random_state=seed)
    return IterativeImputer(forest, max_iter=5, random_state=seed)


def miceforest(x: Array, seed: int) -> tuple[Array, Array, Array]:
    """Chained gradient-boosted trees with matched means (the package of this name, if there)."""
    import miceforest as peer
    import pandas as pd

    table = pd.DataFrame(x, columns=[f"column{d}" for d in range(x.shape[1])])
    kernel = peer.ImputationKernel(table, num_datasets=DRAWS // 5, random_state=seed)
    kernel.mice(5)
    draws = np.stack([kernel.complete_data(i).to_numpy() for i in range(DRAWS // 5)])
    return draws.mean(0), np.median(draws, 0), draws


METHODS: dict[str, Method] = {
    "mean": point(lambda _: SimpleImputer()),
    "5 neighbours": point(lambda _: KNNImputer()),
    "iterative BayesianRidge": ridge,
    "iterative ExtraTrees": point(trees),
    "miceforest": miceforest,
    "deeplvm miwae": ours("miwae", latent=4, hidden=(64, 64)),
    "deeplvm miwae, 3 models": ours("miwae", 3, latent=4, hidden=(64, 64)),
    "deeplvm gaussian_mixture": ours(
        "gaussian_mixture", minutes=15.0
    ),  # seconds, where nobody else works
}


def table(name: str, rows: int, seed: int) -> Array:
    """A table of numbers, columns divided by their range."""
    read = {
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
    }
    name = name.removesuffix(NOT_AT_RANDOM)
    x = read[name]().data.astype(float) if name in read else numbers_of(name.split(", ")[0])
    x = x[np.random.default_rng(seed).permutation(len(x))[:rows]]
    low, high = x.min(0), x.max(0)
    return (x - low) / np.where(high > low, high - low, 1.0)


def numbers_of(name: str) -> Array:
    """The columns of a set of HI-VAE that are numbers and no codes, of its complete rows."""
    folder = Path(os.environ["DEEPLVM_DATA"]) / "hivae" / name
    kinds = [line.split(",")[0] for line in (folder / "data_types.csv").read_text().split()[1:]]
    with gzip.open(folder / "data.csv.gz", "rt") as file:
        x = np.genfromtxt(file, delimiter=",")
    x = x[:, [kind != "cat" for kind in kinds]]
    return x[~np.isnan(x).any(1)]


def taken_out(x: Array, share: float, seed: int, *, at_random: bool) -> Array:
    """Which cells are missing; not at random the probability rises with the rank in the column."""
    ranks = (x.argsort(0).argsort(0) + 0.5) / len(x)
    chance = np.full(x.shape, share) if at_random else 2 * share * ranks
    holes = np.random.default_rng(1000 + seed).random(x.shape) < chance
    holes[holes.all(1), 0] = False  # an empty row says nothing of any method
    return holes


NOT_AT_RANDOM = ", not at random"
HIVAE = tuple(f"{name}, HI-VAE" for name in ("wine", "adult", "defaultcredit", "spam"))
AT_RANDOM = ("iris", "wine", "breast cancer", "diabetes", *HIVAE)
SETS = (*AT_RANDOM, *[f"{name}{NOT_AT_RANDOM}" for name in AT_RANDOM])


def judged(found: tuple[Array, Array, Array | None], x: Array, holes: Array) -> dict[str, float]:
    """Errors of the cells that were taken out."""
    mean, median, draws = found
    truth = x[holes]
    absolute = np.abs(median[holes] - truth)
    told = {
        "mae": float(absolute.mean()),
        "rmse": float(np.sqrt(((mean[holes] - truth) ** 2).mean())),
        "crps": float(absolute.mean()),
    }
    if draws is not None:
        cells = np.sort(draws[:, holes], 0)  # (draws, cells)
        count = len(cells)
        ranks = 2 * np.arange(1, count + 1)[:, None] - count - 1
        spread = 2 * (ranks * cells).sum(0) / (count * (count - 1))  # E|X - X'|
        told["crps"] = float((np.abs(cells - truth).mean(0) - spread / 2).mean())
        center, scale = cells.mean(0), np.maximum(cells.std(0, ddof=1), 1e-3)
        log = -0.5 * ((truth - center) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        told["log_likelihood"] = float(log.mean())
        low, high = np.quantile(cells, 0.025, 0), np.quantile(cells, 0.975, 0)
        told["coverage"] = float(((low <= truth) & (truth <= high)).mean())
    return {name: round(value, 4) for name, value in told.items()}


def main() -> None:
    """Every method on every set, share of holes and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # chains that have not settled say so in every round
    partial = options.out / "imputation.partial.jsonl"
    lines = partial.read_text().splitlines() if partial.exists() else []
    found = {tuple(json.loads(line)["key"]): json.loads(line) for line in lines}
    for seed in range(options.seeds):
        for name in options.sets:
            x = table(name, options.rows, seed)
            for share in (0.2, 0.5):
                holes = taken_out(x, share, seed, at_random=name in AT_RANDOM)
                for method in options.methods:
                    key = (name, share, method, seed)
                    if key in found:
                        continue
                    began = time.perf_counter()
                    filled = METHODS[method](np.where(holes, np.nan, x), seed)
                    found[key] = {
                        "key": key,
                        **judged(filled, x, holes),
                        "seconds": round(time.perf_counter() - began, 2),
                    }
                    with partial.open("a") as file:
                        file.write(json.dumps(found[key]) + "\n")
                    print(found[key], flush=True)
    keep(
        "imputation",
        {
            "what": "errors of cells that were taken out, columns divided by their range",
            "draws": DRAWS,
            "means": means(list(found.values())),
            "runs": list(found.values()),
        },
        options.out,
    )


def means(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By set and share, and by method: means over seeds with their standard errors."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, share, method in sorted({tuple(run["key"][:3]) for run in runs}):
        some = [run for run in runs if tuple(run["key"][:3]) == (name, share, method)]
        told: dict[str, Any] = {"seeds": len(some)}
        for what in ("mae", "rmse", "crps", "log_likelihood", "coverage", "seconds"):
            values = [run[what] for run in some if what in run]
            if values:
                error = float(np.std(values) / np.sqrt(len(values)))
                told[what] = [round(float(np.mean(values)), 4), round(error, 4)]
        found.setdefault(f"{name}, {share:g}", {})[method] = told
    return found


if __name__ == "__main__":
    main()
