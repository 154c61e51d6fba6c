"""Draws with their densities from an inverse autoregressive flow, and their matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.conditionals.flows.masked import in_place_elu
from deeplvm.devices import keep_freed_memory

STEPS, CONTEXT, BATCH = 4, 320, 100


class Same(nn.Module):
    """The encoder's features, as they are."""

    out_features = CONTEXT

    def forward(self, features: Tensor) -> Tensor:
        return features


def ours(
    *, latents: int, width: int, backward: bool, activation: str, compiled: bool = False
) -> Callable[[int], None]:
    """``flow(features).rsample_and_log_prob()``, and its gradients."""
    keep_freed_memory(torch.device("cpu"))
    torch.manual_seed(0)
    kind = {"ELU": in_place_elu, "SiLU": nn.SiLU}[activation]
    flow = InverseAutoregressiveFlow(
        latents, Same(), transforms=STEPS, hidden=(width, width), activation=kind
    )
    features = torch.randn(BATCH, CONTEXT)
    ones = [torch.ones(BATCH, latents), torch.ones(BATCH)]

    def draw() -> tuple[Tensor, Tensor]:
        return flow(features).rsample_and_log_prob()

    function = torch.compile(draw, fullgraph=True, dynamic=False) if compiled else draw

    def run(steps: int) -> None:
        for _ in range(steps):
            if backward:
                flow.zero_grad()
                torch.autograd.backward(function(), ones)
            else:
                with torch.no_grad():
                    function()

    return run


def products(*, latents: int, width: int, backward: bool) -> Callable[[int], None]:
    """The same products of matrices of the same shapes and nothing else, masks multiplied in."""
    keep_freed_memory(torch.device("cpu"))
    torch.manual_seed(0)
    features = torch.randn(BATCH, CONTEXT)
    head = weights(2 * latents + CONTEXT, CONTEXT)
    shapes = ((width, CONTEXT), (width, latents), (width, width), (2 * latents, width))
    layers = [[weights(*shape) for shape in shapes] for _ in range(STEPS)]
    every = [head, *[each for step in layers for each in step]]
    ones = [torch.ones(BATCH, latents)] * (STEPS + 1)

    def multiply() -> list[Tensor]:
        z, _, context = linear(features, *head).split([latents, latents, CONTEXT], -1)
        found = []
        for of_context, first, second, last in layers:
            beside = linear(context, *of_context)
            hidden = torch.addmm(beside, z, first[0].t())
            z, raw = linear(linear(hidden, *second), *last).chunk(2, -1)
            found.append(raw)
        return [z, *found]

    def run(steps: int) -> None:
        for _ in range(steps):
            if backward:
                for weight, bias in every:
                    weight.grad = bias.grad = None
                torch.autograd.backward(multiply(), ones)
            else:
                with torch.no_grad():
                    multiply()

    return run


def weights(fan_out: int, fan_in: int) -> tuple[Tensor, Tensor]:
    """Those of a layer, and its biases."""
    weight = torch.randn(fan_out, fan_in).div_(fan_in**0.5).requires_grad_()
    return weight, torch.zeros(fan_out).requires_grad_()
