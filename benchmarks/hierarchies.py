"""How far do hierarchies of latents come on MNIST in a given time, and what do their layers say?

What is done is kept in the folder, checkpoints too, and a run goes on where it stopped; several
runs, or one after the other, share `results/hierarchies.json`. Needs `mnist` and
`binarized-mnist` (see `deeplvm datasets`). Static and dynamic binarization do not compare.

    python benchmarks/hierarchies.py flagship          # an hour on two cores, dynamic
    python benchmarks/hierarchies.py dense             # half an hour on two cores, static
    python benchmarks/hierarchies.py use              # ladder and warm-up, or neither; 20 minutes
    python benchmarks/hierarchies.py price             # a step of 40 layers, and of its modules
    python benchmarks/hierarchies.py flagship-gpu very-deep-gpu    # twelve minutes each on a GPU
    python benchmarks/hierarchies.py flagship --minutes 0.2 --rows 20 --particles 5   # a trial
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplvm import LatentVariableModel, elbo
from deeplvm.data import load
from deeplvm.evaluation import latent_use
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import find, training_of
from deeplvm.training import fit, linear, unfolded
from machine import RESULTS, keep


@dataclass(frozen=True)
class Run:
    """One model, its data and its time.

    Attributes:
        what: In words.
        recipe, model: A recipe and its options.
        training: Options of ``fit``, over the recipe's own.
        minutes: Of training.
        binarize: Static (the rows of `binarized-mnist`) or dynamic.
        target: log p(x) that is asked for, nats.
    """

    what: str
    recipe: str
    minutes: float
    binarize: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    target: float | None = None


_GPU = {"precision": "bfloat16", "batch_size": 256, "compile_budget": 240.0}
_PLAIN = {"inference": "bottom_up", "batch_norm": False}
RUNS = {
    "flagship": Run(
        "three layers of latent maps, 32 channels", "convolutional_ladder_vae", 60, "dynamic",
        training={"compile_budget": 300.0}, target=-84.5,
    ),
    "dense": Run(
        "five layers with dense networks", "ladder_vae", 30, "static",
        training={"batch_size": 200, "schedule": "cosine", "kl_weight": linear(10)},
        target=-88.0,
    ),
    "use, ladder": Run(
        "ladder, batch norm and warm-up", "ladder_vae", 10, "dynamic",
        training={"batch_size": 200, "kl_weight": linear(10)},
    ),
    "use, neither": Run(
        "bottom-up, without batch norm and warm-up", "ladder_vae", 10, "dynamic",
        model=_PLAIN, training={"batch_size": 200, "kl_weight": 1.0},
    ),
    "flagship-gpu": Run(
        "three layers of latent maps, 64 channels", "convolutional_ladder_vae", 12, "static",
        model={"channels": 64, "latent": 16, "blocks": 4}, training=_GPU, target=-80.3,
    ),
    "very-deep-gpu": Run(
        "36 layers of latent maps", "very_deep_vae", 12, "dynamic",
        model={"layers": 36, "channels": 128, "width": 32, "latent": 16}, training=_GPU,
        target=-80.5,
    ),
}  # fmt: skip
PUBLISHED = {
    "https://github.com/addtt/ladder-vae-pytorch": (
        "static: 3, 6, 12 layers of 64 channels -79.24, -78.52, -78.30, 1,000 particles"
    ),
    "Sønderby et al. (2016), https://arxiv.org/abs/1602.02282": "dynamic: -81.74, dense",
    "https://github.com/Rayhane-mamah/Efficient-VDVAE": "dynamic: bound -79.09, 5,000 rows",
}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure what was learned on test rows."""
    run = RUNS[name]
    minutes = options.minutes or run.minutes
    folder = options.folder / f"{name.replace(', ', '-')}-{options.seed}-{minutes:g}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    static = run.binarize == "static"
    data = load("binarized-mnist") if static else load("mnist", binarize="dynamic")
    torch.manual_seed(options.seed)
    model = find(run.recipe)(data, **run.model)
    training = {
        "epochs": 10_000,
        "batch_size": 100,
        **training_of(find(run.recipe)),
        **run.training,
    }
    began = time.perf_counter()
    history = unfolded(fit)(
        model, data, seed=options.seed, minutes=minutes, folder=folder / "run", resume=True,
        **training,
    )  # fmt: skip
    rows = {"x": data.test["x"][: options.rows]}
    model.eval()
    estimate = importance_sampling(model, rows, particles=options.particles)
    use = latent_use(model, rows, particles=4)
    result = {
        "what": run.what,
        "settings": {
            "recipe": run.recipe, **run.model, "minutes": minutes, "seed": options.seed,
            "binarization": run.binarize, **{k: str(v) for k, v in training.items()},
        },
        "parameters": sum([each.numel() for each in model.parameters()]),
        "seconds": time.perf_counter() - began,
        "epochs": len(history.epochs),
        "rows per second": history.epochs[-1].get("rows_per_second"),
        "test": {
            "rows": len(rows["x"]),
            "elbo": float(estimate.elbo.mean()),
            "log_px": {
                "value": float(estimate.mean), "stderr": float(estimate.stderr),
                "particles": options.particles,
            },
            "target": run.target,
            "latents": {
                n: {"kl": each.kl, "active": each.active_units, "dimensions": each.dimensions}
                for n, each in use.items()
            },
        },
        "curve": [
            {"epoch": r["epoch"], **{s: r[s]["elbo"] for s in ("train", "valid")}}
            for r in history.epochs[:: max(1, len(history.epochs) // 40)]
        ],
        "published": PUBLISHED,
    }  # fmt: skip
    kept.write_text(json.dumps(result))
    return result


def price(layers: int = 40, rows: int = 100, times: int = 15) -> dict[str, Any]:
    """Milliseconds a step of a deep hierarchy, beside one with its modules called by hand.

    Both take turns, and the median of each counts.
    """
    torch.manual_seed(0)
    data = load("digits", binarize="static")
    model = find("very_deep_vae")(data, layers=layers, channels=16, width=8, latent=4)
    x = data.batch("train", slice(rows))["x"]
    taken: dict[str, list[float]] = {"deeplvm": [], "by hand": []}
    for turn in range(times + 1):
        for side, step in (("deeplvm", _by_core), ("by hand", _by_hand)):
            model.zero_grad()
            torch.manual_seed(turn)
            began = time.process_time()
            step(model, x).backward()
            if turn:
                taken[side].append(1e3 * (time.process_time() - began))
    found = {side: torch.tensor(each).median().item() for side, each in taken.items()}
    ratio = torch.tensor(taken["deeplvm"]) / torch.tensor(taken["by hand"])
    return {
        "what": f"a step of {layers} layers of latent maps, {rows} digits, CPU milliseconds",
        **found,
        "ratio": ratio.median().item(),
    }


def _by_core(model: LatentVariableModel, x: Tensor) -> Tensor:
    return elbo(model.evidence({"x": x}, missing=())).mean()


def _by_hand(model: LatentVariableModel, x: Tensor) -> Tensor:
    p, q, h = model.p, model.q, {}
    for name in q.names:
        if name.startswith("h"):
            h[name] = q[name](x if name == "h1" else h[f"h{int(name[1:]) - 1}"])
    path, total = None, 0.0
    for n in range(sum([name.startswith("z") for name in q.names]), 0, -1):
        read = [h[parent.name] for parent in q.parents(f"z{n}") if parent.name in h]
        own = [] if path is None else [path]
        posterior, prior = q[f"z{n}"](*own, *read), p[f"z{n}"](*own)
        z, log_q = posterior.rsample_and_log_prob()
        total = total + prior.log_prob(z) - log_q
        path = p[f"d{n - 1}"](*own, z)
    return (total + p["x"](path).log_prob(x)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", choices=[*RUNS, "use", "price"])
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--rows", type=int, default=2000, help="test rows")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/hierarchies"))
    options = parser.parse_args()
    trial = options.minutes is not None
    results = options.folder if trial else RESULTS
    path = results / "hierarchies.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.runs:
        names = ["use, ladder", "use, neither"] if name == "use" else [name]
        for each in names:
            result = price() if each == "price" else measured(each, options)
            key = each if options.seed == 0 or each == "price" else f"{each}, seed {options.seed}"
            found[key] = result
            shown = {k: v for k, v in result.items() if k not in ("curve", "published")}
            print(json.dumps(shown, indent=1))
            found.pop("machine", None)
            keep("hierarchies", found, results)


if __name__ == "__main__":
    main()
