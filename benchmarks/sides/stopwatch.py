"""Where the time of an eager step goes: marks where one part ends and the next begins."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from deeplvm import elbo
from deeplvm.training import Machine, Optimization, fit
from deeplvm.training.callbacks import Callback
from sides.by_hand import Vae, draw, log_bernoulli, log_standard
from sides.networks import positive
from sides.ours import Endless, model_of
from workloads import Workload, indices, pixels

PARTS = ("data", "encoder", "draw", "decoder", "log-density", "backward", "optimiser")
FIRST = 5  # steps that are not counted


class Marks:
    """Readings of the clock, a row of them a step."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = [[]]

    def __call__(self, *_: Any) -> None:
        self.steps[-1].append(time.perf_counter())

    def end(self) -> None:
        """The end of a step is the beginning of the next."""
        self()
        self.steps.append([self.steps[-1][-1]])

    def parts(self) -> dict[str, list[float]]:
        """Seconds of each part in each step."""
        rows = [step for step in self.steps[FIRST:] if len(step) == len(PARTS) + 1]
        return {part: [row[i + 1] - row[i] for row in rows] for i, part in enumerate(PARTS)}


class Enough(Exception):
    """Ends a fit."""


class Until(Callback):
    """So many steps, each with its end marked."""

    def __init__(self, marks: Marks, steps: int) -> None:
        self.marks, self.left = marks, steps

    def step_ended(self, step: int, objective: float | Tensor) -> None:
        self.marks.end()
        self.left -= 1
        if self.left == 0:
            raise Enough


def ours(workload: dict[str, Any], *, steps: int) -> dict[str, list[float]]:
    """Of ``fit``; what it looks at and counts besides belongs to the optimiser."""
    what = Workload.of(workload)
    marks = Marks()
    model = model_of(what)
    for conditional in (model.q["z"], model.p["x"]):
        conditional.register_forward_pre_hook(marks)
        conditional.register_forward_hook(marks)

    def objective(evidence: Any) -> Tensor:
        value = elbo(evidence)
        marks()
        return value

    def optimizer(parameters: list[torch.nn.Parameter]) -> Optimizer:
        adam = Adam(parameters, lr=1e-3, fused=True)
        adam.register_step_pre_hook(marks)
        return adam

    data = Endless({"x": torch.from_numpy(pixels(what))}, None, ())
    data.batches = torch.from_numpy(indices(what))
    with contextlib.suppress(Enough):
        fit(
            model,
            data,
            objective=objective,
            optimization=Optimization(optimizer=optimizer, averaging=0.0),
            batch_size=what.batch,
            machine=Machine(compile=False),
            callbacks=[Until(marks, steps + FIRST)],
            quiet=True,
        )
    return marks.parts()


def by_hand(workload: dict[str, Any], *, steps: int) -> dict[str, list[float]]:
    """Of the loop in plain PyTorch."""
    what = Workload.of(workload)
    marks = Marks()
    torch.manual_seed(0)
    model = Vae(what)
    x = torch.from_numpy(pixels(what))
    order = torch.from_numpy(indices(what))
    optimizer = Adam(model.parameters(), lr=1e-3, fused=True)
    for turn in range(steps + FIRST):
        batch = x[order[turn % len(order)]]
        marks()
        mean, raw = model.encoder(batch).chunk(2, -1)
        scale = positive(raw)
        marks()
        z, log_q = draw(mean, scale, torch.randn_like(mean))
        marks()
        logits = model.decoder(z)
        marks()
        loss = -(log_bernoulli(logits, batch) + log_standard(z) - log_q).mean()
        marks()
        optimizer.zero_grad()
        loss.backward()
        marks()
        optimizer.step()
        marks.end()
    return marks.parts()
