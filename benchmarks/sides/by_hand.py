"""The loops that a skilled engineer writes in plain PyTorch: one function a loss, fused Adam.

The bound is the sampled one, one number a row, with every constant: the same mathematics as the
other sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sides.networks import HALF_LOG_TWO_PI, Ladder, merged, networks, positive
from workloads import PIXELS, Workload, indices, pixels


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    terms = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -terms.flatten(1).sum(-1)


def draw(mean: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A draw and its log-density, up to the constant that the prior has too."""
    log_q = -0.5 * noise.square().sum(-1) - scale.log().sum(-1)
    return mean + scale * noise, log_q - mean.shape[-1] * HALF_LOG_TWO_PI


def log_standard(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - z.shape[-1] * HALF_LOG_TWO_PI


def log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (
        -0.5 * ((z - mean) / scale).square().sum(-1)
        - scale.log().sum(-1)
        - z.shape[-1] * HALF_LOG_TWO_PI
    )


class Vae(nn.Module):
    """One layer of latents: the negative ELBO of a batch."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(workload)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, -1)
        z, log_q = draw(mean, positive(raw), torch.randn_like(mean))
        log_x = log_bernoulli(self.decoder(z), x)
        return -(log_x + log_standard(z) - log_q).mean()


class Weighted(Vae):
    """The negative importance-weighted bound with K draws a row."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.particles = workload.particles or 1

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, -1)
        noise = torch.randn(self.particles, *mean.shape, dtype=mean.dtype)
        z, log_q = draw(mean, positive(raw), noise)  # (K, B, D)
        logits = self.decoder(z)
        terms = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        log_weight = log_standard(z) - terms.sum(-1) - log_q  # (K, B)
        return -(torch.logsumexp(log_weight, 0) - math.log(self.particles)).mean()


class LadderVae(Ladder):
    """The negative ELBO of a ladder."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        top = len(features) - 1
        mean, scale = self.likelihood(top, features[top])
        z, log_q = draw(mean, scale, torch.randn_like(mean))
        bound = log_standard(z) - log_q
        for layer in reversed(range(top)):
            prior = self.given(layer, z)
            mean, scale = merged(prior, self.likelihood(layer, features[layer]))
            z, log_q = draw(mean, scale, torch.randn_like(mean))
            bound = bound + log_normal(z, *prior) - log_q
        return -(bound + log_bernoulli(self.output(z), x)).mean()


def loss_of(workload: Workload) -> nn.Module:
    """The module that maps a batch to its loss."""
    torch.manual_seed(0)
    if workload.family == "ladder":
        return LadderVae(workload)
    return Vae(workload) if workload.particles is None else Weighted(workload)


def step(workload: dict[str, Any], *, compiled: bool = False) -> Callable[[int], None]:
    """Training steps, eager or with the loss and its gradient compiled."""
    what = Workload.of(workload)
    x = torch.from_numpy(pixels(what))
    order = torch.from_numpy(indices(what))
    loss = loss_of(what)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    function = torch.compile(loss, fullgraph=True, dynamic=False) if compiled else loss
    turn = 0

    def run(steps: int) -> None:
        nonlocal turn
        for _ in range(steps):
            value = function(x[order[turn]])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            turn = (turn + 1) % len(order)

    return run


def likelihood(workload: dict[str, Any], *, particles: int, rows: int) -> Callable[[int], None]:
    """Importance-sampled log-likelihood of some rows: encoded once, particles in chunks."""
    what = Workload.of(workload)
    model = Vae(what)
    x = torch.from_numpy(pixels(what))[:rows]

    def run(steps: int) -> None:
        for _ in range(steps):
            log_likelihood(model, x, particles)

    return run


@torch.inference_mode()
def log_likelihood(model: Vae, x: Tensor, particles: int) -> Tensor:
    """One estimate a row, in nats, shape ``(rows,)``."""
    chunk = max(1, min(particles, 2**22 // (len(x) * PIXELS)))
    mean, raw = model.encoder(x).chunk(2, -1)
    scale = positive(raw)
    total = torch.full((len(x),), -math.inf)
    for done in range(0, particles, chunk):
        noise = torch.randn(min(chunk, particles - done), *mean.shape)
        z, log_q = draw(mean, scale, noise)
        logits = model.decoder(z)
        terms = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        log_weight = log_standard(z) - terms.flatten(2).sum(-1) - log_q
        total = torch.logaddexp(total, torch.logsumexp(log_weight, 0))
    return total - math.log(particles)
