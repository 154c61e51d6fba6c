"""What do the models of chapter 4 learn of MNIST in a given time? One command, one table of runs.

A run is a recipe with options, its data, and minutes of training; then log p(x) of test rows: by
importance sampling, exactly where there are no latents. Static binarization (`binarized-mnist`),
dynamic (`mnist`, its test rows binarized once, by chance) and grey values do not compare. What is
done is kept in the folder, checkpoints too, and a run goes on where it stopped; all share
`results/images.json`, a trial (`--minutes` or `--limit`) keeps its own beside its folder.

    python benchmarks/images.py --list                   # the runs, their minutes and targets
    python benchmarks/images.py made_500 ladder          # these, one after the other
    python benchmarks/images.py flexibility              # a group: ten minutes for each way
    python benchmarks/images.py picture                  # docs/pictures/flexibility.png
    python benchmarks/images.py glow --minutes 0.2 --rows 20 --limit 500         # a trial
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import make_moons
from torch import nn

from deeplvm import Joint, LatentVariableModel, elbo, evaluate
from deeplvm.conditionals import Bernoulli
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.data import Data, load
from deeplvm.networks import MLP, glorot
from deeplvm.recipes import find, training_of
from deeplvm.recipes.catalogue import loading_of
from deeplvm.recipes.plain import aggregated
from deeplvm.registry import meant
from deeplvm.runs.reproduction import table as reproductions
from deeplvm.training import linear
from fitted import folder_of, table, trained

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "flexibility.png"


@dataclass(frozen=True)
class Run:
    """One model, its data and its time.

    Attributes:
        what: In words.
        recipe: By its name, or a function of the data.
        data: ``"static"``, ``"dynamic"``, ``"grey"`` (as the recipe loads it),
            ``"scenes"`` of none to two digits, or ``"moons"``.
        minutes: Of training, on two cores or one GPU.
        model: Options of the recipe.
        training: Options of ``fit``, over the recipe's own.
        target: log p(x) that is asked for, nats.
        particles: Of the measure, where there are latents.
        rows: Test rows that are measured, at most.
    """

    what: str
    recipe: str | Callable[..., LatentVariableModel]
    data: str = "dynamic"
    minutes: float = 10
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    particles: int = 200
    rows: int = 10_000


def tanh_vae(
    data: Data, *, prior: str, latent: int = 40, hidden: tuple[int, ...] = (300, 300)
) -> LatentVariableModel:
    """The dense model of the papers on priors: tanh, Glorot's start, bias from the data's mean."""
    x = data.variables["x"]
    network = {"activation": nn.Tanh, "initialization": glorot}
    row = Bernoulli(x.shape, MLP(latent, *hidden[::-1], **network), mean=x.mean)
    q = posterior_of("gaussian", latent, MLP(x.shape, *hidden, **network))
    p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": q}))


_AVERAGED: dict[str, Any] = {
    "optimizer": "adamw", "schedule": "cosine", "averaging": 0.999,
}  # fmt: skip
_FAST = _AVERAGED | {"batch_size": 250, "learning_rate": 2e-3}
_DENSE = _AVERAGED | {
    "batch_size": 200, "learning_rate": 2e-3, "weight_decay": 0.02, "kl_weight": linear(20),
    "objective": partial(elbo, form="analytic"),
}  # fmt: skip
_MASKED = _AVERAGED | {"learning_rate": 1e-3, "compile": False}
_STEPS: dict[str, Any] = {"learning_rate": 1e-3, "schedule": "cosine", "batch_size": 100}
_MLPS: dict[str, Any] = {"latent": 40, "hidden": (300, 300)}


def asked(name: str) -> Run:
    """A run that `deeplvm reproduce` judges too: its settings are those of that table."""
    entry = reproductions()[name.replace("_", "-")]
    kind = {"binarized-mnist": "static", "mnist": "dynamic"}[entry.data]
    training = {option: meant(option, value) for option, value in (entry.training or {}).items()}
    minutes = training.pop("minutes")
    return Run(
        entry.what, entry.recipe, kind, minutes, dict(entry.recipe_options or {}), training,
        entry.target, entry.particles, entry.rows or 10_000,
    )  # fmt: skip


# By group; the minutes of a cosine are the clock's.
GROUPS: dict[str, dict[str, Run]] = {
    "flexibility": {
        "vae": Run("nothing: Gaussian prior and posterior", "vae", model=_MLPS, training=_FAST),
        "iaf_posterior": Run(
            "posterior: an inverse autoregressive flow", "vae",
            model=_MLPS | {"posterior": "iaf"}, training=_FAST,
        ),
        "vamp_prior": Run(
            "prior: a mixture of 300 posteriors", "vae",
            model=_MLPS | {"prior": "vamp(components=300)"}, training=_FAST,
        ),
        "flow_prior": Run(
            "prior: a masked autoregressive flow", "vae",
            model=_MLPS | {"prior": "maf"}, training=_FAST,
        ),
        "ladder": Run("five layers of latents", "ladder_vae", training=_FAST),
        "pixel_vae": Run(
            "decoder: convolutions of earlier pixels", "pixel_vae", particles=100, rows=2_000
        ),
        "made": Run("no latents: each pixel given all before it", "made", training=_MASKED),
    },
    "grey": {
        "grey_vae": Run(
            "latents, a logistic of 256 levels", "vae", "grey", model=_MLPS, training=_FAST
        ),
        "nice": Run("additive couplings", "nice", "grey", model={"hidden": (1000,) * 3}),
        "real_nvp": Run("affine couplings", "real_nvp", "grey"),
        "real_nvp_learned_noise": Run(
            "the same, dequantized by a flow", "real_nvp", "grey",
            model={"noise": "variational"}, particles=10,
        ),
        "glow": Run("learned permutations of channels", "glow", "grey"),
        "diffusion": Run("diffusion in continuous time", "diffusion", "grey", particles=10),
        "diffusion_100": Run(
            "diffusion in 100 steps", "diffusion", "grey", model={"steps": 100}, particles=10
        ),
        "moons": Run(
            "two moons", "real_nvp", "moons", 5,
            model={"transforms": 6, "hidden": (32, 32)},
            training={"epochs": 60, "learning_rate": 3e-3},
        ),
    },
    "autoregressive": {
        "made_500": asked("made_500"),
        "made_8000": asked("made_8000"),
    },
    "pixels": {
        name: Run(what, name, particles=100, rows=2_000)
        for name, what in {
            "pixel_cnn": "masked convolutions",
            "gated_pixel_cnn": "gated, in two stacks",
            "pixel_cnn_pp": "shifted, at several sizes",
            "pixel_rnn": "a row LSTM",
            "image_transformer": "causal attention",
            "locally_masked_pixel_cnn": "several orders",
            "variational_lossy_autoencoder": "latents, and a window of earlier pixels",
        }.items()
    },
    "priors": {
        f"dense_{name}": Run(
            f"dense layers, tanh; prior {prior}", tanh_vae, "static", 30,
            model={"prior": prior}, training=_DENSE, target=-88.0, particles=1_000,
        )
        for name, prior in {
            "gaussian": "gaussian",
            "vamp": "vamp(components=300, inputs='learned')",
            "maf": "maf(transforms=2, hidden=(128,))",
        }.items()
    },
    "hierarchies": {
        "flagship": asked("flagship"),
        "dense_ladder": asked("dense_ladder"),
        "use_ladder": Run(
            "five layers: ladder, batch norm and warm-up", "ladder_vae",
            training={"batch_size": 200, "kl_weight": linear(10)}, rows=2_000,
        ),
        "use_neither": Run(
            "five layers: bottom-up, without batch norm and warm-up", "ladder_vae",
            model={"inference": "bottom_up", "batch_norm": False},
            training={"batch_size": 200, "kl_weight": 1.0}, rows=2_000,
        ),
    },
    "steps": {
        "draw_attention": Run(
            "16 steps, with attention", "draw", "static", 60, model={"steps": 16, "latent": 16},
            training=_STEPS, rows=2_000,
        ),
        "draw_whole": Run(
            "10 steps, without attention", "draw", "static", 60,
            model={"steps": 10, "latent": 16, "attention": False}, training=_STEPS, rows=2_000,
        ),
        "convolutional_draw": Run(
            "convolutional cells", "convolutional_draw", "static", 60, training=_STEPS,
            rows=2_000,
        ),
        "attend_infer_repeat": Run(
            "none to two digits, counted", "attend_infer_repeat", "scenes", 60,
            model={"steps": 3}, training={"batch_size": 100}, rows=2_000,
        ),
    },
    "gpu": {
        "flagship_gpu": asked("flagship_gpu"),
        "very_deep_gpu": asked("very_deep_gpu"),
    },
}  # fmt: skip
RUNS = {name: run for group in GROUPS.values() for name, run in group.items()}
PUBLISHED = {
    "static": {
        "Germain et al. (2015), https://arxiv.org/abs/1502.03509": (
            "MADE of 8,000 units -88.40, two layers and 32 masks -86.64"
        ),
        "Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120": (
            "dense: -88.56 with N(0, I), -85.57 with 500 learned pseudo-inputs, 2,000 epochs"
        ),
        "Gregor et al. (2015), https://arxiv.org/abs/1502.04623": (
            "draw: bounds -80.97 with attention, 64 steps, and -87.40 without, 10 steps"
        ),
        "https://github.com/addtt/ladder-vae-pytorch": (
            "3, 6, 12 layers of 64 channels -79.24, -78.52, -78.30, 1,000 particles"
        ),
    },
    "dynamic": {
        "https://github.com/EugenHotaj/pytorch-generative": (
            "MADE of 8,000 units -84.87; gated PixelCNN -81.50, PixelCNN -81.45, 457 epochs; "
            "PixelSNAIL -78.61, ImageGPT -79.17"
        ),
        "Jain et al. (2020), https://arxiv.org/abs/2006.12486": "8 orders -77.56",
        "Chen et al. (2017), https://arxiv.org/abs/1611.02731": (
            "variational lossy autoencoder -78.53, its decoder alone -87.55"
        ),
        "Sønderby et al. (2016), https://arxiv.org/abs/1602.02282": "ladder, dense -81.74",
        "https://github.com/Rayhane-mamah/Efficient-VDVAE": "bound -79.09, 5,000 rows",
    },
    "scenes": {"Eslami et al. (2016), https://arxiv.org/abs/1603.08575": "98 % counted right"},
    "grey": {
        "https://github.com/EugenHotaj/pytorch-generative": "NICE 4.34 bits a pixel",
        "Grathwohl et al. (2019), https://arxiv.org/abs/1810.01367": (
            "Real NVP 1.06, Glow 1.05 bits a pixel"
        ),
    },
}


def opened(run: Run, limit: int | None) -> Data:
    """The data of a run."""
    if run.data == "moons":
        return load({"x": make_moons(10_000, noise=0.05, random_state=0)[0]})
    if run.data == "static":
        return load("binarized-mnist", limit=limit)
    if run.data == "scenes":
        return load("multi-mnist", binarize="static", limit=limit)
    if run.data == "dynamic":
        return load("mnist", binarize="dynamic", limit=limit)
    asked = loading_of(find(run.recipe)) or {"likelihood": "discretized-logistic"}  # type: ignore[arg-type]
    return load("mnist", limit=limit, **asked)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure test rows."""
    run, rows = RUNS[name], options.rows or RUNS[name].rows
    folder, minutes = folder_of(name, run, options)
    data = opened(run, options.limit)
    recipe = find(run.recipe) if isinstance(run.recipe, str) else run.recipe
    model, result = trained(
        recipe, data, run.model, run.training, minutes=minutes, seed=options.seed,
        folder=folder / "run",
    )  # fmt: skip
    result["settings"] |= {"data": run.data, "limit": options.limit}
    test, began = data.test[:rows], time.perf_counter()
    draw = (training_of(recipe) | run.training).get("draw")
    found = evaluate(model, test, particles=run.particles, seed=options.seed, draw=draw).to_dict()
    result["seconds"]["measuring"] = time.perf_counter() - began
    keys = ("log_px", "elbo", "kl", "active_units", "bits_per_dim", "bits_per_dim_stderr")
    result |= {
        "what": run.what,
        "test": {key: found[key] for key in keys if key in found} | {"rows": len(test["x"])},
        "target": run.target,
    }
    if run.data == "moons":
        x = torch.as_tensor(test["x"][:]).double()
        best = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T)).log_prob(x)
        result["test"]["nats above a Gaussian"] = found["log_px"]["value"] - float(best.mean())
    return result


