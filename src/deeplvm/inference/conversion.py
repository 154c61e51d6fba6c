"""Rows as they would be under another label."""

from __future__ import annotations

from typing import Any, Unpack

import torch

from deeplvm.core.draws import Sampled
from deeplvm.core.model import Draws, LatentVariableModel
from deeplvm.core.trace import Trace
from deeplvm.core.values import NamedRows


def converted(
    model: LatentVariableModel, given: NamedRows, label: int, **draws: Unpack[Draws]
) -> Trace:
    """Rows encoded with their own labels, and decoded with another one.

    Voice Conversion from Non-parallel Corpora Using Variational Auto-encoder (Hsu et al., 2016),
    https://arxiv.org/abs/1610.04019

    Args:
        model: Of x given a label y, or of both.
        given: The rows, with their labels where q reads them.
        label: That of all rows.
        draws: As for :meth:`~deeplvm.core.model.LatentVariableModel.posterior`.

    Returns:
        The trace of p, whose sites carry the distributions.

    Raises:
        ValueError: If p does not read the label, or it follows from the latents.
    """
    p = model.p
    follows = "y" in p.names and any([each.name in model.q.names for each in p.parents("y")])
    if ("y" not in p.inputs and not model.reads("y")) or follows:
        raise ValueError(
            "Another label is for a model of x given its label; this one "
            + ("draws the label from its latents." if follows else "decodes x without it.")
        )
    known = {name: value for name, value in given.items() if name in model.names}
    posterior = model.posterior(known, **draws)
    latents = {
        name: site
        for name, site in posterior.items()
        if site.drawn and name in p.names and name != "y"
    }
    inputs: dict[str, Any] = {name: known[name] for name in p.inputs if name in known}
    rows = model.rows(known)
    inputs["y"] = torch.full((rows,), label, device=next(model.parameters()).device)
    default = draws.get("default") or Sampled()
    return p(inputs | latents, posterior.batch_shape, default=default)
