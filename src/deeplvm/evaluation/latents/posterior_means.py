"""Posterior means of latents: what q says of a row, as numbers that others can read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, base_of
from deeplvm.inference.rows import Rows
from deeplvm.results import Array

_BATCH = 256


def is_discrete(site: Site) -> bool:
    """Whether a variable takes separate values."""
    if not site.value.is_floating_point():
        return True
    try:
        return site.distribution is not None and bool(site.distribution.support.is_discrete)  # type: ignore[union-attr]
    except (NotImplementedError, AttributeError):
        return False


def latents_of(model: LatentVariableModel, posterior: Any) -> tuple[str, ...]:
    """The names that q draws for each row.

    Raises:
        ValueError: If there is none.
    """
    shared = model.shared.intersection(model.q.names)
    names = tuple([n for n, site in posterior.items() if site.drawn and n not in shared])
    if not names:
        raise ValueError(
            f"q draws nothing for a row in {model.factorisation}; add a latent such as 'z | x' to "
            f"q, or leave a name out of the data that q can draw."
        )
    return names


def mean_values(site: Site) -> tuple[Tensor, int]:
    """What has :math:`E_q[u | x]` for its mean over draws, and how many dimensions an event has.

    Given a draw of the latent's parents its mean, and of categories their probabilities, where
    the distribution tells them; else the draws, categories one-hot.
    """
    event, base = site.value.dim() - site.batch_dims, base_of(site.distribution)
    if isinstance(base, Categorical):
        return base.probs, event + 1
    if site.distribution is not None:
        with contextlib.suppress(NotImplementedError, AttributeError):
            mean = site.distribution.mean
            if bool(torch.isfinite(mean).all()):  # a Student-t has no mean at one degree
                return mean, event
    values = site.features if is_discrete(site) else site.value
    return values, values.dim() - site.batch_dims


def full(values: Tensor, event: int, shape: tuple[int, ...]) -> Tensor:
    """Values that broadcast to ``(*particles, batch, *event)``, of that shape."""
    absent = (1,) * (len(shape) - values.dim() + event)  # without parents there is no batch
    values = values.reshape(*absent, *values.shape)
    return values.expand(*shape, *values.shape[len(shape) :])


@dataclass(frozen=True, eq=False)
class Encoded:
    """Some rows as the model sees them, float64.

    Attributes:
        codes: Posterior mean of each latent by name, of categories their probabilities, shape
            ``(rows, dimensions)``.
        clusters: The most probable value of each discrete latent with one value a row, shape
            ``(rows,)``.
        names: The observed names.
        values: Their values, shape ``(rows, elements)``.
    """

    codes: dict[str, Array]
    clusters: dict[str, Array]
    names: tuple[str, ...]
    values: Array


def encode(
    model: LatentVariableModel, rows: Rows, particles: int, labels: str | None = None
) -> Encoded:
    """What q makes of rows; call it inside ``evaluating``.

    Args:
        model: Whose q encodes.
        rows: Of them.
        particles: Draws over which means are averaged, where q draws a latent from another one
            or gives no mean.
        labels: A name that is no value to be read from, though q may need it.
    """
    own = tuple([name for name in rows.names if name != labels])
    names = tuple([name for name in own if name in model.p.names]) or own
    codes: dict[str, list[Tensor]] = {}
    clusters: dict[str, list[Tensor]] = {}
    values = []
    for _, given in rows.each(_BATCH):
        values.append(torch.cat([_flat(given[name]).double() for name in names], 1))
        trace = model.posterior(given, particles=particles, missing=rows.missing)
        for name in latents_of(model, trace):
            code = full(*mean_values(trace[name]), trace.batch_shape).double().mean(0)
            codes.setdefault(name, []).append(_flat(code).cpu())
            cluster = _cluster(trace[name], code)
            if cluster is not None:
                clusters.setdefault(name, []).append(cluster.cpu())
    return Encoded(
        {name: torch.cat(each).numpy() for name, each in codes.items()},
        {name: torch.cat(each).numpy() for name, each in clusters.items()},
        names,
        torch.cat(values).cpu().numpy(),
    )


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _cluster(site: Site, code: Tensor) -> Tensor | None:
    """The most probable value of a discrete latent with one value a row, shape ``(batch,)``."""
    base = base_of(site.distribution)
    if code.dim() == 2 and isinstance(base, Categorical | OneHotCategorical):
        return code.argmax(-1)
    if code.dim() == 1 and isinstance(base, Bernoulli):
        return (code > 0.5).long()
    return None
