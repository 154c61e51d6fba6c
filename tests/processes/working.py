"""What one of several processes does in a test: ``play``, with a scene and a folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from deeplvm.parallel.processes import Processes, ProcessesError, apart, joined, processes

torch.set_num_threads(1)


def laws(here: Processes) -> dict[str, Any]:
    """Everything that processes can tell each other."""
    rank = here.rank
    with apart():
        lonely = processes() == Processes()
        with joined("cpu"):  # not a second meeting
            pass
    index = torch.arange(10) ** 2
    rows = rank * 2  # the first process has none
    gathered = here.gather(
        {"x": rank + torch.arange(rows * 3.0).view(rows, 3), "y": torch.arange(rank + 1)}
    )
    partly = here.gather({"only": torch.ones(2, dtype=torch.bool)} if rank == 1 else {})
    tensor = torch.tensor([rank + 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    total = here.sum(tensor)
    return {
        "rank": rank,
        "same": processes() == here,
        "apart": lonely,
        "share": here.share(index).tolist(),
        "nothing": here.share(index[:1]).tolist(),
        "sum": total.tolist(),
        "kept": tensor.tolist(),
        "gradient": total.requires_grad,
        "transposed": here.sum(torch.full((2, 3), rank).t()).tolist(),
        "gathered": {name: value.tolist() for name, value in gathered.items()},
        "partly": partly["only"].tolist(),
        "from first": here.from_first({"folder": "runs/a"} if here.first else None),
        "any": [here.any(False), here.any(rank == 2)],
        "claims": [here.claim("a"), here.claim("a")],
    }


def fails(here: Processes) -> dict[str, Any]:
    """The last process fails while the others wait for it."""
    here.wait()
    if here.rank == here.count - 1:
        here.claim("error")
        raise OSError("a disk of this process alone")
    return waits(here)


def dies(here: Processes) -> dict[str, Any]:
    """The first process, where all met, is killed."""
    here.wait()
    if here.first:
        os.kill(os.getpid(), signal.SIGKILL)
    return waits(here)


def waits(here: Processes) -> dict[str, Any]:
    began = time.monotonic()
    try:
        here.sum(torch.zeros(1))
    except ProcessesError as error:
        seconds = time.monotonic() - began
        return {"error": str(error), "seconds": seconds, "speaks": here.claim("error")}
    return {"error": None}


def shards(here: Processes) -> dict[str, Any]:
    """Train a model, sharded where there are several processes."""
    from deeplvm import elbo
    from deeplvm.data import load
    from deeplvm.parallel.sharding import gathered, shard
    from deeplvm.parallel.steps import Together
    from deeplvm.recipes import convolutional_vae

    torch.manual_seed(0)
    data = load("digits", limit=200)
    model = convolutional_vae(data, latent=3, channels=(4,))
    model.p["x"].register_parameter("own", torch.nn.Parameter(torch.ones(())))
    together = Together(here)
    total = sum([p.numel() for p in model.parameters()])
    whole = list(model.parameters()) if here.alone else shard(model)
    kept = [id(p) for p in whole]
    parts = [p for p in model.parameters() if id(p) not in kept]
    optimizers = [torch.optim.Adam(each, 1e-2) for each in (parts, whole) if each]
    losses = []
    for step in range(10):
        part = together.part(torch.arange(61) + step)
        batch = data.batch("train", part.index)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with together.noise(part):
            value = elbo(model.evidence({"x": batch["x"]})).mean() * part.share
        (-value + model.p["x"].own ** 2 * part.share).backward()
        losses.append(float(together.sum_gradients(whole, value.detach())))
        for optimizer in optimizers:
            optimizer.step()
    return {
        "losses": losses,
        "here": sum([getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters()]),
        "total": total,
        "whole": len(whole),
        "weights": {name: value.flatten().tolist() for name, value in gathered(model).items()},
    }


def statistics(here: Processes) -> dict[str, Any]:
    """Three steps under each objective and estimator: the weights, or why it is refused."""
    from functools import partial

    from deeplvm import Joint, LatentVariableModel, objectives
    from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
    from deeplvm.gradients.named import estimator_of
    from deeplvm.networks import MLP
    from deeplvm.parallel.steps import Together
    from deeplvm.training import Phase
    from deeplvm.training.step import Step

    settings: dict[str, Any] = {
        "elbo": objectives.elbo,
        "free bits": partial(objectives.free_bits, minimum=0.4),
        "free bits by dimension": partial(objectives.free_bits, minimum=0.2, groups="dimension"),
        "capacity": partial(objectives.beta_elbo, beta=3.0, capacity=0.3),
        "growing capacity": objectives.GrowingCapacity(2.0, steps=4, beta=3.0),
        "constrained": objectives.Constrained(most=3.0, rate=0.1),
        "soft free bits": objectives.SoftFreeBits({"z": 0.5}, tolerance=0.2),
        "soft free bits by dimension": objectives.SoftFreeBits({"z": [0.2, 0.9]}, tolerance=0.2),
        "total correlation": partial(objectives.beta_tc_elbo, rows=40),
        "discrepancy": objectives.info_vae,
        "score_function": "score_function",
        "nvil": "nvil",
        "vimco": "vimco",
        "muprop": "muprop",
        "rebar": "rebar",
        "regressed_score": "regressed_score",
    }
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(4)
    data = (torch.rand(40, 5, generator=generator) < 0.4).double()
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        torch.manual_seed(1)
        discrete = isinstance(setting, str)
        prior, posterior = (Bernoulli, Bernoulli) if discrete else (StandardNormal, Gaussian)
        p = Joint({"z": prior(2), "x | z": Bernoulli(5, MLP(2, 8))})
        model = LatentVariableModel(p, Joint({"z | x": posterior(2, MLP(5, 8))}))
        estimator = estimator_of(setting) if discrete else None
        phase = Phase(
            objectives.elbo if discrete else setting,
            optimizer="adam",
            learning_rate=0.05,
            particles=3,
            estimator=estimator,
        )
        if discrete:
            model.prepare({"x": data[:9]}, particles=3, default=estimator)
        together = Together(here)
        step = Step(
            model, phase, rows=40, missing=frozenset(), log_prior=None, clip=None, skip=None,
            batch_size=9, alone=True, together=None if here.alone else together,
        )  # fmt: skip
        try:
            for start in (0, 9, 18):
                part = together.part(torch.arange(start, start + 9))
                step({"x": data[part.index]}, part, 0.7)
            told = [value.flatten().tolist() for value in model.state_dict().values()]
            found[name] = [each for value in told for each in value]
        except ValueError as error:
            found[name] = str(error)
    return found


def expectation(here: Processes) -> dict[str, Any]:
    """Two epochs of each kind of expectation maximisation."""
    from deeplvm import Joint, LatentVariableModel, fit
    from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
    from deeplvm.inference import localised
    from deeplvm.learning import exact_em, monte_carlo_em, variational_em
    from deeplvm.networks import MLP

    torch.set_default_dtype(torch.float64)
    data = {"x": torch.randn(13, 3, generator=torch.Generator().manual_seed(4))}
    found: dict[str, Any] = {}
    for kind in (exact_em, variational_em, monte_carlo_em):
        torch.manual_seed(1)
        p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1), scale="global")})
        model = LatentVariableModel(p, Joint({"z | x": FullCovarianceGaussian(1, MLP(3))}))
        model = localised(model, 13) if kind is variational_em else model
        given = data | {"row": torch.arange(13)}
        fit(model, given, phases=kind(model), epochs=2, batch_size=6, quiet=True)  # the last: 1
        found[kind.__name__] = [each.flatten().tolist() for each in model.parameters()]
    return found


SCENES = {f.__name__: f for f in (laws, fails, dies, shards, statistics, expectation)}


def play(scene: str, folder: str) -> None:
    """Join, play the scene, leave what it returned in the folder."""
    with joined("cpu") as here:
        found = SCENES[scene](here)
        Path(folder, f"{here.rank}.json").write_text(json.dumps(found))
        if "error" in found:
            raise ProcessesError(str(found["error"]))
    if processes() != Processes():
        sys.exit("did not leave")
