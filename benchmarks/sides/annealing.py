"""Chains of annealed importance sampling, and the gradient evaluations that they need, by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplvm.devices import keep_freed_memory
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.tempering import Walk
from sides.by_hand import Vae, log_standard
from sides.ours import model_of
from workloads import Workload, pixels


def walk(
    workload: dict[str, Any], *, rows: int, chains: int, temperatures: int, leapfrog: int
) -> Callable[[int], None]:
    """Walks from the prior to the posterior; the pilot run is made once, before."""
    what = Workload.of(workload)
    keep_freed_memory(torch.device("cpu"))
    model = model_of(what).eval()
    with torch.no_grad():
        given = {"x": torch.from_numpy(pixels(what))[:rows]}
        prepared = Walk(LatentSpace(model, given, frozenset()), "prior", leapfrog)
        schedule = prepared.schedule(temperatures)

    def run(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                prepared.run(chains, schedule, "walk")

    return run


def pilot_seconds(
    workload: dict[str, Any], *, rows: int, temperatures: int, leapfrog: int
) -> float:
    """What the pilot run takes, which a batch of rows needs once."""
    what = Workload.of(workload)
    keep_freed_memory(torch.device("cpu"))
    model = model_of(what).eval()
    given = {"x": torch.from_numpy(pixels(what))[:rows]}
    with torch.no_grad():
        began = time.perf_counter()
        Walk(LatentSpace(model, given, frozenset()), "prior", leapfrog).schedule(temperatures)
        return time.perf_counter() - began


def evaluations(
    workload: dict[str, Any], *, rows: int, chains: int, temperatures: int, leapfrog: int
) -> Callable[[int], None]:
    """As many log-joints with their gradients of as many chains, in plain PyTorch."""
    what = Workload.of(workload)
    keep_freed_memory(torch.device("cpu"))
    torch.manual_seed(0)
    decoder = Vae(what).decoder
    x = torch.from_numpy(pixels(what))[:rows]
    z = torch.randn(chains, rows, what.latent[0])

    def evaluate() -> tuple[Tensor, Tensor]:
        free = z.detach().requires_grad_()
        logits = decoder(free)
        terms = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        log_joint = log_standard(free) - terms.sum(-1)
        (slope,) = torch.autograd.grad(log_joint.sum(), free)
        return log_joint, slope

    def run(steps: int) -> None:
        for _ in range(steps):
            for _ in range(1 + (temperatures - 1) * leapfrog):
                evaluate()

    return run
