"""How many of 10,000 test digits does model M1+M2 tell wrongly, of 100 labels in training?

MNIST, ten labels of each class drawn by the seed, the other 49,900 training rows without one.
The recipe m1_m2, stacked as in the paper: first its lower layer, then the upper one. What is done
is kept in the folder, and a run goes on where it stopped. Needs `mnist` (see `deeplvm datasets`).

    python benchmarks/semi_supervised.py [--minutes 60] [--seed 0] [--folder runs/semi_supervised]
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deeplvm.core.draws import Enumerated
from deeplvm.data import Data, load
from deeplvm.inference import class_probabilities
from deeplvm.learning import stacked
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.recipes import m1_m2
from deeplvm.training import Callback, Optimization, Saving, Stopping, fit
from deeplvm.training.schedules import linear
from machine import keep

PUBLISHED = {
    "Kingma et al. (2014), https://arxiv.org/abs/1406.5298": (
        "M1 with a support vector machine 11.82 %, M2 11.97 %, M1+M2 3.33 ± 0.14 %"
    ),
    "Maaløe et al. (2016), https://arxiv.org/abs/1602.05473": "ADGM 0.96 %, SDGM 1.32 %",
}
LABELS = 100
LOWER = 0.35  # of the time


class Errors(Callback):
    """The error on test rows after each epoch, one line each; nothing is chosen by it."""

    def __init__(self, model: Any, data: Data, file: Path) -> None:
        self.model, self.data, self.file, self.began = model, data, file, time.perf_counter()

    def epoch_ended(self, record: Any) -> None:
        """Write it down."""
        line = {"epoch": record["epoch"], "error": error(self.model, self.data)}
        line["seconds"] = record["seconds"]
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def error(model: Any, data: Data, particles: int = 1) -> float:
    """The share of test rows whose most probable label is wrong, by the mean q over draws."""
    found = class_probabilities(model, data.test, particles=particles).encoder
    return float((found.argmax(1) != data.test["y"][:]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/semi_supervised"))
    options = parser.parse_args()
    data = load("mnist", binarize="dynamic", keep_labels=LABELS, seed=options.seed)
    print(data.describe())
    torch.manual_seed(options.seed)
    model = m1_m2(data)
    print(model)
    lower, upper = stacked()
    shared: dict[str, Any] = {"epochs": 10_000, "batch_size": options.batch, "seed": options.seed}
    folders = [options.folder / f"seed{options.seed}" / name for name in ("lower", "upper")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    first = fit(
        model, data, phases=[lower], draw={"y": Enumerated()}, kl_weight=linear(5), **shared,
        optimization=Optimization(learning_rate=1e-3, schedule="cosine", averaging=0.999),
        stopping=Stopping(minutes=LOWER * options.minutes),
        saving=Saving(folders[0], resume=True),
    )  # fmt: skip
    errors = folders[1] / "errors.jsonl"
    second = fit(
        model, data, phases=[upper], draw={"y": Enumerated()}, labelled=0.25, **shared,
        objective=partial(semi_supervised_elbo, weight=options.weight, share=0.25),
        optimization=Optimization(
            learning_rate=options.learning_rate, schedule="cosine", averaging=0.999
        ),
        stopping=Stopping(minutes=(1 - LOWER) * options.minutes),
        saving=Saving(folders[1], resume=True),
        callbacks=[Errors(model, data, errors)],
    )  # fmt: skip
    both = class_probabilities(model, data.test[:1000], particles=50).model
    by_p = float((both.argmax(1) != data.test["y"][:1000]).double().mean())
    found = {
        "what": f"M1+M2 on MNIST with {LABELS} labels, {options.minutes:g} minutes of training",
        "settings": {k: str(v) for k, v in vars(options).items()},
        "epochs": [len(first.epochs), len(second.epochs)],
        "error": error(model, data, particles=50),
        "error of p(y | x), 1,000 rows": by_p,
        "curve": [json.loads(line) for line in errors.read_text().splitlines()][::10],
        "published": PUBLISHED,
    }
    print(json.dumps({k: v for k, v in found.items() if k != "curve"}, indent=1))
    keep("semi_supervised", found)


if __name__ == "__main__":
    main()
