"""Pyro: model and guide with the networks of the other sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor

from sides.networks import Ladder, merged, networks, positive
from workloads import Workload, indices, pixels

pyro.enable_validation(is_validate=False)  # as its documentation advises for speed


class Vae:
    """Model and guide of one layer of latents."""

    def __init__(self, workload: Workload) -> None:
        self.encoder, self.decoder = networks(workload)
        self.latent = workload.latent[0]
        self.dims = 3 if workload.family == "conv" else 1

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(self.dims), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("rows", len(x)):
            mean, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, positive(raw)).to_event(1))


class LadderVae:
    """Model and guide of a ladder."""

    def __init__(self, workload: Workload) -> None:
        self.parts = Ladder(workload)
        self.latent = workload.latent
        self.top = len(workload.latent) - 1

    def model(self, x: Tensor) -> None:
        parts = pyro.module("ladder", self.parts)
        with pyro.plate("rows", len(x)):
            prior = dist.Normal(x.new_zeros(self.latent[-1]), 1.0).to_event(1)
            z = pyro.sample(f"z{self.top}", prior)
            for layer in reversed(range(self.top)):
                z = pyro.sample(f"z{layer}", dist.Normal(*parts.given(layer, z)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=parts.output(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        parts = pyro.module("ladder", self.parts)
        with pyro.plate("rows", len(x)):
            features = parts.features(x)
            posterior = dist.Normal(*parts.likelihood(self.top, features[-1])).to_event(1)
            z = pyro.sample(f"z{self.top}", posterior)
            for layer in reversed(range(self.top)):
                both = parts.given(layer, z), parts.likelihood(layer, features[layer])
                z = pyro.sample(f"z{layer}", dist.Normal(*merged(*both)).to_event(1))


def step(workload: dict[str, Any], *, own_loop: bool = False) -> Callable[[int], None]:
    """Its ``SVI.step``, or its loss in a loop by hand with one fused Adam (faster)."""
    what = Workload.of(workload)
    torch.manual_seed(0)
    pyro.clear_param_store()
    pair = LadderVae(what) if what.family == "ladder" else Vae(what)
    if what.particles is None:
        elbo: Any = Trace_ELBO()
    else:
        elbo = RenyiELBO(
            alpha=0.0,
            num_particles=what.particles,
            vectorize_particles=True,
            max_plate_nesting=1,
        )
    x = torch.from_numpy(pixels(what))
    order = torch.from_numpy(indices(what))
    if not own_loop:
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
        one: Callable[[Tensor], Any] = svi.step
    elif what.particles is None:
        with pyro.poutine.trace(param_only=True) as capture:
            elbo.differentiable_loss(pair.model, pair.guide, x[order[0]])
        parameters = {site["value"].unconstrained() for site in capture.trace.nodes.values()}
        optimizer = torch.optim.Adam(list(parameters), lr=1e-3, fused=True)

        def one(batch: Tensor) -> None:
            loss = elbo.differentiable_loss(pair.model, pair.guide, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    else:
        raise NotImplementedError("RenyiELBO has no differentiable_loss: see SVI.step")
    turn = 0

    def run(steps: int) -> None:
        nonlocal turn
        for _ in range(steps):
            one(x[order[turn]])
            turn = (turn + 1) % len(order)

    return run
