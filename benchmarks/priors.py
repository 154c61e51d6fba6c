"""How much does a learned prior win? Dense layers on statically binarized MNIST, half an hour.

784-300-300-40-300-300-784, tanh, Glorot initialisation, decoder bias from the mean of the data,
AdamW with a cosine; then importance sampling on all 10,000 test rows. What differs is the prior
(and the posterior, where asked). Needs `binarized-mnist` (see `deeplvm datasets`).

    python benchmarks/priors.py [--prior "vamp(components=300, inputs='learned')"] [--epochs 250]
    python benchmarks/priors.py --prior "maf(transforms=2, hidden=(128,))" --epochs 380
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.data import load
from deeplvm.evaluation import elbo_surgery
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP, glorot
from deeplvm.recipes.plain import aggregated
from deeplvm.results import mean_of
from deeplvm.training import Optimization, fit
from deeplvm.training.schedules import linear
from machine import RESULTS, keep

PUBLISHED = {
    "Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120": (
        "-88.56 with N(0, I), -85.57 with 500 learned pseudo-inputs, on this fixed binarization: "
        "gated layers 784-300-300-40, up to 2,000 epochs, 5,000 particles"
    ),
    "This package, benchmarks/binarized_mnist.py": "-90.8 with N(0, I) in ten minutes",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="vamp(components=300)")
    parser.add_argument("--posterior", default="gaussian")
    parser.add_argument("--latent", type=int, default=40)
    parser.add_argument("--hidden", type=int, nargs="+", default=[300, 300])
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--warm-up", type=float, default=20.0, help="epochs")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--particles", type=int, default=1_000)
    parser.add_argument("--limit", type=int, help="rows of each split, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = load("binarized-mnist", limit=options.limit)
    x = data.variables["x"]
    network = {"activation": nn.Tanh, "initialization": glorot}
    row = Bernoulli(x.shape, MLP(options.latent, *options.hidden[::-1], **network), mean=x.mean)
    encoder = MLP(x.shape, *options.hidden, **network)
    q = posterior_of(options.posterior, options.latent, encoder)
    prior = prior_of(options.prior, options.latent, aggregated(q, row, data))
    model = LatentVariableModel(Joint({"z": prior, "x | z": row}), Joint({"z | x": q}))
    print(model)

    optimization = Optimization(
        optimizer="adamw",
        weight_decay=options.weight_decay,
        learning_rate=options.learning_rate,
        schedule="cosine",
        averaging=0.999,
    )
    began = time.perf_counter()
    history = fit(
        model,
        data,
        objective=partial(elbo, form="analytic"),
        epochs=options.epochs,
        batch_size=options.batch,
        optimization=optimization,
        kl_weight=linear(options.warm_up) if options.warm_up else 1.0,
        seed=options.seed,
    )
    seconds = time.perf_counter() - began
    print(f"trained in {seconds:.0f} s: {history}")

    estimate = importance_sampling(model, data.test, particles=options.particles)
    surgery = elbo_surgery(model, data.train[:2_000]).joint
    found = {
        "settings": {name: value for name, value in vars(options).items() if name != "limit"},
        "training_seconds": seconds,
        "best_epoch": history.best_epoch,
        "test": {
            "rows": data.rows("test"),
            "elbo": mean_of(estimate.elbo),
            "log_px": mean_of(estimate.log_px) | {"particles": options.particles},
            "curve": [[point.particles, point.value] for point in estimate.curve],
        },
        "train": {"kl": mean_of(surgery.kl), "marginal": mean_of(surgery.marginal)},
        "epochs": [
            {"epoch": r["epoch"], "train": r["train"]["elbo"], "valid": r["valid"]["elbo"]}
            for r in history.epochs[:: max(1, options.epochs // 50)]
        ],
    }
    print(f"log p(x) = {estimate.mean:.3f} ± {estimate.stderr:.3f} nats; {found['train']}")
    if options.limit:
        return
    kept = Path(RESULTS, "priors.json")
    before = json.loads(kept.read_text())["priors"] if kept.exists() else {}
    name = f"{options.prior}, posterior {options.posterior}, seed {options.seed}"
    what = "VAE of dense layers by its prior, on statically binarized MNIST, own split"
    keep("priors", {"what": what, "published": PUBLISHED, "priors": before | {name: found}})


if __name__ == "__main__":
    main()