def drawn(results: dict[str, Any]) -> None:
    """What the group "flexibility" reached, the better the higher, and how each learned."""
    import matplotlib.pyplot as plt

    sides = {name: results[name] for name in GROUPS["flexibility"] if name in results}
    sides = dict(sorted(sides.items(), key=lambda item: item[1]["test"]["log_px"]["value"]))
    found = [side["test"]["log_px"] for side in sides.values()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for place, each in enumerate(found):
        left.errorbar(each["value"], place, xerr=2 * each["stderr"], fmt="o", capsize=3)
    left.set_yticks(range(len(sides)), [side["what"] for side in sides.values()])
    left.set_xlabel("log p(x) of test rows after ten minutes, nats")
    for name, side in reversed(sides.items()):  # the best first in the legend
        seen = [(point["seconds"] / 60, point["valid"]) for point in side["curve"]]
        colour = f"C{list(sides).index(name)}"
        right.plot(*zip(*seen, strict=True), label=name, color=colour)
    right.set_ylim(min([each["value"] for each in found]) - 10)
    right.set(xlabel="minutes", ylabel="bound of held-out rows, nats")
    right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(PICTURE, dpi=120)
    print(f"drawn in {PICTURE}")


if __name__ == "__main__":
    table(str(__doc__), "images", GROUPS, measured, PUBLISHED, {"picture": drawn})
