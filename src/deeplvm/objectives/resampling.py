"""Draws from the importance-weighted posterior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.trace import Site, Trace


@torch.no_grad()
def resample(evidence: Evidence, draws: int | None = None) -> Trace:
    r"""Sampling-importance-resampling: draws of the posterior that the importance weights imply.

    .. math:: \tilde w_k = \frac{m_k\, p(x, z_k) / q(z_k|x)}{\sum_j m_j\, p(x, z_j) / q(z_j|x)},
              \qquad k \sim \tilde w, \qquad z = z_k

    One draw of fresh particles is a draw of :math:`q_{IW}(z|x)`, which the importance-weighted
    bound makes use of without saying so: :func:`~deeplvm.objectives.iwae` with k particles is at
    most its ELBO, so it is the objective that goes with it. Its density has no closed form. It
    nears :math:`p(z|x)` as the particles grow; enumerated values give the posterior itself.
    Several draws from the same particles are independent given these only.

    Reinterpreting Importance-Weighted Autoencoders (Cremer et al., 2017),
    https://arxiv.org/abs/1704.02916

    Args:
        evidence: The ledger of several particles.
        draws: Number of draws per row; none draws once, without a dimension for it.

    Returns:
        The latents by name, values ``(draws, batch, *event)``, all latents of a row from one
        particle. Its sites have no density. They can be given to p as they are.

    Raises:
        ValueError: If there are no particles, or all rows share a latent.

    >>> from deeplvm import Joint, LatentVariableModel
    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
    >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2, 8))}))
    >>> evidence = model.evidence({"x": torch.zeros(7, 2)}, particles=50)
    >>> resample(evidence, draws=3)["z"].value.shape
    torch.Size([3, 7, 1])
    """
    if not evidence.particle_dims:
        raise ValueError("There is one draw a row and nothing to choose from; set particles=K.")
    if common := sorted(evidence.shared.intersection(evidence.latents)):
        raise ValueError(
            f"All rows share {', '.join(common)}, so no particle can be chosen for each row."
        )
    rows = evidence.batch_shape[-1]
    log_weight = (evidence.log_measure + evidence.log_weight).reshape(-1, rows)  # (K, B)
    weights = torch.softmax(log_weight, 0).movedim(0, 1)
    chosen = torch.multinomial(weights, 1 if draws is None else draws, replacement=True)
    index = chosen.movedim(0, 1)  # (draws, B)
    shape = (rows,) if draws is None else (draws, rows)
    sites = {
        name: _taken(evidence.q[name], index, evidence.batch_shape, shape)
        for name in evidence.latents
    }
    return Trace(sites, shape, 0.0 if draws is None else -math.log(draws))


def _taken(
    site: Site, index: Tensor, batch_shape: tuple[int, ...], shape: tuple[int, ...]
) -> Site:
    """The chosen particles of a site."""

    def taken(value: Any) -> Tensor:
        event = value.shape[site.batch_dims :]
        absent = (1,) * (len(batch_shape) - site.batch_dims)
        each = value.reshape(*absent, *value.shape).expand(*batch_shape, *event)
        flat = each.reshape(-1, batch_shape[-1], *event)  # (K, B, *event)
        row = torch.arange(batch_shape[-1], device=index.device)
        return flat[index, row].reshape(*shape, *event)

    return Site(taken(site.value), drawn=True, batch_dims=len(shape), view=site.view)
