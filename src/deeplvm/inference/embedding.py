"""The latents of each row as numbers: the moments of q(z | x)."""

from __future__ import annotations

import torch
from torch import Tensor

from deeplvm.core.draws import Reparameterised
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre
from deeplvm.distributions.transformed import TransformedDraw
from deeplvm.inference.rows import Names, Rows, Tensors, for_rows
from deeplvm.randomness import RowNoise

_ROWS = 500  # at a time
_DRAWS = 64  # for the moments of a posterior that has none in closed form


def embed(
    model: LatentVariableModel, rows: NamedRows | Rows, *, seed: int = 0, scales: bool = False
) -> dict[str, Tensor]:
    """Posterior means of the latents by name, shape ``(rows, *event)``.

    With ``scales`` also their standard deviations, ``z_sd``. A latent whose posterior depends on
    another latent has the mean given a draw of that one; one without a distribution of its own
    (moved by leapfrog steps, or unrolled) is a draw. A flow, whose mean has no closed form, has
    that of some draws. Where nothing is latent and x itself is a flow, what a row is embedded in
    is the noise that the flow makes it of, ``x_noise``.
    """

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        trace = model.posterior(given, default=noise.of(Reparameterised()), missing=missing)
        found: dict[str, Tensor] = {}
        for name, site in trace.items():
            if site.drawn:
                told = _moments(name, site, noise, scales=scales)
                found |= {each: value.expand(site.value.shape) for each, value in told.items()}
        if not model.q.names:
            scored = model.evidence(given, missing=missing).p
            for name, site in scored.items():
                if isinstance(site.distribution, TransformedDraw):
                    found[f"{name}_noise"] = site.distribution.noise_of(site.value)[0]
        if not found:
            raise ValueError("The model draws no latents, so there is nothing to embed in.")
        return found

    found = for_rows(model, rows, measure, batch_size=_ROWS, seed=seed, finite=())
    return {name: value.cpu() for name, value in found.items()}


def _moments(name: str, site: Site, noise: RowNoise, *, scales: bool) -> dict[str, Tensor]:
    """The mean of a drawn latent and its standard deviation, where there are any."""
    own = site.distribution
    if own is None:
        return {name: site.value}
    try:
        mean, spread = centre(own), own.stddev if scales else None
    except NotImplementedError:  # a flow has no moments in closed form
        with noise.drawing(f"moments of {name}", tuple(site.value.shape[: site.batch_dims])):
            draws = own.sample(torch.Size((_DRAWS,)))
        mean, spread = draws.mean(0), draws.std(0)
    return {name: mean} if not scales or spread is None else {name: mean, f"{name}_sd": spread}
