"""The physical limit: how fast this machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sides.by_hand import loss_of
from sides.networks import networks
from workloads import PIXELS, Workload, pixels

SIDE = 1024  # of the square matrices: 2.1 GFLOP a product


def square(workload: dict[str, Any] | None = None) -> Callable[[int], None]:  # noqa: ARG001
    """Products of square matrices in float32."""
    left, right, out = (torch.randn(SIDE, SIDE) for _ in range(3))

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.mm(left, right, out=out)

    return run


def products(workload: dict[str, Any]) -> Callable[[int], None]:
    """The matrix products of a step and nothing else, laid out in memory as a step has them."""
    what = Workload.of(workload)
    if what.family != "mlp":
        raise NotImplementedError("only for multilayer perceptrons")
    latent, particles = what.latent[0], what.particles or 1
    encoder = list(pairwise((PIXELS, *what.hidden, 2 * latent)))
    decoder = list(pairwise((latent, *reversed(what.hidden), PIXELS)))
    work: list[tuple[Tensor, Tensor, Tensor]] = []
    for widths, rows in ((encoder, what.batch), (decoder, what.batch * particles)):
        for fan_in, fan_out in widths:
            x, weight = torch.randn(rows, fan_in), torch.randn(fan_out, fan_in)
            gradient = torch.randn(rows, fan_out)
            work.append((x, weight.t(), torch.empty(rows, fan_out)))
            work.append((gradient.t(), x, torch.empty(fan_out, fan_in)))
            if fan_in != PIXELS:  # the data need no gradient
                work.append((gradient, weight, torch.empty(rows, fan_in)))

    def run(steps: int) -> None:
        for _ in range(steps):
            for left, right, out in work:
                torch.mm(left, right, out=out)

    return run


def flops(workload: dict[str, Any]) -> int:
    """Floating-point operations of a step in matrix products and convolutions, there and back."""
    what = Workload.of(workload)
    loss = loss_of(what)
    x = torch.from_numpy(pixels(what)[: what.batch])
    with FlopCounterMode(display=False) as counter:
        loss(x).backward()
    return counter.get_total_flops()


def square_flops() -> int:
    """Of one product of :func:`square`."""
    return 2 * SIDE**3


def row_flops(workload: dict[str, Any], *, particles: int) -> int:
    """Operations in the matrix products of an importance-sampled likelihood, a row."""
    encoder, decoder = networks(Workload.of(workload))
    latent = Workload.of(workload).latent[0]
    once = _forward(encoder, torch.zeros(1, PIXELS))
    return once + particles * _forward(decoder, torch.zeros(1, latent))


def part_flops(workload: dict[str, Any]) -> dict[str, int]:
    """Operations in the matrix products of encoder, decoder and backward of a step."""
    what = Workload.of(workload)
    encoder, decoder = networks(what)
    x = torch.from_numpy(pixels(what)[: what.batch])
    found = {
        "encoder": _forward(encoder, x),
        "decoder": _forward(decoder, torch.zeros(what.batch, what.latent[0])),
    }
    return {**found, "backward": flops(workload) - sum(found.values())}


def _forward(network: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return counter.get_total_flops()
