"""How well do models for tables describe Adult, and how real are the rows that they draw?

Held-out log-likelihood of complete rows of the test file, in nats; how well gradient boosting
tells drawn rows from them (2 - 2 max(AUC, 1/2): 1 is not at all, 0 always); and the AUC of a
classifier of income that was trained on drawn rows, beside one trained on real ones. Needs
`adult/adult_{train,test}.csv.gz` in $DEEPLVM_DATA. What a model gave is kept in `runs/tables` as
soon as it is done, and a run does what is missing there.

    python benchmarks/tables.py [--minutes 5] [--only mixture_model] [--seed 0]
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
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_predict

from deeplvm import LatentVariableModel
from deeplvm.data import Data, load
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import find, training_of
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded
from machine import keep

KEPT = Path("runs/tables")
PARTICLES = 200
# TabPC (2026), https://arxiv.org/abs/2603.23016: detection by XGBoost, and the AUC of income
PUBLISHED = {
    "TVAE": (0.0, 0.871),
    "TabSyn": (0.794, 0.910),
    "shallow mixture": (0.773, 0.902),
    "TabPC": (0.855, 0.916),
}


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
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(os.environ.get("DEEPLVM_DATA", "data")) / "adult"
    train = load(folder / "adult_train.csv.gz", likelihood="mixture")
    test = load(folder / "adult_test.csv.gz", like=train.description)
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in [given.only] if given.only else SIDES:
        path = KEPT / f"{name.replace(' ', '_').replace(',', '')}-{given.seed}.json"
        if not path.exists():
            found = measured(*SIDES[name], train, test, given.minutes, given.seed)
            path.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(json.loads(path.read_text())))
    if not given.only:
        names = {name: name.replace(" ", "_").replace(",", "") for name in SIDES}
        results = {
            n: json.loads((KEPT / f"{f}-{given.seed}.json").read_text()) for n, f in names.items()
        }
        keep("tables", {"published": PUBLISHED, "real": real(train, test), "models": results})


def measured(
    recipe: str, options: dict[str, Any], train: Data, test: Data, minutes: float, seed: int
) -> dict[str, Any]:
    """Of one model: its likelihood, and its rows beside real ones."""
    began, used = time.perf_counter(), time.process_time()
    rows = complete(test, "test")
    if not recipe:
        log_px, draw = gaussian_mixture(train, rows, seed, **options)
        epochs = 0
    else:
        made = find(recipe)
        training = training_of(made) | {"minutes": minutes, "epochs": 10_000, "compile": False}
        model = build(made, train, options, seed)
        history = unfolded(fit)(model, train, seed=seed, quiet=True, **training)
        epochs = len(history.values())
        log_px, draw = None, lambda count: drawn(model, count, seed)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    if log_px is None:
        estimate = importance_sampling(model, {"x": torch.as_tensor(rows)}, particles=PARTICLES)
        log_px = estimate.log_px.numpy()
    mean, stderr = float(log_px.mean()), float(log_px.std() / len(log_px) ** 0.5)
    drawn_rows = draw(len(complete(train, "train")))
    return {
        "log_px": mean,
        "stderr": stderr,
        "detection": detection(rows, drawn_rows[: len(rows)], train, seed),
        "income_auc": income_auc(drawn_rows, rows, train),
        "epochs": epochs,
        "training_seconds": seconds,
        "processor_seconds": used,
    }


def complete(data: Data, split: str) -> np.ndarray:
    """The rows without a hole."""
    rows = np.asarray(getattr(data, split)["x"][:])
    return rows[~np.isnan(rows).any(1)]


def drawn(model: LatentVariableModel, count: int, seed: int) -> np.ndarray:
    """Rows of a model, a thousand at a time."""
    torch.manual_seed(seed)
    model.eval()
    with torch.no_grad():
        parts = [model.p({}, (1000,))["x"].value for _ in range(-(-count // 1000))]
    return torch.cat(parts)[:count].numpy()


def gaussian_mixture(
    train: Data, rows: np.ndarray, seed: int, components: int
) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """scikit-learn's, of x + u with u ~ U[0, 1): a lower bound of the probability of codes."""
    rng = np.random.default_rng(seed)
    known = complete(train, "train")
    scale = known.std(0)
    model = GaussianMixture(components, reg_covar=1e-4, random_state=seed)
    model.fit((known + rng.random(known.shape)) / scale)
    log_px = model.score_samples((rows + rng.random(rows.shape)) / scale) - np.log(scale).sum()

    def draw(count: int) -> np.ndarray:
        values = np.floor(model.sample(count)[0] * scale)
        return rng.permutation(np.clip(values, known.min(0), known.max(0)))

    return log_px, draw


def boosting(train: Data) -> HistGradientBoostingClassifier:
    """Gradient boosting that knows which columns are codes."""
    codes = [part.kind == "category" for part in train.variables["x"].parts]
    return HistGradientBoostingClassifier(categorical_features=codes, random_state=0)


def detection(real_rows: np.ndarray, made: np.ndarray, train: Data, seed: int) -> float:
    """1 where gradient boosting cannot tell rows from real ones, 0 where it always can."""
    x = np.concatenate([real_rows, made])
    y = np.repeat([0, 1], [len(real_rows), len(made)])
    order = np.random.default_rng(seed).permutation(len(x))
    scores = cross_val_predict(boosting(train), x[order], y[order], cv=3, method="predict_proba")
    return 2 - 2 * max(roc_auc_score(y[order], scores[:, 1]), 0.5)


def income_auc(learned: np.ndarray, rows: np.ndarray, train: Data) -> float:
    """The AUC on real rows of a classifier of income that has learned from others."""
    names = [part.name for part in train.variables["x"].parts]
    place = names.index("income")
    model = HistGradientBoostingClassifier(
        categorical_features=[
            part.kind == "category" for part in train.variables["x"].parts if part.name != "income"
        ],
        random_state=0,
    )
    features = [np.delete(each, place, 1) for each in (learned, rows)]
    if len(np.unique(learned[:, place])) < 2:
        return 0.5
    model.fit(features[0], learned[:, place])
    return roc_auc_score(rows[:, place], model.predict_proba(features[1])[:, 1])


def real(train: Data, test: Data) -> dict[str, float]:
    """The same numbers of training rows in place of drawn ones."""
    rows, known = complete(test, "test"), complete(train, "train")
    return {
        "detection": detection(rows, known[: len(rows)], train, 0),
        "income_auc": income_auc(known, rows, train),
    }


if __name__ == "__main__":
    main()
