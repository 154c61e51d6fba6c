"""Which estimator learns discrete latents best? Table 1 of Jang et al. (2017), on binarized MNIST.

A sigmoid belief network that completes the lower half of an image from the upper half
(392-200-200-392), and a variational autoencoder of one discrete layer, both with 200 bits or with
20 categories of 10, trained by each estimator for equal epochs with one draw a row. What is
measured is the bound of the test rows with discrete draws, from the epoch that was best on the
validation rows. Needs `binarized-mnist` (see `deeplvm datasets`).

    python benchmarks/discrete.py [--effort full|quick|smoke] [--models NAME ...]
        [--estimators NAME ...] [--epochs N] [--out FOLDER]

The full effort has the settings of the paper: stochastic gradient descent with momentum 0.9, the
best of five learning rates, a million steps (days on two cores). The quick one has Adam and 30
epochs. The smoke run takes few rows, to see that everything runs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, OneHot
from deeplvm.data import load
from deeplvm.gradients import Draw, Sampled, Suited
from deeplvm.gradients.gumbel_softmax import GumbelSoftmax, StraightThrough
from deeplvm.gradients.muprop import MuProp
from deeplvm.gradients.rebar import Rebar
from deeplvm.gradients.score_function import Learned, ScoreFunction
from deeplvm.networks import MLP
from deeplvm.training import Machine, Optimization, fit
from deeplvm.training.schedules import Schedule
from machine import RESULTS, keep

Rows = dict[str, Tensor]
PIXELS, HALF = 784, 392
BITS, CATEGORIES, CLASSES = 200, 20, 10

PUBLISHED = {
    "Jang, Gu & Poole (2017), table 1, https://arxiv.org/abs/1611.01144": {
        "what": "negative bounds, fixed binarization, a million steps, best of five rates",
        "belief network, bits": {
            "score function": 72.0,
            "MuProp": 58.9,
            "straight-through": 58.9,
            "Gumbel-Softmax": 58.5,
            "Gumbel-Softmax, straight-through": 59.3,
        },
        "belief network, categories": {
            "score function": 73.1,
            "MuProp": 63.0,
            "straight-through": 61.8,
            "Gumbel-Softmax": 59.0,
            "Gumbel-Softmax, straight-through": 59.7,
        },
        "autoencoder, bits": {
            "score function": 112.2,
            "MuProp": 109.7,
            "straight-through": 116.0,
            "Gumbel-Softmax": 105.0,
            "Gumbel-Softmax, straight-through": 111.5,
        },
        "autoencoder, categories": {
            "score function": 110.6,
            "MuProp": 107.0,
            "straight-through": 110.9,
            "Gumbel-Softmax": 101.5,
            "Gumbel-Softmax, straight-through": 107.8,
        },
    }
}


@dataclass(frozen=True)
class Settings:
    """How long and how a model is trained."""

    epochs: int
    learning_rates: tuple[float, ...]
    momentum: float | None  # None for Adam
    particles: int  # of the importance-weighted bound that is measured beside
    rows: int | None = None
    batch: int = 100
    seed: int = 0

    @property
    def optimizer(self) -> Any:
        return "adam" if self.momentum is None else partial(torch.optim.SGD, momentum=0.9)


SETTINGS = {
    "full": Settings(2_000, (3e-5, 1e-5, 3e-4, 1e-4, 1e-3), 0.9, 1_000),
    "quick": Settings(30, (1e-3,), None, 50),
    "smoke": Settings(1, (1e-3,), None, 2, rows=200),
}


def annealed(epochs: int) -> Schedule:
    """The paper's max(0.5, exp(-r t)), at 0.5 after three tenths of the epochs."""
    rate = math.log(2) / max(1.0, 0.3 * epochs)
    return Schedule(
        f"max(0.5, exp(-{rate:.3g} t))", lambda epoch: max(0.5, math.exp(-rate * epoch))
    )


# Each with the form of the ELBO that it is trained on: a relaxed draw has the divergence of the
# discrete distributions, a score takes the sampled one.
ESTIMATORS: dict[str, tuple[Callable[[int], Draw], str]] = {
    "score function": (lambda _: ScoreFunction(Learned(), normalise=True), "sampled"),
    "MuProp": (lambda _: MuProp(Learned()), "sampled"),
    "REBAR": (lambda _: Rebar(), "sampled"),
    "straight-through": (lambda _: StraightThrough(), "analytic"),
    "Gumbel-Softmax": (lambda epochs: GumbelSoftmax(annealed(epochs)), "analytic"),
    "Gumbel-Softmax, straight-through": (
        lambda epochs: GumbelSoftmax(annealed(epochs), straight_through=True),
        "analytic",
    ),
}


def layer(inputs: int | tuple[int, ...] | None, *, categories: bool) -> nn.Module:
    """200 bits, or 20 categories of 10, by a linear map of the layer below."""
    network = None if inputs is None else MLP(inputs)
    return OneHot(CLASSES, network, CATEGORIES) if categories else Bernoulli(BITS, network)


