"""What do masks, and forty layers of latents, cost beside the same modules called by hand?

python benchmarks/overheads.py                     # a minute, one thread
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm import LatentVariableModel, elbo
from deeplvm.data import load
from deeplvm.networks import MADE
from deeplvm.recipes import find
from machine import keep


def masks(times: int = 40) -> dict[str, Any]:
    """Milliseconds of a step (both passes) beside plain layers of the same sizes, one thread.

    The least of all times counts: others may use the machine.
    """
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


def layers_of_latents(layers: int = 40, rows: int = 100, times: int = 15) -> dict[str, Any]:
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"masks": masks(), "layers of latents": layers_of_latents()}
    print(found)
    keep("overheads", found)
