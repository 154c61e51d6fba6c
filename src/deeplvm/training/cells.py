"""Cells: observed elements hidden from a row, to train under many masks and to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import score, sum_right

SHARE = 0.2
"""Of the observed elements of held-out rows, those to be predicted."""
PARTICLES = 16


def hidden(
    batch: Mapping[str, Any], names: Iterable[str], share: float, generator: Generator | None
) -> dict[str, Any]:
    r"""Rows of which elements are missing (NaN) that were not, at random.

    A row draws its own share :math:`r \sim U(0, s)`, and each of its elements is hidden with
    probability r (of an image each pixel, with all its channels): so masks of all sizes occur.
    What is left has the right bound, as elements that are missing completely at random have; q is
    no part of what is modelled.

    Args:
        batch: Values by name.
        names: Whose elements are hidden; real tensors.
        share: s.
        generator: Of the numbers; torch's own without.
    """
    found = dict(batch)
    for name in names:
        value = found[name]
        at = value.device if generator is None else generator.device
        options: dict[str, Any] = {"generator": generator, "dtype": value.dtype, "device": at}
        most = share * torch.rand((len(value), *[1] * (value.dim() - 1)), **options)
        hide = (torch.rand(_cells(value), **options) < most).to(value.device)
        found[name] = torch.where(hide, torch.nan, value)
    return found


def _cells(value: Tensor) -> tuple[int, ...]:
    """The shape of what is hidden by itself: elements, and of an image the pixels.

    A model of which channels depend on each other says little of some without the others.
    """
    image = value.dim() == 4  # (rows, channels, height, width)
    return (len(value), 1, *value.shape[2:]) if image else tuple(value.shape)


def some_hidden(
    batch: Mapping[str, Any], names: Sequence[str], share: float, generator: Generator | None
) -> dict[str, Any]:
    """Rows of which whole names are missing (NaN), at random.

    A share of the rows keeps some of its names, one at least and all but one at most, any number
    and any of them as likely as others. What is left has the right bound, so that q learns what
    each name says by itself.

    Args:
        batch: Values by name.
        names: Two or more, real tensors.
        share: Of the rows.
        generator: Of the numbers; torch's own without.
    """
    first = batch[names[0]]
    at = first.device if generator is None else generator.device
    options: dict[str, Any] = {"generator": generator, "device": at}
    rows, count = len(first), len(names)
    kept = torch.randint(1, count, (rows, 1), **options)
    kept = torch.where(torch.rand((rows, 1), **options) < share, kept, count)
    order = torch.rand((rows, count), **options).argsort(1).argsort(1)
    hide = (order >= kept).to(first.device)
    found = dict(batch)
    for place, name in enumerate(names):
        value = found[name]
        whole = hide[:, place].reshape(-1, *[1] * (value.dim() - 1))
        found[name] = torch.where(whole, torch.nan, value)
    return found


def hideable(model: LatentVariableModel, names: Iterable[str]) -> tuple[str, ...]:
    """Names of which elements can be hidden: p scores them, and reads none that q cannot draw.

    Nor says p why elements are missing: of those hidden at random it would learn a wrong reason.
    """
    scored = [n for n in names if n in model.p.names and n not in model.explains_holes]
    return tuple([n for n in scored if not model.reads(n) or n in model.q.names])


def predictable(model: LatentVariableModel, names: Iterable[str]) -> tuple[str, ...]:
    """Names whose hidden elements p alone predicts: q draws none of them."""
    return tuple([n for n in hideable(model, names) if n not in model.q.names])


def predicted(
    model: LatentVariableModel,
    batch: Mapping[str, Any],
    names: Iterable[str],
    *,
    missing: frozenset[str],
    **options: Any,
) -> Tensor:
    r""":math:`\log p(x_h | x_r)` of elements h that are hidden from a row, given the rest r.

    .. math:: \log \frac{\sum_k w_k\, p(x_h | z_k)}{\sum_k w_k}, \quad
              w_k = \frac{p(x_r, z_k)}{q(z_k | x_r)}

    A fifth of the observed elements is hidden, of images of the pixels. It tells how well a model
    fills in, which its bound does not: an encoder can forget what holes mean while the bound of
    complete rows rises.

    MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen,
    2019), https://arxiv.org/abs/1812.02633

    Args:
        model: p and q.
        batch: Values by name.
        names: Whose elements are hidden.
        missing: Names with NaN elements.
        options: Of :meth:`LatentVariableModel.evidence`.

    Returns:
        Nats, shape ``(batch,)``; 0 where nothing is observed.
    """
    rest = dict(batch)
    for name in names:
        value = batch[name]
        chosen = torch.rand(_cells(value), dtype=value.dtype, device=value.device) < SHARE
        rest[name] = torch.where(chosen, torch.nan, value)
    missing = missing.union(names)
    evidence = model.evidence(rest, particles=PARTICLES, missing=missing, **options)
    log_weight = (evidence.log_measure + evidence.own_log_weight).expand(evidence.batch_shape)
    gain = torch.zeros_like(log_weight)
    for name in names:
        distribution: Any = evidence.p[name].distribution
        for value, sign in ((batch[name], 1), (rest[name], -1)):
            density = score(name, distribution, value, missing=True)
            gain = gain + sign * sum_right(density, gain.dim())
    outer = evidence.particle_dims
    return torch.logsumexp(log_weight + gain, outer) - torch.logsumexp(log_weight, outer)
