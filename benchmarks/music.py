"""What do models of sequences learn of polyphonic music in a given time? One table of runs.

A run is a recipe with options and minutes of training on two cores; then nats a step of the test
pieces: log p(x) by a particle filter, with proposals from q and from p, of which the one that is
higher on held-out pieces counts. Beside them a vector autoregression, independent frames and
independent notes, exact or by importance sampling. All figures are the sum over all test pieces
by their steps, with an error over pieces.

    python benchmarks/music.py --list                        # the runs, their minutes and targets
    python benchmarks/music.py deep_markov_model baselines   # these, one after the other
    python benchmarks/music.py vrnn --minutes 0.2 --rows 10 --limit 40           # a trial
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from deeplvm.data import Data, load
from deeplvm.likelihood import importance_sampling, particle_filter
from deeplvm.recipes import find
from deeplvm.training import linear
from fitted import folder_of, table, trained


@dataclass(frozen=True)
class Run:
    """One model, its data and its time.

    Attributes:
        what: In words.
        recipe: By its name; ``"autoregression"`` and ``"notes"`` are made here, ``"frames"`` is
            the recipe ``vae`` on single steps.
        data: The name of the set.
        minutes: Of training, on two cores.
        model: Options of the recipe.
        training: Options of ``fit``, over the recipe's own.
        target: Nats a step that are asked for.
        particles: Of the measure.
    """

    what: str
    recipe: str
    data: str = "jsb"
    minutes: float = 15
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    particles: int = 500


_TRAINING: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01, "schedule": "cosine",
    "kl_weight": linear(20), "averaging": 0.99,
}  # fmt: skip

GROUPS: dict[str, dict[str, Run]] = {
    "recipes": {
        "deep_markov_model": Run(
            "a Markov chain of latents, ST-LR", "deep_markov_model", training=_TRAINING,
            target=-7.0,
        ),
        "srnn": Run("latents over a recurrent layer, smoothing", "srnn", training=_TRAINING),
        "vrnn": Run("one state that all read", "vrnn", training=_TRAINING),
        "storn": Run("independent noise", "storn", training=_TRAINING),
    },
    "inference": {
        "deep_markov_right": Run(
            "q reads the steps to come alone", "deep_markov_model", model={"inference": "right"},
            training=_TRAINING,
        ),
        "deep_markov_mean_field": Run(
            "q without the state before", "deep_markov_model", model={"inference": "mean_field"},
            training=_TRAINING,
        ),
        "deep_markov_linear": Run(
            "a linear transition", "deep_markov_model", model={"transition": "linear"},
            training=_TRAINING,
        ),
        "srnn_filtering": Run(
            "filtering", "srnn", model={"inference": "filtering"}, training=_TRAINING
        ),
    },
    "baselines": {
        "autoregression": Run("logistic regressions on the step before", "autoregression"),
        "notes": Run("independent notes", "notes"),
        "frames": Run(
            "independent frames, each with a latent", "frames", minutes=3,
            training={"kl_weight": linear(20)},
        ),
    },
    "nottingham": {
        f"nottingham_{name}": Run(what, recipe, "nottingham", training=_TRAINING)
        for name, what, recipe in (
            ("deep_markov_model", "a Markov chain of latents, ST-LR", "deep_markov_model"),
            ("autoregression", "logistic regression on the step before", "autoregression"),
        )
    },
}  # fmt: skip
RUNS = {name: run for group in GROUPS.values() for name, run in group.items()}
PUBLISHED = {
    "jsb, nats a step": {
        "Krishnan et al. (2017), https://arxiv.org/abs/1609.09869": "deep Markov model -6.39",
        "Fraccaro et al. (2016), https://arxiv.org/abs/1605.07571": (
            "srnn -4.74, of another treatment of the set"
        ),
        "Bayer & Osendorfer (2014), https://arxiv.org/abs/1411.7610": "storn -6.91",
    },
    "nottingham, nats a step": {
        "Krishnan et al. (2017), https://arxiv.org/abs/1609.09869": "deep Markov model -2.77",
        "Fraccaro et al. (2016), https://arxiv.org/abs/1605.07571": "srnn -2.94",
        "Bayer & Osendorfer (2014), https://arxiv.org/abs/1411.7610": "storn -2.85",
    },
}


def a_step(log_px: Tensor, steps: Tensor) -> dict[str, float]:
    """Nats a step of all rows together, with the error of a ratio of sums over rows."""
    log_px, steps = log_px.double(), steps.double()
    value = log_px.sum() / steps.sum()
    left = log_px - value * steps
    error = (left.square().sum() / max(len(left) - 1, 1) * len(left)).sqrt() / steps.sum()
    return {"value": float(value), "stderr": float(error)}


def pieces(data: Data, split: Any, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """All pieces of a split, padded, and their lengths."""
    batch = data.batch(split, slice(rows))
    return batch["x"], batch["n"]


def filtered(model: Any, data: Data, run: Run, rows: int | None, seed: int) -> dict[str, Any]:
    """Nats a step of test pieces by the proposal that is better on held-out ones."""
    found: dict[str, Any] = {}
    for proposal in ("posterior", "prior"):
        found[proposal] = {}
        for split, some in (("valid", min(rows or 20, 20)), ("test", rows)):
            _, steps = pieces(data, split, some)
            estimate = particle_filter(
                model, getattr(data, split)[:some], run.particles, proposal=proposal, seed=seed
            )
            found[proposal][split] = a_step(estimate.log_px, steps)
    best = max(found, key=lambda proposal: found[proposal]["valid"]["value"])
    return {**found[best]["test"], "proposal": best, "particles": run.particles, "each": found}


def autoregression(data: Data, rows: int | None) -> dict[str, Any]:
    """Logistic regressions of every note on all notes of the step before, exact.

    The ridge is the one that is best on held-out pieces.
    """

    def steps_of(split: str) -> tuple[Tensor, Tensor, Tensor]:
        x, n = pieces(data, split, None if split == "train" else rows)
        before = pad(x, (0, 1, 1, -1))  # zeros before the first, and a place that says so
        before[:, 0, -1] = 1.0
        return before, x, torch.arange(x.shape[1]) < n[:, None]

    train, valid = steps_of("train"), steps_of("valid")
    weight = torch.zeros(train[0].shape[-1], train[1].shape[-1], requires_grad=True)
    bias = torch.zeros(train[1].shape[-1], requires_grad=True)
    tried = []
    for ridge in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5):  # each from the one before
        regressed(weight, bias, *train, ridge)
        held = scored(*valid, weight, bias)["value"]
        tried.append((held, ridge, scored(*steps_of("test"), weight, bias)))
    held, ridge, test = max(tried, key=lambda each: each[0])
    return {**test, "ridge": ridge, "held-out": held}


def regressed(
    weight: Tensor, bias: Tensor, before: Tensor, x: Tensor, there: Tensor, ridge: float
) -> None:
    """Bring weights to where they explain the steps best, under a penalty on their squares."""
    before, x = before[there], x[there]
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=60, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = binary_cross_entropy_with_logits(before @ weight + bias, x, reduction="sum")
        value = value / len(x) + ridge * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]


@torch.no_grad()
def scored(
    before: Tensor, x: Tensor, there: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, float]:
    """Nats a step of pieces under logistic regressions."""
    logits = before @ weight + bias
    each = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    return a_step((each * there).sum(-1), there.sum(-1))


def notes(data: Data, rows: int | None) -> dict[str, Any]:
    """Every note by itself, as often as in the training steps, with one pseudo-count."""
    x, n = pieces(data, "train")
    share = (x.sum((0, 1)) + 1) / (n.sum() + 2)
    x, n = pieces(data, "test", rows)
    there = torch.arange(x.shape[1]) < n[:, None]
    weight = torch.zeros(x.shape[-1], x.shape[-1])
    return scored(x, x, there, weight, share.logit())


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure test pieces."""
    run, rows, began = RUNS[name], options.rows, time.perf_counter()
    folder, minutes = folder_of(name, run, options)
    data = load(run.data, limit=options.limit)
    made = {"autoregression": autoregression, "notes": notes}.get(run.recipe)
    if made is not None:
        test = made(data, rows)
        seconds = {"training": time.perf_counter() - began}
        return {"what": run.what, "seconds": seconds, "target": run.target, "test": test}
    frames = run.recipe == "frames"
    if frames:
        steps = {}
        for split in ("train", "valid", "test"):
            x, n = pieces(data, split, rows if split == "test" else None)
            steps[f"x_{split}"] = x[torch.arange(x.shape[1]) < n[:, None]].numpy()
        of_pieces, data = n, load(steps)
    recipe = find("vae" if frames else run.recipe)
    model, result = trained(
        recipe, data, run.model, run.training, minutes=minutes, seed=options.seed,
        folder=folder / "run",
    )  # fmt: skip
    result["settings"] |= {"data": run.data, "limit": options.limit}
    began = time.perf_counter()
    if frames:
        each = importance_sampling(model, data.test, run.particles, seed=options.seed).log_px
        total = torch.stack([part.sum() for part in each.split(of_pieces.tolist())])
        test = {**a_step(total, of_pieces), "particles": run.particles}
    else:
        test = filtered(model, data, run, rows, options.seed)
    result["seconds"]["measuring"] = time.perf_counter() - began
    return result | {"what": run.what, "test": test, "target": run.target}


if __name__ == "__main__":
    table(str(__doc__), "music", GROUPS, measured, PUBLISHED)
