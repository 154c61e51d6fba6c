"""How well do models for tables describe four tables, and how real are the rows that they draw?

Held-out log-likelihood in nats, of rows that may have holes; and of drawn rows what
`deeplvm.evaluation.synthetic_rows` measures: how well gradient boosting tells them from held-out
rows (2 - 2 max(AUC, 1/2): 1 is not at all, 0 always), what a classifier of the target learns from
them beside one that learned from real rows, and what they give away. Needs `adult/` and `hivae/`
in $DEEPLVM_DATA. What a model gave is kept in `runs/tables` as soon as it is done, and a run does
what is missing there.

    python benchmarks/tables.py [--minutes 5] [--set adult] [--only mixture_model] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.mixture import GaussianMixture

from deeplvm.data import Data, load
from deeplvm.evaluation import SyntheticRows, synthetic_rows
from deeplvm.evaluation.predictive.columns import observed_columns
from deeplvm.evaluation.samples.synthetic import compared
from deeplvm.inference.rows import rows_of
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import find, mixture_model, training_of
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded
from machine import keep

KEPT = Path("runs/tables")
PARTICLES = 200
# TabPC (2026), https://arxiv.org/abs/2603.23016: detection by XGBoost, and the AUC of income
PUBLISHED = {
    "adult": {
        "TVAE": (0.0, 0.871),
        "TabSyn": (0.794, 0.910),
        "shallow mixture": (0.773, 0.902),
        "TabPC": (0.855, 0.916),
    },
    "defaultcredit": {
        "TVAE": (0.002, None),
        "TabSyn": (0.402, None),
        "shallow mixture": (0.105, None),
        "TabPC": (0.262, None),
    },
}
# The target, and the columns that are codes in the files of HI-VAE; the last is the target.
TARGETS = {"adult": "income", "defaultcredit": "c23", "wine": "c12", "spam": "c57"}


def side(recipe: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return recipe, options


SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "independent columns": side("mixture_model", classes=1),
    "Gaussian mixture": side("", components=20),
    "mixture_model": side("mixture_model", classes=100),
    "mixture_model, 300 classes": side("mixture_model", classes=300),
    "table_vae": side("table_vae"),
    "table_vae, 20 classes": side("table_vae", classes=20),
    "autoregressive_table": side("autoregressive_table"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--set", choices=list(TARGETS))
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name in [given.set] if given.set else TARGETS:
        data = opened(name)
        for model in [given.only] if given.only else SIDES:
            path = KEPT / f"{name}-{model.replace(' ', '_').replace(',', '')}-{given.seed}.json"
            if not path.exists():
                found = measured(*SIDES[model], *data, TARGETS[name], given.minutes, given.seed)
                path.write_text(json.dumps(found, indent=1))
            results.setdefault(name, {})[model] = json.loads(path.read_text())
            shown = {k: v for k, v in results[name][model].items() if k != "synthetic"}
            print(name, model, json.dumps(shown), flush=True)
    if not given.only and not given.set:
        keep("tables", {"published": PUBLISHED, "sets": results})


def opened(name: str) -> tuple[Data, Data]:
    """Training rows, of which some choose the epoch, and test rows."""
    folder = Path(os.environ.get("DEEPLVM_DATA", "data"))
    if name == "adult":
        train = load(folder / "adult" / "adult_train.csv.gz", likelihood="mixture")
        test = load(folder / "adult" / "adult_test.csv.gz", like=train.description)
        return train, test
    frame = pd.read_csv(folder / "hivae" / name / "data.csv.gz", header=None)
    frame = frame.rename(columns=lambda place: f"c{place}")
    types = pd.read_csv(folder / "hivae" / name / "data_types.csv")["type"]
    codes = tuple(f"c{place}" for place, kind in enumerate(types) if kind in ("cat", "ordinal"))
    order = np.random.default_rng(0).permutation(len(frame))
    test_rows, train_rows = np.split(order, [len(frame) // 5])
    train = load(frame.iloc[train_rows], categories=codes)
    return train, load(frame.iloc[test_rows], like=train.description)


def measured(
    recipe: str,
    options: dict[str, Any],
    train: Data,
    test: Data,
    target: str,
    minutes: float,
    seed: int,
) -> dict[str, Any]:
    """Of one model: its likelihood, and its rows beside real ones."""
    began, used = time.perf_counter(), time.process_time()
    rows = {"target": target, "most": 20_000, "seed": seed}
    if not recipe:
        log_px, drawn = gaussian_mixture(train, test, seed, **options)
        epochs = 0
    else:
        made = find(recipe)
        training = training_of(made) | {"minutes": minutes, "epochs": 10_000, "compile": False}
        model = build(made, train, options, seed)
        history = unfolded(fit)(model, train, seed=seed, quiet=True, **training)
        epochs = len(history.values())
        log_px, drawn = None, None
    seconds, used = time.perf_counter() - began, time.process_time() - used
    if drawn is None:
        estimate = importance_sampling(model, test.test, particles=PARTICLES, seed=seed)
        log_px = estimate.log_px.numpy()
        found = synthetic_rows(model, train.train, test.test, **rows)
    else:
        found = beside(drawn(train.rows("train")), train, test, **rows)
    return {
        "log_px": float(log_px.mean()),
        "stderr": float(log_px.std() / len(log_px) ** 0.5),
        "detection": found.detection.drawn.value,
        "utility": None if found.utility is None else found.utility.drawn.value,
        "utility_of_real_rows": None if found.utility is None else found.utility.real.value,
        "pairs": None if found.pairs is None else found.pairs.drawn.value,
        "closest": (found.privacy.closest.value, found.privacy.closest_expected),
        "epochs": epochs,
        "training_seconds": seconds,
        "processor_seconds": used,
        "synthetic": found.to_dict(),
    }


def beside(drawn: np.ndarray, train: Data, test: Data, **options: Any) -> SyntheticRows:
    """Rows that no model of ours drew, against real ones; these without a hole."""
    any_model = mixture_model(train, classes=1)  # for what the columns are
    columns = observed_columns(any_model, rows_of(any_model, test.test))
    return compared(drawn, complete(train, "train"), complete(test, "test"), columns, **options)


def complete(data: Data, split: str) -> np.ndarray:
    """The rows without a hole, as they were given."""
    rows = getattr(data, split).exact("x").double().numpy()
    return rows[~np.isnan(rows).any(1)]


def gaussian_mixture(
    train: Data, test: Data, seed: int, components: int
) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """scikit-learn's, of x + u with u ~ U[0, 1) where x is whole, of rows without a hole.

    A lower bound of the probability of whole numbers.
    """
    rng = np.random.default_rng(seed)
    known, rows = complete(train, "train"), complete(test, "test")
    whole = (known == np.floor(known)).all(0)
    scale = known.std(0)
    model = GaussianMixture(components, reg_covar=1e-4, random_state=seed)
    model.fit((known + whole * rng.random(known.shape)) / scale)
    log_px = model.score_samples((rows + whole * rng.random(rows.shape)) / scale)

    def draw(count: int) -> np.ndarray:
        values = model.sample(count)[0] * scale
        values = np.where(whole, np.floor(values), values)
        return rng.permutation(np.clip(values, known.min(0), known.max(0)))

    return log_px - np.log(scale).sum(), draw


if __name__ == "__main__":
    main()
