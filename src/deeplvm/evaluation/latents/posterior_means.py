r"""Posterior means of the latents of some rows, and the clusters of discrete ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
)

from deeplvm.evaluation.batches import Batches
from deeplvm.evaluation.latents.draws import is_discrete, latents_of
from deeplvm.model import LatentVariableModel
from deeplvm.trace import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

    codes: dict[str, NDArray[Any]]
    clusters: dict[str, NDArray[Any]]
    names: tuple[str, ...]
    values: NDArray[Any]


def encode(
    model: LatentVariableModel,
    taken: Batches,
    index: Tensor,
    labels: str,
    particles: int,
    batch_size: int,
) -> Encoded:
    """The rows of an index in rising order; call it inside ``evaluating``.

    Args:
        model: Whose q encodes.
        taken: Where the rows are.
        index: Which of them, shape ``(rows,)``.
        labels: A name that is no value to be read from, though q may need it.
        particles: Draws over which means are averaged.
        batch_size: Rows at a time.
    """
    own = tuple([name for name in taken.names if name != labels])
    names = tuple([name for name in own if name in model.p.names]) or own
    codes: dict[str, list[Tensor]] = {}
    clusters: dict[str, list[Tensor]] = {}
    values = []
    for start in range(0, taken.rows, batch_size):
        inside = index[(index >= start) & (index < start + batch_size)] - start
        if not len(inside):
            continue
        batch = taken[slice(start, start + batch_size)]
        given = {name: value[inside.to(value.device)] for name, value in batch.items()}
        values.append(torch.cat([given[n].reshape(len(inside), -1).double() for n in names], 1))
        trace = model.posterior(given, particles=particles, missing=taken.missing)
        for name in latents_of(model, trace):
            code = _mean(trace[name], trace.batch_shape)
            codes.setdefault(name, []).append(code.flatten(1).cpu())
            cluster = _cluster(trace[name], code)
            if cluster is not None:
                clusters.setdefault(name, []).append(cluster.cpu())
    return Encoded(
        {name: torch.cat(each).numpy() for name, each in codes.items()},
        {name: torch.cat(each).numpy() for name, each in clusters.items()},
        names,
        torch.cat(values).cpu().numpy(),
    )


def _mean(site: Site, shape: tuple[int, ...]) -> Tensor:
    """Posterior mean, of categories their probabilities, over the particles: ``(batch, *event)``.

    Given a draw of the latent's parents where the distribution tells it, else of the draws.
    """
    values = site.features if is_discrete(site) else site.value
    event = values.dim() - site.batch_dims
    base = _elements(site)
    if isinstance(base, Categorical):
        values, event = base.probs, site.value.dim() - site.batch_dims + 1
    elif site.distribution is not None:
        with contextlib.suppress(NotImplementedError, AttributeError):
            mean = site.distribution.mean
            if bool(torch.isfinite(mean).all()):  # a Student-t has no mean at one degree
                values, event = mean, site.value.dim() - site.batch_dims
    lead = values.dim() - event
    full = values.reshape(*[1] * (len(shape) - lead), *values.shape)
    return full.double().expand(*shape, *full.shape[len(shape) :]).mean(0)


def _cluster(site: Site, code: Tensor) -> Tensor | None:
    """The most probable value of a discrete latent with one value a row, shape ``(batch,)``."""
    base = _elements(site)
    if code.dim() == 2 and isinstance(base, Categorical | OneHotCategorical):
        return code.argmax(-1)
    if code.dim() == 1 and isinstance(base, Bernoulli):
        return (code > 0.5).long()
    return None


def _elements(site: Site) -> Distribution | None:
    base = site.distribution
    while isinstance(base, Independent):
        base = base.base_dist
    return base
