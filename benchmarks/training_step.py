"""What does the abstraction cost? A training step of the MLP VAE against a loop written by hand.

784-500-500-50, batch 100, float32, Adam. Both do the same arithmetic: the sampled ELBO, a scale
bounded by a softplus, fused Adam. Three figures: our step written with the core, the step inside
`fit` (with its choice of rows and its look for non-finite values), each as a ratio to the loop by
hand. The two sides are interleaved and the minimum of many steps is compared, because machines
are noisy.

    python benchmarks/training_step.py [--steps 400] [--batch 100] [--tiny]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.training.batches import Batches, Tensors
from deeplvm.training.phases import Phase, Step
from machine import keep


def by_hand(x: Tensor, latent: int, width: int) -> Callable[[Tensor], None]:
    features = x.shape[1]
    encoder = nn.Sequential(
        nn.Linear(features, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 2 * latent),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, features),
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], fused=True)
    half_log_two_pi = 0.5 * math.log(2 * math.pi)

    def step(index: Tensor) -> None:
        batch = x[index]
        mean, raw = encoder(batch).chunk(2, -1)
        scale = F.softplus(raw + math.log(math.expm1(1.0))) + 1e-3
        noise = torch.randn_like(mean)
        z = mean + scale * noise
        log_q = (-0.5 * noise.square() - scale.log() - half_log_two_pi).sum(-1)
        log_z = (-0.5 * z.square() - half_log_two_pi).sum(-1)
        logits = decoder(z)
        log_x = -F.binary_cross_entropy_with_logits(logits, batch, reduction="none").sum(-1)
        loss = -(log_x + log_z - log_q).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def model_of(features: int, latent: int, width: int) -> LatentVariableModel:
    p = Joint(
        {"z": StandardNormal(latent), "x | z": Bernoulli(features, MLP(latent, width, width))}
    )
    q = Joint({"z | x": Gaussian(latent, MLP(features, width, width))})
    return LatentVariableModel(p, q)


def with_the_core(x: Tensor, latent: int, width: int) -> Callable[[Tensor], None]:
    model = model_of(x.shape[1], latent, width)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step(index: Tensor) -> None:
        loss = -elbo(model.evidence({"x": x[index]}, missing=())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inside_fit(x: Tensor, latent: int, width: int, batch: int) -> Callable[[Tensor], None]:
    model = model_of(x.shape[1], latent, width)
    device = torch.device("cpu")
    batches = Batches(Tensors({"x": x}, None, ()), model.names, device, torch.float32)
    phase = Phase(elbo, None, "adam", 1e-3, 0.0, None, None)
    one = Step(
        model,
        phase,
        rows=len(x),
        missing=frozenset(),
        log_prior=None,
        clip=None,
        skip=None,
        compile=False,
        batch_size=batch,
        alone=True,
    )
    generator = torch.Generator().manual_seed(0)

    def step(index: Tensor) -> None:
        value = one(batches("train", index, generator), len(index), 1.0)
        if not math.isfinite(value):
            raise ValueError("not finite")

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--tiny", action="store_true", help="64 hidden units instead of 500")
    options = parser.parse_args()
    torch.manual_seed(0)
    x = (torch.rand(20_000, 784) > 0.87).float()
    latent, width = 50, 64 if options.tiny else 500
    sides = {
        "by hand": by_hand(x, latent, width),
        "core": with_the_core(x, latent, width),
        "fit": inside_fit(x, latent, width, options.batch),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.steps + 20):
        index = torch.randint(len(x), (options.batch,))
        for name, step in sides.items():
            began = time.perf_counter()
            step(index)
            if turn >= 20:
                times[name].append(time.perf_counter() - began)
    fastest = {name: min(each) * 1e3 for name, each in times.items()}
    middle = {name: sorted(each)[len(each) // 2] * 1e3 for name, each in times.items()}
    result = {
        "what": f"training step of an MLP VAE 784-{width}-{width}-{latent}, batch {options.batch}",
        "steps": options.steps,
        "milliseconds, minimum": fastest,
        "milliseconds, median": middle,
        "ratio to by hand, of minima": {n: t / fastest["by hand"] for n, t in fastest.items()},
        "ratio to by hand, of medians": {n: t / middle["by hand"] for n, t in middle.items()},
    }
    for name in sides:
        print(
            f"{name:8} {fastest[name]:7.3f} ms, {fastest[name] / fastest['by hand']:.3f} by hand; "
            f"median {middle[name]:.3f} ms, {middle[name] / middle['by hand']:.3f}"
        )
    keep("training_step_tiny" if options.tiny else "training_step", result)


if __name__ == "__main__":
    main()
