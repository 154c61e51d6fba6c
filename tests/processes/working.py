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
        {
            "x": rank + torch.arange(rows * 3.0).view(rows, 3),
            "y": torch.arange(rank + 1),
        }
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


def play(scene: str, folder: str) -> None:
    """Join, play the scene, leave what it returned in the folder."""
    with joined("cpu") as here:
        found = {"laws": laws, "fails": fails, "dies": dies, "shards": shards}[scene](here)
        Path(folder, f"{here.rank}.json").write_text(json.dumps(found))
        if "error" in found:
            raise ProcessesError(str(found["error"]))
    if processes() != Processes():
        sys.exit("did not leave")
