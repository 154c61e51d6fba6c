"""The most probable text, or nearly: beam search through the steps of a recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Sampled
from deeplvm.core.joint import Joint
from deeplvm.core.trace import Site, base_of, expand_to
from deeplvm.recurrent import Recurrent
from deeplvm.unrolled import Unrolled


@torch.no_grad()
def beam_search(
    joint: Any,
    given: Mapping[str, Any],
    name: str = "x",
    *,
    width: int = 5,
    longest: int = 1_000,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A sequence of high probability, :math:`\arg\max_x p(x | z)` as far as beams find it.

    After each step the ``width`` most probable beginnings are kept, of those that have ended too.
    One is the greedy choice of each token; as many as there are sequences is exact.

    Args:
        joint: p, with one :class:`~deeplvm.recurrent.Recurrent` whose rows end by a discrete name.
        given: Values of what comes before, such as latents, each ``(rows, *event)``.
        name: What is searched, the name that ends a row.
        width: Beginnings that are kept.
        longest: Steps after which a row is cut.
        rows: How many, where nothing is given.

    Returns:
        The tokens, shape ``(rows, steps)``, the last value after the end; and the logarithm of
        their probability, shape ``(rows,)``, nats.

    Raises:
        ValueError: If the width is below 1, or p has no such recurrence.
    """
    if width < 1 or longest < 1:
        raise ValueError(f"Beam search keeps at least 1 beginning, of 1 step, not {width}.")
    recurrent = _of(joint, name)
    count = len(next(iter(given.values()))) if rows is None else rows
    trace = joint(given, (count,), default=Sampled())
    known = {n: trace[n] if n in trace else given[n] for n in recurrent.inputs}
    walk = Unrolled(recurrent, known, (width, count), default=Sampled())
    like = next(joint.parameters())
    row, texts = torch.arange(count, device=like.device), like.new_zeros(width, count, 0)
    score = like.new_full((width, count), -torch.inf)
    score[0] = 0.0  # all beams begin alike
    over = torch.zeros_like(score, dtype=torch.bool)
    for t in range(longest):
        logits = _logits(walk, t, name)
        only = torch.full_like(logits, -torch.inf)
        only[..., int(recurrent.last)] = 0.0  # what has ended stays as it is
        total = score.unsqueeze(-1) + torch.where(over.unsqueeze(-1), only, logits)
        score, place = total.movedim(0, 1).flatten(1).topk(width)  # (rows, width)
        score, place = score.T, place.T
        parent, token = place // logits.shape[-1], place % logits.shape[-1]
        walk.change(partial(_chosen, parent=parent, row=row))
        walk.take(t, more={name: Site(token, batch_dims=2)})
        texts = torch.cat([texts[parent, row], token.unsqueeze(-1)], -1)
        over = over[parent, row] | (token == recurrent.last)
        if bool(over.all()):
            break
    best = score.argmax(0)
    return texts[best, row].long(), score[best, row]


def _logits(walk: Unrolled, t: int, name: str) -> Tensor:
    """Of the step that comes next, ``(width, rows, values)``; the walk stays where it is."""
    past, memories = dict(walk.past), {n: dict(e.memory) for n, e in walk.remembering.items()}
    leads = {n: each.lead for n, each in walk.remembering.items()}
    trace = walk.take(t)
    walk.past = past
    for n, network in walk.remembering.items():
        network.memory = memories.get(n, {})
        network.lead = leads.get(n, torch.Size())
    distribution = trace[name].distribution
    logits = getattr(base_of(distribution), "logits", None)
    if distribution is None or logits is None:
        raise ValueError(f"{name!r} has no logits, so its most probable values are not listed.")
    wide = base_of(expand_to(distribution, walk.shape, trace[name].batch_dims))
    return wide.logits


def _chosen(site: Site, parent: Tensor, row: Tensor) -> Site:
    """What a beam remembers is what the one does that it goes on from."""
    if site.batch_dims < 2:
        return site
    return site.changed(lambda each: each.expand(*parent.shape, *each.shape[2:])[parent, row])


def _of(joint: Any, name: str) -> Recurrent:
    for module in _recurrences(joint):
        if module.end == name:
            return module
    raise ValueError(
        f"Beam search goes through the steps of a Recurrent whose rows end by {name!r}, "
        f"end={{{name!r}: ...}}, and {joint} has none."
    )


def _recurrences(joint: Any) -> Iterator[Recurrent]:
    if isinstance(joint, Recurrent):
        yield joint
    for factor in joint.order if isinstance(joint, Joint) else []:
        module = joint.conditional(factor.names[0])
        if isinstance(module, Recurrent):
            yield module