def autoencoder(mean: Tensor, *, categories: bool) -> LatentVariableModel:
    """Bits are decoded by a linear map, categories by a hidden layer of 200, as in the paper."""
    size = (CATEGORIES, CLASSES) if categories else BITS
    decoder = MLP(size, 200, activation=nn.Tanh) if categories else MLP(size)
    p = Joint(
        {"h": layer(None, categories=categories), "x | h": Bernoulli(PIXELS, decoder, mean=mean)}
    )
    return LatentVariableModel(p, Joint({"h | x": layer(PIXELS, categories=categories)}))


def belief_network(mean: Tensor, *, categories: bool) -> LatentVariableModel:
    """Latents are drawn from p itself, so that the bound is that of their mean likelihood."""
    size = (CATEGORIES, CLASSES) if categories else BITS
    p = Joint(
        {
            "g | u": layer(HALF, categories=categories),
            "h | g": layer(size, categories=categories),
            "x | h": Bernoulli(HALF, MLP(size), mean=mean[HALF:]),
        }
    )
    return LatentVariableModel(p, Joint({"g | u": p["g"], "h | g": p["h"]}))


MODELS: dict[str, Callable[[Tensor], LatentVariableModel]] = {
    "belief network, bits": partial(belief_network, categories=False),
    "belief network, categories": partial(belief_network, categories=True),
    "autoencoder, bits": partial(autoencoder, categories=False),
    "autoencoder, categories": partial(autoencoder, categories=True),
}


def rows_of(images: Tensor, model: str) -> Rows:
    """What a model is given of images of shape ``(rows, 784)``."""
    if model.startswith("autoencoder"):
        return {"x": images}
    return {"u": images[:, :HALF], "x": images[:, HALF:]}


@torch.no_grad()
def measured(model: LatentVariableModel, rows: Rows, particles: int) -> dict[str, Any]:
    """Bounds of one draw and of several, with discrete draws of the latents, in nats."""
    found: dict[str, list[Tensor]] = {"elbo": [], "iwae": []}
    count, discrete = len(rows["x"]), Suited(Sampled())
    torch.manual_seed(0)
    for start in range(0, count, 100):
        some = {name: value[start : start + 100] for name, value in rows.items()}
        evidence = model.evidence(some, particles=particles, default=discrete, missing=())
        found["elbo"].append(elbo(evidence))
        found["iwae"].append(iwae(evidence))
    bounds = {name: torch.cat(values) for name, values in found.items()}
    return {
        "rows": count,
        "particles": particles,
        **{
            name: {"value": each.mean().item(), "stderr": each.std().item() / count**0.5}
            for name, each in bounds.items()
        },
    }


def trained(
    name: str, estimator: str, images: dict[str, Tensor], settings: Settings, rate: float
) -> dict[str, Any]:
    """A model trained by an estimator, and what it reaches."""
    torch.manual_seed(settings.seed)
    model = MODELS[name](images["train"].mean(0))
    make, form = ESTIMATORS[estimator]
    began = time.perf_counter()
    history = fit(
        model,
        rows_of(images["train"], name),
        valid=rows_of(images["valid"], name),
        objective=partial(elbo, form=form),
        estimator=make(settings.epochs),
        epochs=settings.epochs,
        batch_size=settings.batch,
        optimization=Optimization(optimizer=settings.optimizer, learning_rate=rate, averaging=0.0),
        seed=settings.seed,
        missing=(),
        machine=Machine(compile=False),
        quiet=True,
    )
    seconds = time.perf_counter() - began
    return {
        "learning rate": rate,
        "training_seconds": seconds,
        "best_epoch": history.best_epoch,
        "valid": measured(model, rows_of(images["valid"], name), 1),
        "test": measured(model, rows_of(images["test"], name), settings.particles),
    }


def images_of(settings: Settings) -> dict[str, Tensor]:
    """The splits, shape ``(rows, 784)``, of few rows for a smoke run."""
    data, some = load("binarized-mnist"), slice(settings.rows)
    return {
        split: data.batch(split, some)["x"].flatten(1).float()
        for split in ("train", "valid", "test")
    }


def main() -> None:
    """Every model by every estimator, each with the best of the learning rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", choices=SETTINGS, default="full")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument("--epochs", type=int, help="instead of those of the effort")
    parser.add_argument("--out", type=Path, help="folder of the result")
    options = parser.parse_args()
    settings = SETTINGS[options.effort]
    if options.epochs:
        settings = replace(settings, epochs=options.epochs)
    images = images_of(settings)
    found: dict[str, dict[str, Any]] = {}
    for name in options.models:
        found[name] = {}
        for estimator in options.estimators:
            tried = [
                trained(name, estimator, images, settings, rate)
                for rate in settings.learning_rates
            ]
            best = max(tried, key=lambda each: each["valid"]["elbo"]["value"])
            found[name][estimator] = best
            bound = best["test"]["elbo"]
            print(
                f"{name:28} {estimator:34} {bound['value']:9.2f} ± {bound['stderr']:.2f} nats"
                f"  {best['training_seconds']:.0f} s",
                flush=True,
            )
    runs = Path(__file__).parents[1] / "runs" / "benchmarks"
    keep(
        "discrete",
        {
            "what": "bounds of discrete latents by estimator, statically binarized MNIST",
            "effort": options.effort,
            "settings": asdict(settings),
            "models": found,
            "published": PUBLISHED,
        },
        options.out or (RESULTS if options.effort == "full" else runs),
    )


if __name__ == "__main__":
    main()
