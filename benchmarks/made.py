"""How good are masked autoencoders on binarized MNIST? Exact likelihoods, in a given time.

What is done is kept in the folder, checkpoints too, and a run goes on where it stopped. Needs
`mnist` and `binarized-mnist` (see `deeplvm datasets`). Static and dynamic binarization do not
compare: of the latter test rows are binarized once, by chance.

    python benchmarks/made.py static        # 500 units, ten minutes on two cores
    python benchmarks/made.py dynamic       # 8,000 units, an hour on two cores
    python benchmarks/made.py price         # a step beside its plain matrix products, one thread
    python benchmarks/made.py static --minutes 0.2 --limit 500                  # a trial
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.data import load
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MADE
from deeplvm.recipes import made
from deeplvm.training import fit, unfolded
from machine import RESULTS, keep


@dataclass(frozen=True)
class Run:
    """One model, its data and its time.

    Attributes:
        what: In words.
        minutes: Of training.
        model: Options of the recipe.
        training: Options of ``fit``.
        target: log p(x) that is asked for, nats.
    """

    what: str
    minutes: float
    target: float
    model: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)


RUNS = {
    "static": Run(
        "one layer of 500 units with direct connections, one order", 10, -91.2,
        model={"hidden": (500,)},
        training={"epochs": 150, "batch_size": 100, "weight_decay": 0.02},
    ),
    "dynamic": Run(
        "one layer of 8,000 units with direct connections, one order", 60, -85.2,
        model={"hidden": (8000,)},
        training={"epochs": 85, "batch_size": 250},
    ),
}  # fmt: skip
# Over the run the rate falls to zero: by the clock, where that is ahead of the epochs.
TRAINING: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "averaging": 0.999,
    "compile": False,
}  # fmt: skip
PUBLISHED = {
    "Germain et al. (2015), https://arxiv.org/abs/1502.03509": (
        "static: one layer of 8,000 units -88.40, two with 32 masks -86.64"
    ),
    "https://github.com/EugenHotaj/pytorch-generative": (
        "dynamic: one layer of 8,000 units -84.87 after 85 epochs"
    ),
}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and the exact log-likelihood of the test rows."""
    run = RUNS[name]
    minutes = options.minutes or run.minutes
    folder = options.folder / f"{name}-{options.seed}-{minutes:g}-{options.limit or 'all'}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    training = TRAINING | run.training
    rows = {} if options.limit is None else {"limit": options.limit}
    static = name == "static"
    data = load("binarized-mnist", **rows) if static else load("mnist", binarize=name, **rows)
    torch.manual_seed(options.seed)
    model = made(data, **run.model)
    began = time.perf_counter()
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=minutes, folder=folder / "run", resume=True,
        **training,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    found = importance_sampling(model.eval(), data.test, particles=1)  # no latents: exact
    result = {
        "what": run.what,
        "settings": {
            "recipe": "made", **run.model, **training, "minutes": minutes, "seed": options.seed,
            "binarization": name,
        },
        "parameters": sum([each.numel() for each in model.parameters()]),
        "seconds": seconds,
        "epochs": len(history.epochs),
        "best epoch": history.best_epoch,
        "test": {
            "rows": data.rows("test"),
            "log_px": {"value": float(found.mean), "stderr": float(found.stderr), "exact": True},
            "target": run.target,
        },
        "curve": [
            {"epoch": r["epoch"], **{s: r[s]["elbo"] for s in ("train", "valid")}}
            for r in history.epochs[:: max(1, len(history.epochs) // 50)]
        ],
        "published": PUBLISHED,
    }  # fmt: skip
    kept.write_text(json.dumps(result))
    return result


def price(times: int = 40) -> dict[str, Any]:
    """Milliseconds of a step (both passes) beside plain layers of the same sizes, one thread.

    The least of all times counts: others may use the machine.
    """
    torch.set_num_threads(1)
    found, pixels = {}, torch.arange(784)
    for units, batch in ((500, 100), (8000, 250)):
        x = (torch.rand(batch, 784) < 0.2).float()
        masked = MADE(pixels, pixels, hidden=(units,))
        first, last, direct = nn.Linear(784, units), nn.Linear(units, 784), nn.Linear(784, 784)

        def two(x: Tensor, first: nn.Module = first, last: nn.Module = last) -> Tensor:
            return last(torch.relu(first(x)))

        sides: dict[str, Callable[[], Tensor]] = {
            "masked": lambda m=masked, x=x: m(x, pixels),
            "two products": lambda two=two, x=x: two(x),
            "and direct connections": lambda two=two, d=direct, x=x: two(x) + d(x),
        }
        least = {}
        for side, forward in sides.items():
            taken = []
            for _ in range(times if units == 500 else max(3, times // 8)):
                began = time.perf_counter()
                forward().square().sum().backward()
                taken.append(1e3 * (time.perf_counter() - began))
            least[side] = min(taken)
        found[f"{units:,} units, {batch} rows"] = least
    return {"what": "a step of a masked autoencoder beside plain layers, ms", **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", choices=[*RUNS, "price"])
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--limit", type=int, default=None, help="rows of each split: a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/made"))
    options = parser.parse_args()
    trial = options.minutes is not None or options.limit is not None
    results = options.folder if trial else RESULTS
    path = results / "made.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.runs:
        result = price() if name == "price" else measured(name, options)
        key = name if options.seed == 0 or name == "price" else f"{name}, seed {options.seed}"
        found[key] = result
        shown = {k: v for k, v in result.items() if k not in ("curve", "published")}
        print(json.dumps(shown, indent=1))
        found.pop("machine", None)
        keep("made", found, results)


if __name__ == "__main__":
    main()
