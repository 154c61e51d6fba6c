"""deeplvm: the step that ``fit`` takes, and the evaluation that ``evaluate`` makes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Gaussian, PrecisionWeighted, StandardNormal
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder, Features
from deeplvm.training import Machine, Optimization, fit
from deeplvm.training.batches import Tensors
from deeplvm.training.callbacks import Callback
from workloads import PIXELS, Workload, indices, pixels


def model_of(workload: Workload) -> LatentVariableModel:
    """The model of a workload."""
    torch.manual_seed(0)
    if workload.family == "ladder":
        return ladder(workload)
    latent = workload.latent[0]
    if workload.family == "conv":
        # what the recipe convolutional_vae builds for binary images of this size
        shape, channels, features = (1, 28, 28), workload.hidden[:2], workload.hidden[2]
        x = Bernoulli(shape, ConvolutionalDecoder(latent, shape, channels))
        z = Gaussian(latent, ConvolutionalEncoder(shape, channels, features))
    else:
        x = Bernoulli(PIXELS, MLP(latent, *reversed(workload.hidden)))
        z = Gaussian(latent, MLP(PIXELS, *workload.hidden))
    return LatentVariableModel(
        Joint({"z": StandardNormal(latent), "x | z": x}), Joint({"z | x": z})
    )


def ladder(workload: Workload) -> LatentVariableModel:
    """A ladder VAE: d is the way down that p and q share, h the way up; z1 is next to x.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282
    """
    widths, latent = workload.hidden, workload.latent
    top = len(widths)
    p = Joint(
        {f"z{top}": StandardNormal(latent[-1])}
        | {f"d{i} | z{i + 1}": Features(MLP(latent[i], widths[i])) for i in range(1, top)}
        | {f"z{i} | d{i}": Gaussian(latent[i - 1], MLP(widths[i])) for i in range(1, top)}
        | {"x | z1": Bernoulli(PIXELS, MLP(latent[0], widths[0]))}
    )
    seen = [Gaussian(size, MLP(width)) for size, width in zip(latent, widths, strict=True)]
    q = Joint(
        {"h1 | x": Features(MLP(PIXELS, widths[0]))}
        | {f"h{i + 1} | h{i}": Features(MLP(widths[i - 1], widths[i])) for i in range(1, top)}
        | {f"z{top} | h{top}": seen[-1]}
        | {f"d{i} | z{i + 1}": p[f"d{i}"] for i in range(1, top)}
        | {f"z{i} | d{i}, h{i}": PrecisionWeighted(p[f"z{i}"], seen[i - 1]) for i in range(1, top)}
    )
    return LatentVariableModel(p, q)


class Endless(Tensors):
    """Rows in memory whose first epoch never ends, in the order that every side has."""

    batches: Tensor

    def to(self, names: Iterable[str], device: torch.device, dtype: torch.dtype) -> Endless:
        moved = object.__new__(Endless)
        moved.__dict__.update(vars(super().to(names, device, dtype)))
        moved.batches = self.batches
        return moved

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        return itertools.cycle(self.batches)


class Turns(Callback):
    """Lets a running ``fit`` take so many steps and then wait."""

    def __init__(self) -> None:
        self.left = 0
        self.asked, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.over = False

    def step_ended(self, step: int, objective: float | Tensor) -> None:
        self.left -= 1
        if self.left <= 0:
            self.done.release()
            self.wait()

    def wait(self) -> None:
        self.asked.acquire()
        if self.over:
            raise KeyboardInterrupt


class Training:
    """``deeplvm.training.fit`` itself, in a thread: what a user's step costs, all included."""

    def __init__(self, workload: Workload, *, compiled: bool) -> None:
        self.turns = Turns()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._fit, args=(workload, compiled), daemon=True)
        self.thread.start()
        self.turns.done.acquire()
        if self.error is not None:
            raise self.error

    def _fit(self, workload: Workload, compiled: bool) -> None:  # noqa: FBT001
        turns = self.turns
        try:
            data = Endless({"x": torch.from_numpy(pixels(workload))}, None, ())
            data.batches = torch.from_numpy(indices(workload))
            model = model_of(workload)
            turns.done.release()
            turns.wait()
            fit(
                model,
                data,
                objective=elbo if workload.particles is None else iwae,
                particles=workload.particles,
                batch_size=workload.batch,
                optimization=Optimization(learning_rate=1e-3, averaging=0.0),
                machine=Machine(compile=compiled),
                callbacks=[turns],
                quiet=True,
            )
        except BaseException as error:  # noqa: BLE001 - told to who waits
            self.error = error
            turns.done.release()

    def __call__(self, steps: int) -> None:
        self.turns.left = steps
        self.turns.asked.release()
        self.turns.done.acquire()
        if self.error is not None:
            raise self.error

    def __del__(self) -> None:
        self.turns.over = True
        self.turns.asked.release()


def step(workload: dict[str, Any], *, compiled: bool = False) -> Callable[[int], None]:
    """Training steps of ``fit``."""
    return Training(Workload.of(workload), compiled=compiled)


def likelihood(
    workload: dict[str, Any], *, particles: int, rows: int, compiled: bool = False
) -> Callable[[int], float]:
    """Importance-sampled log-likelihood of some rows, with all that the estimate says.

    What compiling takes is not counted: the data sets for which it is chosen have more rows.
    """
    what = Workload.of(workload)
    model = model_of(what)
    x = torch.from_numpy(pixels(what))[:rows]

    def run(steps: int) -> float:
        apart = 0.0
        for _ in range(steps):
            torch.compiler.reset()  # it compiles a function only so many times
            found = importance_sampling(model, {"x": x}, particles=particles, compile=compiled)
            apart += found.compile_seconds
        return apart

    return run


def compile_seconds(workload: dict[str, Any], *, particles: int, rows: int) -> float:
    """What compiling takes before the first chunk."""
    return likelihood(workload, particles=particles, rows=rows, compiled=True)(1)
